"""The facts about a session that policy decides by: a plain value, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from postroad_transport.config import Principal
from postroad_transport.policy.proof import PeerProof

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
    account_owns_name: bool = True
    """Whether the account's name stands for an address of its own, too."""
    auth_mechanism: str = ""
    client_certificate: bool = False
    """Whether the client showed a certificate in the TLS handshake, where one was asked for, good or not."""
    proof: PeerProof | None = None
    """What the client's certificate proves, where one was asked for, presented and looked at."""
    secured_domain: str = ""
    """The partner's domain that is proved for this transaction (spec.md 4)."""
