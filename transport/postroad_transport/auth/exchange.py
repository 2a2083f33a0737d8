"""The contract between AUTH on the wire, the SASL mechanisms, and the sources that know the accounts.

A mechanism is stepped with the client's decoded responses until it says who the client is. It asks a *source*
(htpasswd lines, a directory, an issuer of tokens) and never sees the connection; the wire code never sees a password.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from postroad_transport.auth.accounts import Account
from postroad_transport.auth.fair_queue import Origin
from postroad_transport.auth.sasl import Challenge


@dataclass(frozen=True, slots=True)
class Channel:
    """What a mechanism may know of the connection it runs on."""

    remote_ip: str
    tls: bool = False
    known: bool = False
    """Somebody has logged in from the address lately: what it asks comes first."""
    suspect: bool = False
    """It has failed to log in lately: what it asks may wait."""
    client_chain: tuple[bytes, ...] = field(default=(), repr=False)
    """DER of the certificates that the client showed in the TLS handshake. It holds the key of the first; nothing of
    them is checked against any authority yet."""
    binding: Callable[[str], bytes | None] = lambda _: None
    """Channel binding data by type: ``tls-server-end-point`` (RFC 5929), ``tls-exporter`` (RFC 9266)."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The client is `account`. `username` is what it called itself, where that may be another name: for bans."""

    account: Account
    username: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The credentials are not good: 535 5.7.3. `username` is what the client claimed to be, for log and bans."""

    username: str = ""
    reason: str = "credentials"
    """A label value for metrics and the log, never for the client."""


@dataclass(frozen=True, slots=True)
class ErrorChallenge(Challenge):
    """A challenge that tells of a failure (RFC 7628 section 3.2.3): whatever the answer, the client is `rejected`.

    To be preferred over a plain challenge there, because a client that cancels or hangs up has failed all the same.
    """

    rejected: Rejected = Rejected()


class Exchange(Protocol):
    """One run of a SASL mechanism. Not reusable."""

    async def step(self, response: bytes | None) -> Challenge | Accepted | Rejected:
        """Take the client's next response and say what follows.

        Parameters
        ----------
        response
            First call: the initial response, None when the AUTH command held none. Later: the answer to the
            challenge. Base64 is already decoded and ``*`` never arrives.

        Raises
        ------
        SaslError
            The response is malformed; the error's reply goes to the client.
        AuthUnavailableError
            A source is down, slow or unclear: 454 4.7.0. Never a rejection, never a hung session: every source
            limits its own time.
        """


class PasswordSource(Protocol):
    """Knows whether a password is right: LDAP, service accounts by their tokens."""

    async def verify(self, username: str, password: str, origin: Origin, /) -> Account | None:
        """Return the account, None where user or password is wrong. Raises AuthUnavailableError.

        `origin` says who asks, for a source that can be asked too much.
        """


class TokenSource(Protocol):
    """Knows whom a bearer token belongs to: an OpenID provider, the Kubernetes API."""

    async def verify_token(self, token: str, username: str) -> Account | None:
        """Return the token's account, None where it is not good or not `username`'s (empty: not claimed).

        Raises AuthUnavailableError.
        """
