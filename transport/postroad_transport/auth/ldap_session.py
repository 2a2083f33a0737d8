"""Search and bind with one server of a directory (RFC 4511, RFC 4513). Blocking: for threads only."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ldap3
from ldap3.core.exceptions import LDAPException
from ldap3.utils.conv import escape_bytes

from postroad_transport.auth.accounts import Account
from postroad_transport.auth.addresses import addresses
from postroad_transport.auth.names import is_usable
from postroad_transport.config.directories import Ldap, LdapScope, LdapServer, LdapTls

log = logging.getLogger("postroad.auth")

_SCOPES: dict[LdapScope, Literal["BASE", "LEVEL", "SUBTREE"]] = {
    LdapScope.BASE: ldap3.BASE,
    LdapScope.ONE_LEVEL: ldap3.LEVEL,
    LdapScope.SUBTREE: ldap3.SUBTREE,
}
_SUCCESS = 0
_SIZE_LIMIT_EXCEEDED = 4
#: Result codes (RFC 4511 appendix A) of a bind that mean the user: noSuchObject, constraintViolation (locked, in 389
#: DS), inappropriateAuthentication (no password), invalidCredentials, insufficientAccessRights, unwillingToPerform
#: (disabled, in 389 DS).
_REFUSED = frozenset({32, 19, 48, 49, 50, 53})


class ServerFailedError(Exception):
    """The server is down, slow, or answers with what says nothing about the user. Holds no credentials."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Whom the tier searches as; an empty `dn` is nobody."""

    dn: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def read(cls, content: bytes) -> Credentials:
        """Read the content of a credentials file. Raises ValueError."""
        document = json.loads(content)
        return cls(document["username"], document["password"])


class Session:
    """Two connections with one server: one searches as the tier, on the other users' passwords are tried.

    Every method but :meth:`abort` belongs to one thread at a time.
    """

    def __init__(self, config: Ldap, server: LdapServer, credentials: Credentials, context: ssl.SSLContext) -> None:
        self._config = config
        self._server = server
        self._credentials = credentials
        self._context = context
        self._connections: list[ldap3.Connection] = []
        self._search: ldap3.Connection | None = None
        self._bind: ldap3.Connection | None = None
        self._aborted = False

    def check(self, username: str, password: str) -> Account | None:
        """Return the account whose entry is found by `username` and takes `password`.

        Raises
        ------
        ServerFailedError
            The server cannot tell.
        ValueError
            The password is empty: a server takes that for an anonymous bind and agrees (RFC 4513 section 5.1.2).
        """
        if not password:
            raise ValueError("the password is empty")
        try:
            entry = self._find(username)
            if entry is None or not self._takes(entry["dn"], password):
                return None
        except ServerFailedError:
            raise
        except Exception as error:
            # Whatever the library makes of what a server sends, or of a connection that is cut in another thread.
            raise ServerFailedError(f"{self._server.host}: {type(error).__name__}") from error
        return account_of(entry["raw_attributes"], self._config, entry["dn"])

    def abort(self) -> None:
        """Make whoever waits for the server stop waiting. May be called in any thread."""
        self._aborted = True
        for connection in tuple(self._connections):
            opened = connection.socket
            if opened is not None:
                with contextlib.suppress(OSError):
                    # Not TLS's own shutdown: the other thread is using that.
                    socket.socket.shutdown(opened, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close both connections."""
        for connection in self._connections:
            with contextlib.suppress(LDAPException, OSError):
                connection.strategy.close()

    def _find(self, username: str) -> Mapping[str, Any] | None:
        if self._search is None:
            connection = self._open(self._credentials.dn, self._credentials.password)
            if not connection.bind(read_server_info=False):
                raise ServerFailedError(
                    f"{self._server.host} refuses the bind to search: {connection.result['description']}"
                )
            self._search = connection
        self._search.search(
            self._config.base_dn,
            search_filter(self._config.filter, username),
            _SCOPES[self._config.scope],
            attributes=list(dict.fromkeys((self._config.account_attribute, *self._config.address_attributes))),
            # One more than is wanted, to see that there is more than one.
            size_limit=2,
            time_limit=math.ceil(self._config.operation_timeout),
        )
        result = self._search.result
        if result["result"] not in (_SUCCESS, _SIZE_LIMIT_EXCEEDED):
            raise ServerFailedError(f"{self._server.host} refuses the search: {result['description']}")
        entries = [item for item in self._search.response or () if item["type"] == "searchResEntry"]
        # A server that gave up has not said that there is no other.
        return entries[0] if len(entries) == 1 and result["result"] == _SUCCESS else None

    def _takes(self, dn: str, password: str) -> bool:
        if not dn:
            return False
        if self._bind is None:
            self._bind = self._open()
        # As octets: ldap3 would prepare text (RFC 4013), which can leave nothing of it: an anonymous bind.
        self._bind.rebind(dn, password.encode("utf-8", "surrogatepass"), ldap3.SIMPLE, read_server_info=False)
        result = self._bind.result
        if result["result"] == _SUCCESS:
            return True
        if result["result"] in _REFUSED:
            return False
        raise ServerFailedError(f"{self._server.host} does not decide on a bind: {result['description']}")

    def _open(self, user: str = "", password: str = "") -> ldap3.Connection:
        if self._aborted:
            raise ServerFailedError("the time is up")
        server = ldap3.Server(
            self._server.host,
            self._server.port,
            use_ssl=self._server.tls is LdapTls.LDAPS,
            tls=_Verified(self._context),
            get_info=ldap3.NONE,
            connect_timeout=self._config.connect_timeout,
        )
        connection = ldap3.Connection(
            server,
            user or None,
            password if user else None,
            authentication=ldap3.SIMPLE if user else ldap3.ANONYMOUS,
            client_strategy=ldap3.SYNC,
            auto_referrals=False,
            check_names=False,
            # The filter is escaped already.
            auto_escape=False,
            read_only=True,
            receive_timeout=math.ceil(self._config.operation_timeout),
        )
        self._connections.append(connection)
        connection.open(read_server_info=False)
        if self._server.tls is LdapTls.STARTTLS and not connection.start_tls(read_server_info=False):
            raise ServerFailedError(f"{self._server.host} does not take up TLS")
        return connection


class _Verified(ldap3.Tls):
    """TLS by the standard library alone: chain and name are verified in the handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._context = context

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        connection.socket = self._context.wrap_socket(connection.socket, server_hostname=connection.server.host)


def search_filter(template: str, username: str) -> str:
    """Return the filter for `username`: ``{user}``, and ``{local}`` and ``{domain}`` of one that is an address.

    Values are escaped (RFC 4515 section 3) octet by octet: ldap3 would take ``:=`` in a value for an operator, and
    strip its blanks.
    """
    local, at, domain = username.rpartition("@")
    values = {"{user}": username, "{local}": local if at else username, "{domain}": domain if at else ""}
    parts = []
    rest = template
    while rest:
        before, brace, after = rest.partition("{")
        parts.append(before)
        name, closing, beyond = after.partition("}")
        value = values.get(f"{{{name}}}") if closing else None
        parts.append(brace if value is None else escape_bytes(value.encode("utf-8", "surrogatepass")))
        rest = after if value is None else beyond
    return "".join(parts)


def account_of(attributes: Mapping[str, Sequence[bytes] | None], config: Ldap, dn: str) -> Account | None:
    """Return the account of an entry, None where it has no usable name; that is logged."""
    values = {name.lower(): [_text(value) for value in found or ()] for name, found in attributes.items()}
    names = values.get(config.account_attribute.lower(), [])
    if len(names) != 1 or not is_usable(names[0]):
        log.warning("the entry %r cannot log in: it has not one usable %s", dn, config.account_attribute)
        return None
    listed = (value for name in config.address_attributes for value in values.get(name.lower(), ()))
    return Account(names[0], addresses(listed))


def _text(value: bytes) -> str:
    # What is not UTF-8 is not printable either, and so passed over.
    return value.decode("utf-8", "surrogateescape")
