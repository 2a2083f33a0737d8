"""Receive connectors as lookups: which one takes a session, and what the session may do there."""

from __future__ import annotations

from postroad_transport.config import Permission, ReceiveConnector, TierConfig
from postroad_transport.policy.session import SessionFacts


class ConnectorPolicy:
    """One receive connector and the permissions it grants."""

    def __init__(self, config: ReceiveConnector) -> None:
        self.config = config

    def permissions(self, session: SessionFacts) -> frozenset[Permission]:
        """Return what `session` may do here."""
        raise NotImplementedError


class ConnectorTable:
    """Selects the connector of a session."""

    def __init__(self, config: TierConfig) -> None:
        raise NotImplementedError

    def select(self, port: int, remote_ip: str) -> ConnectorPolicy | None:
        """Return the connector bound to `port` whose remote range holds `remote_ip` most specifically."""
        raise NotImplementedError
