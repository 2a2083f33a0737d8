"""GSSAPI (RFC 4752): who the client's Kerberos ticket says it is, an account or a legacy server.

The library (MIT Kerberos by ``gssapi``) is loaded where a keytab is configured, and works in threads of its own.
Nothing here asks a KDC: a ticket is checked with the keytab alone.
"""

from __future__ import annotations

import asyncio
import os
import re
import weakref
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.addresses import addresses
from postroad_transport.auth.exchange import Accepted, Rejected
from postroad_transport.auth.names import is_usable
from postroad_transport.auth.sasl import MALFORMED, Challenge, SaslError
from postroad_transport.config.files import ConfigError

T = TypeVar("T")

#: Seconds for one step. The library works on local data; only a stuck disk makes it slow.
STEP_SECONDS = 5.0
#: Steps that may wait or run at once.
MAX_PENDING = 64
_THREADS = 2

_NO_SECURITY_LAYER = bytes((1, 0, 0, 0))
_MAX_IDENTITY = 1024
# A principal as the library shows it; a backslash would escape something that no account name has.
_PRINCIPAL = re.compile(r"([^@\\\x00-\x20\x7f]+)@([^@\\\x00-\x20\x7f]+)")

# What MIT Kerberos gives as minor status, in signed 32 bits (krb5.h), and what it means for the log.
_REASONS = {
    -1765328347: "clock_skew",
    -1765328352: "ticket_expired",
    -1765328351: "ticket_not_yet_valid",
    -1765328340: "key_version",
    -1765328154: "key_version",
    -1765328339: "no_such_key",
    -1765328203: "no_such_key",
}


class KerberosError(Exception):
    """The ticket, or what came with it, is not good. ``reason`` is a label value."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KerberosService:
    """The tier as a service of Kerberos: ``smtp/HOST`` for every such principal of a keytab.

    Parameters
    ----------
    keytab
        The keytab's content.
    realms
        Realms whose principals are accounts here, named without the realm; those of other realms, trusted or not, are
        nobody. Empty: the realm of the service's own principal.

    Raises
    ------
    ConfigError
        The library is not installed.
    """

    def __init__(self, keytab: bytes, realms: Collection[str] = ()) -> None:
        self._realms = frozenset(realms)
        self._gssapi = load()
        # The library reads keytabs from files, for every ticket again: one that a reload takes away must not fail the
        # sessions that began before.
        self._keytab = os.memfd_create("keytab")
        with open(self._keytab, "wb", closefd=False) as file:
            file.write(keytab)
        weakref.finalize(self, os.close, self._keytab)
        self._credentials: Any = None
        self._pool = ThreadPoolExecutor(_THREADS, "kerberos")
        self._pending = 0

    async def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def call(self, step: Callable[[], T]) -> T:
        """Run `step` in a thread.

        Raises
        ------
        AuthUnavailableError
            Too much waits already, it takes too long, or the keytab cannot be used.
        KerberosError
            The client's token is not good.
        """
        if self._pending >= MAX_PENDING:
            raise AuthUnavailableError("too many tickets are being checked")
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, step)
        future.add_done_callback(self._done)
        try:
            # Shielded: a thread cannot be cancelled, and counts as busy until it ends.
            async with asyncio.timeout(STEP_SECONDS):
                return await asyncio.shield(future)
        except TimeoutError:
            raise AuthUnavailableError("checking a ticket takes too long") from None

    def accept(self) -> Acceptor:
        """Begin with one client. Blocks; raises AuthUnavailableError where the keytab cannot be used."""
        gssapi = self._gssapi
        if self._credentials is None:
            # No replay cache: see Acceptor.offer.
            store = {b"keytab": f"FILE:/proc/self/fd/{self._keytab}".encode(), b"rcache": b"none:"}
            try:
                self._credentials = gssapi.Credentials(usage="accept", mechs=[gssapi.MechType.kerberos], store=store)
            except gssapi.exceptions.GSSError as error:
                raise AuthUnavailableError(f"the keytab cannot be used: {error}") from error
        return Acceptor(gssapi, gssapi.SecurityContext(creds=self._credentials, usage="accept"))

    def account(self, client: str, service: str) -> str | None:
        """Return the account of the principal `client` of a ticket for `service`, None for a stranger.

        Raises
        ------
        KerberosError
            The ticket is for another service.
        """
        own, found = own_realm(service), _PRINCIPAL.fullmatch(client)
        if found is None or found[2] not in (self._realms or {own}) or not is_usable(found[1]):
            return None
        return found[1]

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._pending -= 1
        if not future.cancelled():
            # Nobody may be left to take it.
            future.exception()


class Acceptor:
    """The server's end of one GSS-API context. Every method blocks and may raise KerberosError."""

    def __init__(self, gssapi: Any, context: Any) -> None:
        self._gssapi = gssapi
        self._context = context

    def step(self, token: bytes) -> tuple[bytes, bool]:
        """Take the client's token; return ours, and whether the context is established."""

        def step() -> tuple[bytes, bool]:
            # Where there is a token for the error, the library raises that at the next look at the context.
            return self._context.step(token) or b"", bool(self._context.complete)

        return self._guarded(step)

    def names(self) -> tuple[str, str]:
        """Return the principals of client and service, once the context is established."""
        return self._guarded(lambda: (str(self._context.initiator_name), str(self._context.target_name)))

    def offer(self, *, overheard: bool) -> bytes:
        """Return the wrapped offer of security layers: none (RFC 4752 section 3.3).

        Where others can have `overheard` the exchange, a record of it must not be good for a second time. Then the
        client has to have asked for mutual authentication, and the token has to be of the newer form with a key that
        the acceptor chose for this context alone (RFC 4121 section 4.2.2: 05 04, flag AcceptorSubkey).
        """
        mutual = self._gssapi.RequirementFlag.mutual_authentication
        if overheard and not self._context.actual_flags & mutual:
            raise KerberosError("not_mutual")
        token: bytes = self._guarded(lambda: self._context.wrap(_NO_SECURITY_LAYER, False).message)
        if overheard and not (token[:2] == b"\x05\x04" and token[2] & 0x04):
            raise KerberosError("weak_encryption")
        return token

    def choice(self, token: bytes) -> bytes:
        """Return what the client has wrapped: its choice of a layer, a size, its authorisation identity."""
        return bytes(self._guarded(lambda: self._context.unwrap(token).message))

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except self._gssapi.exceptions.GSSError as error:
            raise KerberosError(_REASONS.get(_signed(error.min_code), "ticket")) from error


class Gssapi:
    """One run of GSSAPI as server (RFC 4752 section 3.2).

    Parameters
    ----------
    service
        Checks tickets.
    tls
        Whether the exchange runs under TLS, where nobody overhears it.
    address_template
        Holds ``{account}``: the address of every account; empty: none is known.
    servers
        The principals, with their realms, that are taken, each by this name and no other; None: the realms' accounts.
    """

    def __init__(
        self,
        service: KerberosService,
        *,
        tls: bool = False,
        address_template: str = "",
        servers: Collection[str] | None = None,
    ) -> None:
        self._service = service
        self._servers = servers
        self._tls = tls
        self._address_template = address_template
        self._acceptor: Acceptor | None = None
        self._established = False
        self._offered = False
        self._client = ""

    async def step(self, response: bytes | None) -> Challenge | Accepted | Rejected:
        """See :meth:`Exchange.step`."""
        if response is None:
            return Challenge(b"")
        try:
            if self._offered:
                return await self._decide(response)
            if self._established:
                if response:
                    raise SaslError(MALFORMED)
                return await self._offer()
            return await self._negotiate(response)
        except KerberosError as error:
            return Rejected(self._client, error.reason)

    async def _negotiate(self, token: bytes) -> Challenge:
        if self._acceptor is None:
            self._acceptor = await self._service.call(self._service.accept)
        acceptor = self._acceptor
        answer, self._established = await self._service.call(lambda: acceptor.step(token))
        if self._established and not answer:
            return await self._offer()
        return Challenge(answer)

    async def _offer(self) -> Challenge:
        acceptor = self._acceptor
        assert acceptor is not None  # noqa: S101  # established by it
        self._client, _ = await self._service.call(acceptor.names)
        self._offered = True
        return Challenge(await self._service.call(lambda: acceptor.offer(overheard=not self._tls)))

    async def _decide(self, token: bytes) -> Accepted | Rejected:
        acceptor = self._acceptor
        assert acceptor is not None  # noqa: S101  # offered by it
        chosen = await self._service.call(lambda: acceptor.choice(token))
        client, service = await self._service.call(acceptor.names)
        if len(chosen) < len(_NO_SECURITY_LAYER) or len(chosen) > _MAX_IDENTITY:
            raise SaslError(MALFORMED)
        if chosen[0] != _NO_SECURITY_LAYER[0]:
            return Rejected(client, "security_layer")
        account = self._account(client, service)
        if account is None:
            return Rejected(client, "realm" if self._servers is None else "not_listed")
        if chosen[4:] and chosen[4:].decode("utf-8", "replace") not in (account, client):
            # Nobody may act as somebody else.
            return Rejected(client, "authorization_identity")
        template = self._address_template
        own = addresses([template.replace("{account}", account)]) if template else ()
        # A name that makes no address of the template makes none at the default domain either.
        return Accepted(Account(account, own, owns_name=bool(own) or not template))

    def _account(self, client: str, service: str) -> str | None:
        if self._servers is None:
            return self._service.account(client, service)
        own_realm(service)
        return client if client in self._servers else None


def own_realm(service: str) -> str:
    """Return the realm of our own principal.

    Raises
    ------
    KerberosError
        It is not of ``smtp/``: the ticket is for another service of this host.
    """
    own = _PRINCIPAL.fullmatch(service)
    if own is None or not own[1].lower().startswith("smtp/"):
        raise KerberosError("wrong_service")
    return own[2]


@cache
def load() -> Any:
    """Return the ``gssapi`` package.

    Raises
    ------
    ConfigError
        It is not installed, or MIT Kerberos is not.
    """
    try:
        import gssapi
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"Kerberos needs the extra 'kerberos' (pip install 'postroad[kerberos]'): {error}"
        ) from error
    return gssapi


def _signed(code: int) -> int:
    return code - (1 << 32) if code >= 1 << 31 else code
