"""PLAIN (RFC 4616) and LOGIN (draft-murchison-sasl-login): the password itself, asked of a source."""

from __future__ import annotations

from typing import Protocol

from postroad_transport.auth.accounts import Account
from postroad_transport.auth.exchange import Accepted, Rejected
from postroad_transport.auth.names import SERVICE_ACCOUNT
from postroad_transport.auth.sasl import MALFORMED, Challenge, SaslError, text


class Passwords(Protocol):
    """Every source of passwords as one, for one client."""

    async def verify(self, username: str, password: str) -> Account | None:
        """Return the account, None where user or password is wrong. Raises AuthUnavailableError."""


class Plain:
    """``[authzid] NUL authcid NUL password`` in one response (RFC 4616 section 2)."""

    def __init__(self, source: Passwords) -> None:
        self._source = source

    async def step(self, response: bytes | None) -> Challenge | Accepted | Rejected:
        """See :meth:`Exchange.step`."""
        if response is None:
            return Challenge(b"")
        fields = response.split(b"\0")
        if len(fields) != 3:
            raise SaslError(MALFORMED)
        authzid, username, password = fields[0], text(fields[1]), text(fields[2])
        if authzid and authzid != fields[1]:
            # Nobody may act as somebody else, and the reply does not tell whether the password was right.
            return Rejected(username, "authorization_identity")
        return await checked(self._source, username, password)


class Login:
    """User name, then password, each asked for."""

    def __init__(self, source: Passwords) -> None:
        self._source = source
        self._username: str | None = None

    async def step(self, response: bytes | None) -> Challenge | Accepted | Rejected:
        """See :meth:`Exchange.step`."""
        if response is None:
            return Challenge(b"Username:")
        if self._username is None:
            self._username = text(response)
            return Challenge(b"Password:", username=self._username)
        return await checked(self._source, self._username, text(response))


async def checked(source: Passwords, username: str, password: str) -> Accepted | Rejected:
    """Ask `source`. Raises AuthUnavailableError."""
    account = await source.verify(username, password)
    if account is None:
        return Rejected(username)
    # With a service account's token any user name will do: it makes the address nobody's usual one.
    return Accepted(account, "" if account.name.startswith(SERVICE_ACCOUNT) else username)
