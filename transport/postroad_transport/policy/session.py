"""The facts about a session that policy decides by: a plain value, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from postroad_transport.config import Principal

ANONYMOUS = frozenset({str(Principal.ANONYMOUS)})


@dataclass(slots=True)
class SessionFacts:
    """What is known of a session at some moment.

    ``principals`` holds :class:`Principal` values and ``user:NAME``; authentication replaces it (spec.md 1).
    """

    remote_ip: str
    local_port: int
    helo: str = ""
    tls: bool = False
    principals: frozenset[str] = ANONYMOUS
    account: str = ""
    """Login name; empty for anonymous and server sessions."""
    account_addresses: tuple[str, ...] = ()
    """Addresses the account owns; ``*@example.com`` is a wildcard."""
    auth_mechanism: str = ""
