"""The message as the tier carries it: an envelope, per-recipient state, and content.

Content is bytes exactly as they go on the wire (CRLF line ends, no dot-stuffing), as one or more chunks so
that headers can be put in front of a large body without copying it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class RecipientState(StrEnum):
    """Where one recipient stands."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"


class Body(StrEnum):
    """The BODY= parameter of MAIL (RFC 6152, RFC 3030)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"
    BINARY_MIME = "BINARYMIME"


class Recipient(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One recipient and how far delivery has come. Times are seconds since the epoch."""

    address: str
    """As it will be delivered (aliases applied); ``local@domain``, domain lower-case A-label or U-label."""
    original: str = ""
    """What RCPT TO said, where that differs."""
    notify: tuple[str, ...] = ()
    """NOTIFY= values (RFC 3461): NEVER, or any of SUCCESS, FAILURE, DELAY; empty: the default."""
    orcpt: str = ""
    """ORCPT= as sent, xtext kept (RFC 3461)."""
    state: RecipientState = RecipientState.QUEUED
    attempts: int = 0
    next_attempt: float = 0.0
    reply: str = ""
    """The last reply or error, one line, for the queue listing and for notices."""
    remote: str = ""
    """The host that gave `reply`."""
    delay_notified: bool = False


class Envelope(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Everything about a message but its content. ``sender`` is empty for the null reverse-path."""

    id: str
    received_at: float
    sender: str
    recipients: list[Recipient]
    size: int = 0
    """Bytes of content, added headers included."""
    body: Body = Body.SEVEN_BIT
    smtputf8: bool = False
    require_tls: bool = False
    ret: str = ""
    """RET= (FULL or HDRS, RFC 3461)."""
    envid: str = ""
    """ENVID= as sent, xtext kept (RFC 3461)."""
    submitter: str = ""
    """AUTH= as sent, xtext kept, where the client is trusted to say who submitted the message (RFC 4954)."""
    priority: int = 0
    """MT-PRIORITY= where the client is trusted to say it (RFC 6710): -9 to 9."""
    connector: str = ""
    """Name of the receive connector, or ``dsn`` for our own notices."""
    client: str = ""
    """Client address, for tracking."""
    account: str = ""
    """Authenticated account, for tracking."""
    auth_as: str = "Anonymous"
    """Message stamp (spec.md 6)."""
    held: bool = False
    hops: int = 0


Chunk = bytes | bytearray | memoryview

Content = Sequence[Chunk]
"""Chunks which, joined, are the message."""


class PlainContent(tuple[Chunk, ...]):
    """Content that goes through DATA as it is: all lines end with CRLF, the last too, and none begins with a dot.

    What receiving has found out need not be found out again for every delivery.
    """

    __slots__ = ()


def content_size(content: Content) -> int:
    """Return the number of bytes in `content`."""
    return sum(map(len, content))
