"""What a next hop is to the queue: something that takes a message for some recipients and says how it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from postroad_transport.message import Content, Envelope, Recipient


class Result(StrEnum):
    """How one attempt for one recipient ended."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one attempt for one recipient."""

    result: Result
    reply: str
    """The peer's reply, or the error, as one line that starts with a code and an enhanced code where known:
    ``450 4.2.0 mailbox busy``, ``451 4.4.1 connection refused``."""
    remote: str = ""
    """``host[address]:port`` of the peer; empty when none was reached."""
    tls: str = ""
    """TLS version of the session, empty in clear."""
    dsn: bool = False
    """The peer took the DSN parameters, and with them the duty to notify of success (RFC 3461 section 5.2.1)."""
    converted: str = ""
    """The BODY that the content was converted to for the peer; empty: it went as it was."""


class Hop(Protocol):
    """Delivers to one destination. Instances are long-lived and keep connections open between calls."""

    async def deliver(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: Content
    ) -> Sequence[Outcome]:
        """Try once. Return one outcome per recipient, in order. Never raises for anything a peer does."""

    async def close(self) -> None:
        """Let go of connections (QUIT where a session is idle)."""
