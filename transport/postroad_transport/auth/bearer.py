"""SASL mechanisms that carry a bearer token: OAUTHBEARER (RFC 7628) and XOAUTH2 (Google).

The token is a credential: it stands in no exception, no ``repr`` and no log line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.exchange import Accepted, ErrorChallenge, Rejected, TokenSource
from postroad_transport.auth.sasl import MALFORMED, Challenge, SaslError

#: RFC 6750 section 2.1: ``b64token``.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
#: RFC 7628 section 3.1: GS2 header (RFC 5801) without channel binding.
_GS2_HEADER = re.compile(r"[ny],(?:a=([^,\0]+))?,")
_SASL_NAME_ESCAPE = re.compile(r"=(2C|3D|)")
_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class BearerResponse:
    """What a client sent. `username` is whom it claims to be, `token` what it showed; either may be empty."""

    username: str
    token: str = field(repr=False)


def parse_oauthbearer(response: bytes) -> BearerResponse:
    """Read the client's response of OAUTHBEARER (RFC 7628 section 3.1).

    Raises
    ------
    SaslError
        It is not one, or asks for channel binding, which the mechanism does not have.
    """
    header, _, rest = _text(response).partition("\x01")
    match = _GS2_HEADER.fullmatch(header)
    if match is None:
        raise SaslError(MALFORMED)
    return BearerResponse(_sasl_name(match[1] or ""), _bearer(_pairs(rest).get("auth", "")))


def parse_xoauth2(response: bytes) -> BearerResponse:
    """Read the client's response of XOAUTH2: ``user=NAME ^A auth=Bearer TOKEN ^A ^A``.

    Raises
    ------
    SaslError
        It is not one.
    """
    pairs = _pairs(_text(response))
    if not pairs.get("user") or "auth" not in pairs:
        raise SaslError(MALFORMED)
    return BearerResponse(pairs["user"], _bearer(pairs["auth"]))


#: The parser of each mechanism, by its name in EHLO.
PARSERS: dict[str, Callable[[bytes], BearerResponse]] = {
    "OAUTHBEARER": parse_oauthbearer,
    "XOAUTH2": parse_xoauth2,
}


class BearerExchange:
    """One run of OAUTHBEARER or XOAUTH2.

    A token that is not good is answered with a challenge that says so in JSON (RFC 7628 section 3.2.2); the exchange
    fails with the client's answer to it, whatever that is.
    """

    def __init__(
        self,
        mechanism: str,
        sources: Sequence[TokenSource],
        *,
        scopes: Sequence[str] = (),
        configuration_url: str = "",
    ) -> None:
        """Take the sources to ask, and what the client is told where it fails.

        Parameters
        ----------
        scopes
            Scopes that a token needs.
        configuration_url
            Where the client can learn about the issuer (RFC 7628 section 3.2.2: ``openid-configuration``).
        """
        self._parse = PARSERS[mechanism]
        self._sources = sources
        # XOAUTH2 has an HTTP status where RFC 7628 has a word of RFC 6750 section 3.1.
        error = {"status": "401" if mechanism == "XOAUTH2" else "invalid_token", "schemes": "bearer"}
        if scopes:
            error["scope"] = " ".join(scopes)
        if configuration_url and mechanism == "OAUTHBEARER":
            error["openid-configuration"] = configuration_url
        self._error = json.dumps(error).encode("ascii")
        self._asked = False
        self._rejected: Rejected | None = None

    async def step(self, response: bytes | None) -> Challenge | Accepted | Rejected:
        """Take the client's next response; see :class:`postroad_transport.auth.exchange.Exchange`."""
        if self._rejected is not None:
            return self._rejected
        if response is None:
            if self._asked:
                raise SaslError(MALFORMED)
            self._asked = True
            return Challenge(b"")
        claim = self._parse(response)
        account = await identify(self._sources, claim.token, claim.username) if claim.token else None
        if account is not None:
            return Accepted(account)
        self._rejected = Rejected(claim.username, "token")
        return ErrorChallenge(self._error, self._rejected)


async def identify(sources: Sequence[TokenSource], token: str, username: str) -> Account | None:
    """Ask each source in turn whose token it is.

    Raises
    ------
    AuthUnavailableError
        No source knows it, and one could not tell.
    """
    unclear: AuthUnavailableError | None = None
    for source in sources:
        try:
            account = await source.verify_token(token, username)
        except AuthUnavailableError as error:
            unclear = error
            continue
        if account is not None:
            return account
    if unclear is not None:
        raise unclear
    return None


def _text(response: bytes) -> str:
    try:
        return response.decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError(MALFORMED) from None


def _pairs(text: str) -> dict[str, str]:
    """Return the key-value pairs, each of which a ^A ends; one more ^A ends them all."""
    if not text.endswith("\x01"):
        raise SaslError(MALFORMED)
    *lines, last, _ = text.split("\x01")
    if last:
        raise SaslError(MALFORMED)
    pairs: dict[str, str] = {}
    for pair in lines:
        key, equals, value = pair.partition("=")
        if not equals or not (key.isascii() and key.isalpha()) or key in pairs:
            raise SaslError(MALFORMED)
        pairs[key] = value
    return pairs


def _bearer(value: str) -> str:
    """Return the token of ``Bearer TOKEN``, empty where nothing was shown (RFC 7628 section 4.3)."""
    if not value:
        return ""
    token = value[len(_SCHEME) :].strip(" ")
    if value[: len(_SCHEME)].lower() != _SCHEME or not _TOKEN.fullmatch(token):
        raise SaslError(MALFORMED)
    return token


def _sasl_name(encoded: str) -> str:
    def plain(match: re.Match[str]) -> str:
        if not match[1]:
            raise SaslError(MALFORMED)
        return "," if match[1] == "2C" else "="

    return _SASL_NAME_ESCAPE.sub(plain, encoded)
