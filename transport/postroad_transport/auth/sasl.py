"""How SMTP frames a SASL exchange: base64 lines, challenges, and what may go wrong with them (RFC 4954)."""

from __future__ import annotations

import binascii
from dataclasses import dataclass, field

from postroad_transport.policy.reply import Reply

#: Longest response line in octets, without CRLF (RFC 4954 section 4).
MAX_RESPONSE = 12_286

CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
NOT_BASE64 = Reply(501, "5.5.2", "Cannot decode the response")
MALFORMED = Reply(501, "5.5.2", "Malformed authentication response")
TOO_LONG = Reply(500, "5.5.6", "Authentication exchange line is too long")
UNKNOWN_MECHANISM = Reply(504, "5.5.4", "Unrecognized authentication type")


class SaslError(Exception):
    """The exchange is over and failed; `reply` goes to the client. Never holds anything the client sent."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.line)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the server says next, not yet encoded."""

    data: bytes
    username: str = field(default="", kw_only=True)
    """Whom the client claims to be, where that is known by now: an account that is closed to it ends here."""

    def encode(self) -> bytes:
        """Return the challenge as a 334 reply on the wire."""
        return b"334 " + binascii.b2a_base64(self.data, newline=False) + b"\r\n"


def decode(response: bytes, *, initial: bool = False) -> bytes:
    """Return what a response line says.

    Parameters
    ----------
    response
        The line as received, without CRLF.
    initial
        Whether it stands behind the mechanism's name, where ``=`` is an empty response and ``*`` means nothing.

    Raises
    ------
    SaslError
        The line is ``*``, too long, or not base64.
    """
    if response == b"*" and not initial:
        raise SaslError(CANCELLED)
    if len(response) > MAX_RESPONSE:
        raise SaslError(TOO_LONG)
    if initial and response == b"=":
        return b""
    try:
        return binascii.a2b_base64(response, strict_mode=True)
    except binascii.Error:
        raise SaslError(NOT_BASE64) from None


def text(data: bytes) -> str:
    """Return the name or password that `data` holds.

    Raises
    ------
    SaslError
        It is empty, holds a NUL, or is not UTF-8.
    """
    if not data or b"\0" in data:
        raise SaslError(MALFORMED)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError(MALFORMED) from None
