"""What a message is given before it goes on (RFC 6409 section 8), and what of its client's word is passed on."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime

from postroad_transport.config import Permission

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


def passed_on(submitter: str, priority: int, permissions: frozenset[Permission], *, account: str) -> tuple[str, int]:
    """Return what is passed on of a client's word for a message's submitter (AUTH=) and priority (MT-PRIORITY=).

    Parameters
    ----------
    permissions
        The session's receive permissions. ``SMTP-Accept-Authentication-Flag`` is the trust to say for others that
        they were authenticated.
    account
        The session's login name, empty for none.

    Notes
    -----
    RFC 4954 section 5: of a client that is not trusted in this the server acts as if it had said ``AUTH=<>``.
    RFC 6710, security considerations: only authenticated users and trusted servers may ask for a priority.
    """
    trusted = Permission.ACCEPT_AUTHENTICATION_FLAG in permissions
    return submitter if trusted else "", priority if trusted or account else 0
