"""SASL server mechanisms PLAIN (RFC 4616) and LOGIN, without I/O, as SMTP AUTH frames them (RFC 4954).

A mechanism is stepped with what stands on the wire (base64, no CRLF) and answers with the next challenge or
with the credentials. Whether these are good is not decided here.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass, field

from postroad_transport.policy.reply import Reply

#: Longest response line in octets, without CRLF (RFC 4954 section 4).
MAX_RESPONSE = 12_286

CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
NOT_BASE64 = Reply(501, "5.5.2", "Cannot decode the response")
MALFORMED = Reply(501, "5.5.2", "Malformed authentication response")
TOO_LONG = Reply(500, "5.5.6", "Authentication exchange line is too long")
UNKNOWN_MECHANISM = Reply(504, "5.5.4", "Unrecognized authentication type")
UNSUCCESSFUL = Reply(535, "5.7.3", "Authentication unsuccessful")
OUT_OF_SEQUENCE = Reply(503, "5.5.1", "The authentication exchange is over")


class SaslError(Exception):
    """The exchange is over and failed; `reply` goes to the client. Never holds anything the client sent."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.line)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the server says next, not yet encoded."""

    data: bytes

    def encode(self) -> bytes:
        """Return the challenge as a 334 reply on the wire."""
        return b"334 " + binascii.b2a_base64(self.data, newline=False) + b"\r\n"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the client claims to be. The password is kept out of ``repr``."""

    mechanism: str
    username: str
    password: str = field(repr=False)


class SaslServer:
    """One exchange. Not reusable."""

    name: str

    def __init__(self) -> None:
        self._started = False
        self._over = False

    def step(self, response: bytes | None) -> Challenge | Credentials:
        """Take the client's next response and say what follows.

        Parameters
        ----------
        response
            First call: the initial response of the AUTH command, None when there was none. Later calls:
            the line that answered the challenge. Base64 as received, without CRLF.

        Raises
        ------
        SaslError
            The response is not base64, too long, malformed or ``*``; or the exchange was over already.
        """
        if self._over:
            raise SaslError(OUT_OF_SEQUENCE)
        self._over = True
        initial, self._started = not self._started, True
        data = None if response is None else _decode(response, initial=initial)
        answer = self._respond(data)
        self._over = isinstance(answer, Credentials)
        return answer

    def _respond(self, data: bytes | None) -> Challenge | Credentials:
        raise NotImplementedError


class Plain(SaslServer):
    """``[authzid] NUL authcid NUL password`` in one response (RFC 4616 section 2)."""

    name = "PLAIN"

    def _respond(self, data: bytes | None) -> Challenge | Credentials:
        if data is None:
            return Challenge(b"")
        fields = data.split(b"\0")
        if len(fields) != 3:
            raise SaslError(MALFORMED)
        authzid, authcid, password = fields
        credentials = Credentials(self.name, _text(authcid), _text(password))
        if authzid and authzid != authcid:
            # Nobody may act as somebody else, and the reply does not tell whether the password was right.
            raise SaslError(UNSUCCESSFUL)
        return credentials


class Login(SaslServer):
    """User name, then password, each asked for (draft-murchison-sasl-login)."""

    name = "LOGIN"

    def __init__(self) -> None:
        super().__init__()
        self._username: str | None = None

    def _respond(self, data: bytes | None) -> Challenge | Credentials:
        if data is None:
            return Challenge(b"Username:")
        if self._username is None:
            self._username = _text(data)
            return Challenge(b"Password:")
        return Credentials(self.name, self._username, _text(data))


_MECHANISMS: dict[str, Callable[[], SaslServer]] = {"PLAIN": Plain, "LOGIN": Login}

#: Mechanism names as EHLO lists them.
MECHANISMS = tuple(_MECHANISMS)


def mechanism(name: str) -> SaslServer:
    """Start an exchange of the mechanism called `name`, in any case.

    Raises
    ------
    SaslError
        504: there is no such mechanism.
    """
    factory = _MECHANISMS.get(name.upper())
    if factory is None:
        raise SaslError(UNKNOWN_MECHANISM)
    return factory()


def _decode(response: bytes, *, initial: bool) -> bytes:
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


def _text(data: bytes) -> str:
    if not data or b"\0" in data:
        raise SaslError(MALFORMED)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError(MALFORMED) from None
