"""The proof that a connector is no open relay."""

from __future__ import annotations

from typing import NamedTuple

from postroad_transport.config import ReceiveConnector


class Finding(NamedTuple):
    """One way in which anyone may relay through a connector."""

    principal: str
    origins: tuple[str, ...]
    range: str
    message: str


def open_relay_grants(
    connector: ReceiveConnector, tier_ranges: tuple[str, ...], *, client_addresses_visible: bool = True
) -> tuple[Finding, ...]:
    """Return every way in which a principal that anyone can be may relay; empty is the proof."""
    raise NotImplementedError
