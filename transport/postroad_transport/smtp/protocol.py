"""A drop-in :class:`aiosmtpd.smtp.SMTP`: same constructor, session, envelope, handler hooks and replies.

What is different is underneath (:mod:`.connection`), and where aiosmtpd 1.4.6 is wrong: exceptions are not
shown to clients, a half-closed connection keeps its commit, the timer does not cut a message that is coming
in, commands end at CRLF only, limits belong to one connection, AUTH works on implicit TLS and with an
asynchronous authenticator, and MAIL and RCPT parameters are kept as sent.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import socket
import ssl
import warnings
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from typing import Any

from aiosmtpd import __version__
from aiosmtpd import smtp as upstream
from aiosmtpd.proxy_protocol import get_proxy
from aiosmtpd.smtp import ALLOWED_BEFORE_STARTTLS, BOGUS_LIMIT, MISSING, sanitized_log

from postroad_transport.smtp import hooks
from postroad_transport.smtp.commands import Commands
from postroad_transport.smtp.connection import Connection, Disconnected, tls_facts
from postroad_transport.smtp.lines import Flaw
from postroad_transport.smtp.reader import BufferReader
from postroad_transport.smtp.writer import ReplyWriter

log = logging.getLogger("mail.log")

EXCEPTION_REPLY = "451 4.3.0 Error: local problem, try again later"
_IDENT = f"Python SMTP {__version__}"


class SMTP(Commands):
    """One server-side SMTP connection. See :class:`aiosmtpd.smtp.SMTP` for the parameters.

    ``authenticator`` and ``auth_callback`` may be coroutine functions. An exception that the handler's
    ``handle_exception`` does not answer is answered with a 451 that says nothing about it.
    """

    line_too_long_reply = b"500 Command line too long\r\n"
    bare_line_end_reply = b"500 5.5.2 Error: bare <CR> or <LF> received\r\n"
    refuse_bare_line_ends = False
    """Refuse content with a CR or LF outside of CRLF."""

    def __init__(
        self,
        handler: Any,
        *,
        data_size_limit: int | None = upstream.DATA_SIZE_DEFAULT,
        enable_SMTPUTF8: bool = False,  # noqa: N803 (aiosmtpd's name)
        decode_data: bool = False,
        hostname: str | None = None,
        ident: str | None = None,
        tls_context: ssl.SSLContext | None = None,
        require_starttls: bool = False,
        timeout: float = 300,
        auth_required: bool = False,
        auth_require_tls: bool = True,
        auth_exclude_mechanism: Iterable[str] | None = None,
        auth_callback: Callable[[str, bytes, bytes], bool | Awaitable[bool]] | None = None,
        command_call_limit: int | dict[str, int] | None = None,
        authenticator: Callable[..., Any] | None = None,
        proxy_protocol_timeout: float | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # The superclass's constructor is not called: it reflects over handler and class, and makes the stream
        # objects that `Connection` replaces. What it sets is set here.
        self.__ident__ = ident or _IDENT
        self._open(loop or upstream.make_loop())
        self.event_handler = handler
        self.data_size_limit = data_size_limit
        self.enable_SMTPUTF8 = enable_SMTPUTF8
        self._decode_data = decode_data
        self.command_size_limits = collections.defaultdict(lambda: self.command_size_limit)
        self.hostname = hostname or socket.getfqdn()
        self.tls_context = tls_context
        if tls_context is not None:
            _warn_about(tls_context)
        self.require_starttls = bool(tls_context and require_starttls)
        self._timeout_duration = timeout
        self._tls_handshake_okay = True
        self._tls_protocol = None
        self.session = None
        self.envelope = None
        self.transport = None
        self._handler_coroutine = None
        if not auth_require_tls and auth_required:
            warnings.warn(
                "Requiring AUTH while not requiring TLS can lead to security vulnerabilities!", stacklevel=2
            )
            log.warning("auth_required == True but auth_require_tls == False")
        self._auth_require_tls = auth_require_tls
        if proxy_protocol_timeout is not None:
            if proxy_protocol_timeout <= 0:
                raise ValueError("proxy_protocol_timeout must be > 0")
            if proxy_protocol_timeout < 3.0:
                log.warning("proxy_protocol_timeout < 3.0")
        self._proxy_timeout = proxy_protocol_timeout
        self._authenticator = authenticator
        self._auth_callback = None if authenticator else (auth_callback or upstream.login_always_fail)
        self._auth_required = auth_required
        self._auth_exclude = frozenset(auth_exclude_mechanism or ())
        if log.isEnabledFor(logging.INFO):
            names = (m + "(builtin)" if impl.is_builtin else m for m, impl in sorted(self._auth_methods.items()))
            log.info("Available AUTH mechanisms: %s", " ".join(names))
        self._ehlo_hook_ver = hooks.ehlo_hook_version(getattr(handler, "handle_EHLO", None))
        if self._ehlo_hook_ver == "old":
            warnings.warn(
                "Use the 5-argument handle_EHLO() hook instead of the 4-argument handle_EHLO() hook; "
                "support for the 4-argument handle_EHLO() hook will be removed in version 2.0",
                DeprecationWarning,
                stacklevel=2,
            )
        self._set_call_limits(command_call_limit)

    def _set_call_limits(self, limit: int | dict[str, int] | None) -> None:
        self._enforce_call_limit = limit is not None
        self._call_limit_base: dict[str, int] = {}
        self._call_limit_default = upstream.CALL_LIMIT_DEFAULT
        if isinstance(limit, dict):
            if not all(isinstance(value, int) for value in limit.values()):
                raise TypeError("All command_call_limit values must be int")
            self._call_limit_base = limit
            self._call_limit_default = limit.get("*", upstream.CALL_LIMIT_DEFAULT)
        elif isinstance(limit, int):
            self._call_limit_default = limit
        elif limit is not None:
            raise TypeError("command_call_limit must be int or Dict[str, int]")

    # Looked up when first needed; from tables kept per type.

    @cached_property
    def _auth_methods(self) -> dict[str, upstream._AuthMechAttr]:  # type: ignore[override]  # an attribute there
        found = {
            name: upstream._AuthMechAttr(method, owner is self)
            for owner in (self, self.event_handler)
            for name, method in hooks.auth_mechanisms(owner).items()
        }
        return {name: mechanism for name, mechanism in found.items() if name not in self._auth_exclude}

    @cached_property
    def _handle_hooks(self) -> dict[str, Callable[..., Any]]:  # type: ignore[override]  # an attribute there
        return hooks.methods(self.event_handler, "handle_")

    @cached_property
    def _smtp_methods(self) -> dict[str, Callable[..., Any]]:  # type: ignore[override]  # an attribute there
        return hooks.methods(self, "smtp_")

    def __del__(self) -> None:
        """Do nothing: the superclass looks at futures that do not exist here."""

    # The life of a connection.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the session."""
        self.transport = transport
        self._writer = ReplyWriter(transport)  # type: ignore[arg-type]  # a stream transport, always
        self._reader = BufferReader(self, self.line_length_limit)
        self._begin_session(transport)
        if self.session.ssl is not None:
            self._tls_protocol = transport
        self._reset_timeout()
        log.info("Peer: %r", self.session.peer)
        self._handler_coroutine = self.loop.create_task(self._handle_client())

    def connection_lost(self, error: Exception | None) -> None:
        """End the session."""
        log.info("%r connection lost", self.session.peer)
        Connection.connection_lost(self, error)

    def _begin_session(self, transport: asyncio.BaseTransport) -> None:
        self._set_rset_state()
        self.session = self._create_session()
        self.session.peer = transport.get_extra_info("peername")
        self.session.ssl = tls_facts(transport)

    def shutdown(self) -> None:
        """Stop at the next command boundary with a 421; a transaction that has begun is finished first."""
        self._stopping = True
        if self._waiter is not None and self._sink is None:
            self._wake()

    async def push(self, status: str | bytes) -> None:
        """Add one reply line to what is sent when the input is used up."""
        response = (
            status if isinstance(status, bytes) else status.encode("utf-8" if self.enable_SMTPUTF8 else "ascii")
        )
        self._writer.write(response + b"\r\n")
        log.debug("%r << %r", self.session.peer, response)

    async def handle_exception(self, error: Exception) -> str:
        """Answer an exception that a command raised: ask the handler, or say nothing about it."""
        hook = getattr(self.event_handler, "handle_exception", None)
        if hook is not None:
            try:
                return str(await hook(error))
            except Exception:
                log.exception("%r Exception in handle_exception()", self.session.peer)
                return EXCEPTION_REPLY
        log.error("%r SMTP session exception", self.session.peer, exc_info=error)
        return EXCEPTION_REPLY

    async def _handle_client(self) -> None:
        try:
            if await self._greet():
                await self._converse()
        except (Disconnected, ConnectionResetError):
            log.info("%r Connection lost during _handle_client()", self.session.peer)
        finally:
            self._writer.close()

    async def _greet(self) -> bool:
        """Open the dialogue; False when there is to be none."""
        if self._proxy_timeout is not None and not await self._read_proxy_header():
            return False
        self._call_budget: dict[str, int] = dict(self._call_limit_base)
        self._bogus_budget = BOGUS_LIMIT
        await self.push(f"220 {self.hostname} {self.__ident__}")
        return True

    async def _read_proxy_header(self) -> bool:
        self._reset_timeout(self._proxy_timeout)
        self.session.proxy_data = await get_proxy(self._reader)
        if not self.session.proxy_data:
            log.warning("%r invalid PROXY handshake", self.session.peer)
            return False
        log.info("%r valid PROXY handshake", self.session.peer)
        status = await self._call_handler_hook("PROXY", self.session.proxy_data)
        if status is MISSING or not status:
            log.info("%r rejected by handle_PROXY", self.session.peer)
            return False
        self._reset_timeout()
        return True

    async def _converse(self) -> None:
        """Take commands until the session ends."""
        next_line = self._input.next_line
        while not self._ending:
            line = next_line()
            if self._stopping and not isinstance(line, Flaw) and not self._in_transaction():
                self._writer.write(self.shutdown_reply)
                return
            if line is None:
                await self._more_commands()
            elif isinstance(line, Flaw):
                self._refuse_line(line)
            else:
                await self._run(line)

    async def _more_commands(self) -> None:
        """Wait for input, between two commands."""
        await self._more_input()

    def _refuse_line(self, flaw: Flaw) -> None:
        self._writer.write(self.line_too_long_reply if flaw is Flaw.TOO_LONG else self.bare_line_end_reply)

    def _in_transaction(self) -> bool:
        return self.envelope is not None and self.envelope.mail_from is not None

    async def _run(self, line: bytes) -> None:
        """Run one command, and answer for whatever it raises."""
        try:
            await self._dispatch(line)
        except (Disconnected, ConnectionResetError):
            raise
        except Exception as error:
            status = await self.handle_exception(error)
            if isinstance(error, upstream.TLSSetupException):
                # What would be sent in clear now could only confuse.
                self._writer.closed = True
                self._ending = True
            else:
                await self.push(status)

    async def _dispatch(self, line: bytes) -> None:
        peer = self.session.peer
        if log.isEnabledFor(logging.INFO):
            sanitized_log(log.debug, "_handle_client readline: %r", line + b"\r\n")
            sanitized_log(log.info, "%r >> %r", peer, line)
        word, _, rest = line.partition(b" ")
        if not word or not word.isascii():
            await self.push("500 Error: bad syntax")
            return
        command = word.decode("ascii").upper()
        try:
            argument = self._decode_argument(rest.strip()) if rest else None
        except UnicodeDecodeError:
            await self.push("500 Error: strict ASCII mode")
            return
        if len(line) > (self.command_size_limits[command] if self.session.extended_smtp else self.command_size_limit):
            self._writer.write(self.line_too_long_reply)
            return
        if not self._tls_handshake_okay and command != "QUIT":
            await self.push("554 Command refused due to lack of security")
            return
        if self.require_starttls and not self._tls_protocol and command not in ALLOWED_BEFORE_STARTTLS:
            await self.push("530 Must issue a STARTTLS command first")
            return
        if self._enforce_call_limit and not self._within_budget(command):
            await self.push(f"421 4.7.0 {command} sent too many times")
            self._ending = True
            return
        method = self._smtp_methods.get(command)
        if method is None:
            await self._unrecognized(command)
            return
        self._timer.postpone(self._timeout_duration)
        await method(argument)

    def _decode_argument(self, argument: bytes) -> str:
        if self.enable_SMTPUTF8:
            return argument.decode("utf-8", "surrogateescape")
        return argument.decode("ascii")

    def _within_budget(self, command: str) -> bool:
        left = self._call_budget.get(command, self._call_limit_default)
        self._call_budget[command] = left - 1
        return left >= 1

    async def _unrecognized(self, command: str) -> None:
        log.warning("%r unrecognised: %s", self.session.peer, command)
        self._bogus_budget -= 1
        if self._bogus_budget < 1:
            await self.push("502 5.5.1 Too many unrecognized commands, goodbye.")
            self._ending = True
        else:
            await self.push(f'500 Error: command "{command}" not recognized')


def _warn_about(context: ssl.SSLContext) -> None:
    if context.verify_mode not in {ssl.CERT_NONE, ssl.CERT_OPTIONAL}:
        log.warning(
            "tls_context.verify_mode not in {CERT_NONE, CERT_OPTIONAL}; this might cause client connection problems"
        )
    elif context.check_hostname:
        log.warning("tls_context.check_hostname == True; this might cause client connection problems")
