"""One tier's policy: every lookup that deciding needs, built once per configuration."""

from __future__ import annotations

from postroad_transport.config import TierConfig
from postroad_transport.policy.connectors import ConnectorTable
from postroad_transport.policy.domains import DomainTable


class TierPolicy:
    """A configuration with its lookups. Immutable once built; a reload builds another."""

    __slots__ = ("config", "connectors", "domains")

    def __init__(self, config: TierConfig) -> None:
        self.config = config
        self.connectors = ConnectorTable(config)
        self.domains = DomainTable(config.accepted_domains, hostname=config.hostname)
