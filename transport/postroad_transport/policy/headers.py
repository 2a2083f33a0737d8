"""The header firewall and the message stamps (spec.md 1.1, 1.2 and 6)."""

from __future__ import annotations

from typing import NamedTuple

from postroad_transport.config import Permission
from postroad_transport.message import Content
from postroad_transport.policy.address import Mailbox
from postroad_transport.policy.session import SessionFacts


class HeaderReport:
    """What one look at a header block found."""

    header_end: int
    hops: int
    header_size: int
    stripped: tuple[str, ...]
    kept: list[memoryview | bytes] | None

    @property
    def from_mailboxes(self) -> tuple[Mailbox, ...]:
        """The mailboxes of ``From`` and ``Sender``, parsed when asked for."""
        raise NotImplementedError


def inspect(content: bytes | bytearray, permissions: frozenset[Permission], *, hostname: str) -> HeaderReport:
    """Look at a received message's header."""
    raise NotImplementedError


class Outbound(NamedTuple):
    """A message as it may leave through a send connector."""

    content: Content
    stripped: tuple[str, ...]


def outbound(content: Content, permissions: frozenset[Permission]) -> Outbound:
    """Strip what may not leave."""
    raise NotImplementedError


def auth_as(session: SessionFacts, permissions: frozenset[Permission], report: HeaderReport) -> str:
    """Return the message's AuthAs value (Anonymous, Internal, External, Partner)."""
    raise NotImplementedError


def stamps(
    session: SessionFacts, permissions: frozenset[Permission], report: HeaderReport, *, hostname: str
) -> bytes:
    """Return the stamp header lines to put in front of the message; empty where its own are believed."""
    raise NotImplementedError
