"""What a message that a user hands in is given before it goes on (RFC 6409 section 8)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime

_has_date = re.compile(rb"\ndate[ \t]*+:").search
_has_message_id = re.compile(rb"\nmessage-id[ \t]*+:").search


def missing_fields(content: bytes | bytearray, header_end: int, *, identifier: str, host: str, now: float) -> bytes:
    """Return the ``Date`` and ``Message-ID`` fields that a submitted message lacks, as lines to put in front.

    Parameters
    ----------
    header_end
        Offset in `content` just after the header's blank line.
    identifier, host
        What the Message-ID is made of.
    now
        Seconds since the epoch.

    Notes
    -----
    RFC 6409 sections 8.2 and 8.3; RFC 5322 sections 3.6.1 and 3.6.4.
    """
    header = b"\n" + content[:header_end].lower()
    lines = b""
    if not _has_date(header):
        lines = f"Date: {format_datetime(datetime.fromtimestamp(int(now), UTC))}\r\n".encode()
    if not _has_message_id(header):
        lines += f"Message-ID: <{identifier}@{host}>\r\n".encode()
    return lines
