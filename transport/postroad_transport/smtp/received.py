"""The trace header that receiving adds (RFC 5321 section 4.4), and the identifier in it."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: sorts like the number, has no letters that look like digits."""
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def message_id(now: float, random_bits: int) -> str:
    """Return an identifier of 17 letters and digits that sorts by time.

    Parameters
    ----------
    now : float
        Seconds since the epoch; counts to the millisecond.
    random_bits : int
        40 random bits, which keep identifiers of one millisecond apart, also between workers and pods.
    """
    low, pairs = random_bits & (1 << 40) - 1, _PAIRS
    milliseconds = int(now * 1000)
    return (
        f"{_prefix(milliseconds >> 10)}{pairs[milliseconds & 1023]}"
        f"{pairs[low >> 30]}{pairs[low >> 20 & 1023]}{pairs[low >> 10 & 1023]}{pairs[low & 1023]}"
    )


@lru_cache(maxsize=4)
def _prefix(moment: int) -> str:
    """Return the letters that stay the same for 1,024 milliseconds."""
    high, pairs = moment & (1 << 35) - 1, _PAIRS
    return f"{_ALPHABET[high >> 30]}{pairs[high >> 20 & 1023]}{pairs[high >> 10 & 1023]}{pairs[high & 1023]}"


def address_literal(ip: str) -> str:
    """Return an address as a literal (RFC 5321 section 4.1.3)."""
    return f"[IPv6:{ip}]" if ":" in ip else f"[{ip}]"


def transmission_type(*, extended: bool, tls: bool, authenticated: bool, smtputf8: bool) -> str:
    """Return the word after ``with`` (RFC 3848, RFC 6531 section 4.3)."""
    if not extended:
        return "SMTP"
    return ("UTF8SMTP" if smtputf8 else "ESMTP") + ("S" if tls else "") + ("A" if authenticated else "")


@lru_cache(maxsize=4)
def _date(seconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))


def received_header(
    *, helo: str, client: str, by: str, protocol: str, tls: str, message: str, recipient: str, now: float
) -> bytes:
    """Return the ``Received:`` header, CRLF included.

    Parameters
    ----------
    tls : str
        TLS version and cipher for the comment, such as ``TLSv1.3 TLS_AES_256_GCM_SHA384``; empty in clear.
    recipient : str
        The message's only recipient; empty where there are several, so that none learns of another.
    """
    secured = f"\r\n\t({tls})" if tls else ""
    to = f"\r\n\tfor <{recipient}>" if recipient else ""
    return (
        f"Received: from {helo} ({address_literal(client)})\r\n\tby {by} with {protocol} id {message}"
        f"{secured}{to};\r\n\t{_date(int(now))}\r\n"
    ).encode()
