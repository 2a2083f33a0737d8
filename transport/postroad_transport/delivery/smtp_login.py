"""AUTH as client (RFC 4954): which mechanism of those offered, and what is said in it. Without I/O.

A run of a mechanism is a generator: it yields what to answer (before base64) and is sent the server's challenges.
It raises :class:`LoginError` for a server that breaks the mechanism, and ends where there is nothing more to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import msgspec

from postroad_transport.tls.binding import end_point

Run = Generator[bytes, bytes, None]
MAX_ITERATIONS = 1_000_000
"""SCRAM iterations a server may ask for: about half a second of work."""


class LoginError(Exception):
    """The server does not keep to the mechanism; it is not to be trusted with mail."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What to log in with: a password, or an access token (RFC 6750). Neither shows in ``repr``."""

    username: str
    password: str = ""
    access_token: str = ""

    def __post_init__(self) -> None:
        if not self.username or not (self.password or self.access_token):
            raise ValueError("a user name and a password or an access token are needed")

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run needs besides the credentials: the host dialled, and the server's certificate (DER) under TLS."""

    host: str
    port: int
    certificate: bytes | None = None


def choose(offered: Iterable[str], credentials: Credentials, *, tls: bool, bound: bool = False) -> tuple[str, ...]:
    """Return the mechanisms to try, the strongest first; empty: none that is offered will do.

    A token goes by OAUTHBEARER or XOAUTH2, and only under TLS. A password goes by SCRAM (RFC 7677) where the server
    has it, and else by PLAIN or LOGIN. Under TLS these follow a SCRAM that failed, too: servers that check passwords
    elsewhere often offer SCRAM all the same and can never accept it. In clear they do not.

    Parameters
    ----------
    offered
        Mechanism names from EHLO, in upper case.
    tls
        Whether the session is encrypted.
    bound
        Whether the server's certificate is known, so that SCRAM can be bound to it (RFC 5929).
    """
    names = frozenset(offered)
    if credentials.access_token:
        if not tls:
            # RFC 6750 section 5.2: whoever reads a token can use it.
            return ()
        return next(((name,) for name in ("OAUTHBEARER", "XOAUTH2") if name in names), ())
    scram = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256") if bound else ("SCRAM-SHA-256",)
    strong = [name for name in scram if name in names]
    plain = [name for name in ("PLAIN", "LOGIN") if name in names]
    return (*strong[:1], *(plain[:1] if tls or not strong else ()))


def run(mechanism: str, credentials: Credentials, terms: Terms) -> Run:
    """Start a run of a mechanism that :func:`choose` has named."""
    return _RUNS[mechanism](credentials, terms)


def advance(answers: Run, challenge: bytes | None) -> bytes:
    """Return the answer to `challenge`, None for the first. May take half a second (SCRAM).

    Raises
    ------
    LoginError
        The challenge is not what the mechanism has there, or the server asks for more than it has.
    """
    try:
        return next(answers) if challenge is None else answers.send(challenge)
    except StopIteration:
        raise LoginError("the server asks for more than the mechanism has") from None


def has_initial_response(mechanism: str) -> bool:
    """Tell whether the first answer goes with the AUTH command itself; LOGIN waits to be asked."""
    return mechanism != "LOGIN"


def answers_needed(mechanism: str) -> int:
    """Return how many answers come before a 235 may be believed: with SCRAM the server proves itself first."""
    return 3 if mechanism.startswith("SCRAM-") else 1


def _plain(credentials: Credentials, _: Terms) -> Run:
    """RFC 4616."""
    yield f"\0{credentials.username}\0{credentials.password}".encode()


def _login(credentials: Credentials, _: Terms) -> Run:
    """draft-murchison-sasl-login."""
    yield credentials.username.encode()
    yield credentials.password.encode()


def _xoauth2(credentials: Credentials, _: Terms) -> Run:
    """Google's and Microsoft's bearer token mechanism. A challenge is an error, answered with nothing."""
    yield f"user={credentials.username}\x01auth=Bearer {credentials.access_token}\x01\x01".encode()
    yield b""


def _oauthbearer(credentials: Credentials, terms: Terms) -> Run:
    """RFC 7628. A challenge is an error, answered with %x01 (section 3.2.3)."""
    user = credentials.username.replace("=", "=3D").replace(",", "=2C")
    target = f"host={terms.host}\x01port={terms.port}\x01"
    yield f"n,a={user},\x01{target}auth=Bearer {credentials.access_token}\x01\x01".encode()
    yield b"\x01"


def _scram(mechanism: str) -> Callable[[Credentials, Terms], Run]:
    def scram(credentials: Credentials, terms: Terms) -> Run:
        """RFC 5802 with SHA-256 (RFC 7677)."""
        # Loaded where a smart host offers it: nobody else pays for the import.
        from scramp import ScramClient, ScramException

        binding = ("tls-server-end-point", end_point(terms.certificate)) if terms.certificate else None
        try:
            client = ScramClient([mechanism], credentials.username, credentials.password, channel_binding=binding)
            first = yield client.get_client_first().encode()
            client.set_server_first(first.decode())
            if int(client.iterations) > MAX_ITERATIONS:
                raise LoginError(f"{mechanism}: {client.iterations} iterations are too many")
            final = yield client.get_client_final().encode()
            client.set_server_final(final.decode())
        except (ScramException, UnicodeDecodeError, ValueError) as error:
            raise LoginError(f"{mechanism}: the server's answer does not prove that it knows the password") from error
        yield b""

    return scram


_RUNS: dict[str, Callable[[Credentials, Terms], Run]] = {
    "PLAIN": _plain,
    "LOGIN": _login,
    "XOAUTH2": _xoauth2,
    "OAUTHBEARER": _oauthbearer,
    "SCRAM-SHA-256": _scram("SCRAM-SHA-256"),
    "SCRAM-SHA-256-PLUS": _scram("SCRAM-SHA-256-PLUS"),
}
