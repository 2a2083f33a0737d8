# ruff: noqa: N802 (aiosmtpd names commands after the protocol's verbs)
"""aiosmtpd's commands where the drop-in class changes what they do; the others are inherited as they are."""

from __future__ import annotations

import inspect
import re
from typing import Any
from warnings import warn

from aiosmtpd import smtp as upstream
from aiosmtpd.smtp import MISSING, AuthResult, LoginPassword, syntax

from postroad_transport.smtp.connection import Connection
from postroad_transport.smtp.data import DataScanner, Fault

_PLAIN_PATH = re.compile(r"<([\w!#$%&'*+/=?^`{|}~.-]+@[A-Za-z0-9.-]*[A-Za-z0-9])>\s*", re.ASCII)
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\s=][^\s]*))?\Z")

#: Parameters that handlers are left to act on (RFC 3461, 4954, 6710).
_MAIL_PARAMETERS = frozenset({"RET", "ENVID", "AUTH", "MT-PRIORITY"})
_RCPT_PARAMETERS = frozenset({"NOTIFY", "ORCPT"})

_FAULTS = {
    Fault.LINE_TOO_LONG: "500 Line too long (see RFC5321 4.5.3.1.6)",
    Fault.TOO_MUCH: "552 Error: Too much mail data",
    Fault.BARE_LINE_END: "554 5.6.0 Error: bare <CR> or <LF> in message",
}


class Commands(Connection, upstream.SMTP):
    """Mixin with the changed commands."""

    # aiosmtpd's types say None where these are always set while commands run.
    envelope: Any
    session: Any
    transport: Any
    _reader: Any
    _writer: Any
    _tls_protocol: Any
    _authenticator: Any
    _auth_callback: Any
    refuse_bare_line_ends: bool

    @syntax("QUIT")
    async def smtp_QUIT(self, arg: str | None) -> None:
        """End the session."""
        if arg:
            await self.push("501 Syntax: QUIT")
            return
        status = await self._call_handler_hook("QUIT")
        await self.push("221 Bye" if status is MISSING else status)
        self._ending = True

    @syntax("EHLO hostname")
    async def smtp_EHLO(self, hostname: str | None) -> None:
        """Greet, and say what is offered."""
        if not hostname:
            await self.push("501 Syntax: EHLO hostname")
            return
        response = [f"250-{self.hostname}"]
        self._set_rset_state()
        self.session.extended_smtp = True
        # RFC 1870 section 3, RFC 6531 section 3.4; AUTH has the limit of any line (RFC 4954 section 4).
        mail_limit = self.command_size_limit
        if self.data_size_limit:
            response.append(f"250-SIZE {self.data_size_limit}")
            mail_limit += 26
        if not self._decode_data:
            response.append("250-8BITMIME")
        if self.enable_SMTPUTF8:
            response.append("250-SMTPUTF8")
            mail_limit += 10
        self.command_size_limits.setdefault("MAIL", mail_limit)
        if self.tls_context and not self._tls_protocol:
            response.append("250-STARTTLS")
        if not self._auth_require_tls or self._tls_protocol:
            response.append("250-AUTH " + " ".join(sorted(self._auth_methods)))
        if hasattr(self, "ehlo_hook"):
            warn("Use handler.handle_EHLO() instead of .ehlo_hook()", DeprecationWarning, stacklevel=1)
            await self.ehlo_hook()
        if self._ehlo_hook_ver is None:
            self.session.host_name = hostname
            response.append("250 HELP")
        elif self._ehlo_hook_ver == "old":
            for line in response:
                await self.push(line)
            response = [await self._call_handler_hook("EHLO", hostname)]
        else:
            response.append("250 HELP")
            response = await self._call_handler_hook("EHLO", hostname, response)
        for line in response:
            await self.push(line)

    @syntax("STARTTLS", when="tls_context")
    async def smtp_STARTTLS(self, arg: str | None) -> None:
        """Start TLS, and the session anew (RFC 3207)."""
        if arg:
            await self.push("501 Syntax: STARTTLS")
            return
        if not self.tls_context:
            await self.push("454 TLS not available")
            return
        await self.push("220 Ready to start TLS")
        await self._start_tls(self.tls_context)
        self._tls_protocol = self.transport
        self._begin_session(self.transport)
        hook = self._handle_hooks.get("STARTTLS")
        self._tls_handshake_okay = hook is None or bool(hook(self, self.session, self.envelope))

    def _begin_session(self, transport: Any) -> None:
        raise NotImplementedError

    # MAIL and RCPT: parameters as sent.

    def _set_rset_state(self) -> None:
        self._set_post_data_state()

    def _set_post_data_state(self) -> None:
        self.envelope = self._create_envelope()

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        plain = _PLAIN_PATH.match(arg)
        if plain and not self.local_part_limit:
            return plain[1], arg[plain.end() :]
        found: tuple[str | None, str | None] = super()._getaddr(arg)
        return found

    def _getparams(self, params: Any) -> dict[str, str | bool] | None:
        result: dict[str, str | bool] = {}
        for param in params:
            match = _PARAMETER.match(param)
            if match is None:
                return None
            result[match[1].upper()] = match[2] or True
        return result

    @syntax("MAIL FROM: <address>", extended=" [SP <mail-parameters>]")
    async def smtp_MAIL(self, arg: str | None) -> None:
        """Begin a transaction."""
        if await self.check_helo_needed() or await self.check_auth_needed("MAIL"):
            return
        parsed = await self._path(arg, "FROM:", "501 Syntax: MAIL FROM: <address>")
        if parsed is None:
            return
        address, options, params, syntax_error = parsed
        if self.envelope.mail_from is not None:
            await self.push("503 Error: nested MAIL command")
            return
        status = syntax_error if params is None else self._mail_status(params, syntax_error)
        if status is None and params is not None:
            self.envelope.smtp_utf8 = params.get("SMTPUTF8", False)
            status = await self._call_handler_hook("MAIL", address, options)
            if status is MISSING:
                self.envelope.mail_from = address
                self.envelope.mail_options.extend(options)
                status = "250 OK"
        await self.push(status or syntax_error)

    def _mail_status(self, params: dict[str, str | bool], syntax_error: str) -> str | None:
        """Return the reply that refuses `params`, or None."""
        if not self._decode_data and str(params.pop("BODY", "7BIT")).upper() not in {"7BIT", "8BITMIME"}:
            return "501 Error: BODY can only be one of 7BIT, 8BITMIME"
        utf8 = params.get("SMTPUTF8", False)
        if not isinstance(utf8, bool):
            return "501 Error: SMTPUTF8 takes no arguments"
        if utf8 and not self.enable_SMTPUTF8:
            return "501 Error: SMTPUTF8 disabled"
        size = params.pop("SIZE", None)
        if size is not None:
            if isinstance(size, bool) or not (size.isascii() and size.isdigit()):
                return syntax_error
            if self.data_size_limit and int(size[:20]) > self.data_size_limit:
                return "552 Error: message size exceeds fixed maximum message size"
        if params.keys() - _MAIL_PARAMETERS - {"SMTPUTF8"}:
            return "555 MAIL FROM parameters not recognized or not implemented"
        return None

    @syntax("RCPT TO: <address>", extended=" [SP <mail-parameters>]")
    async def smtp_RCPT(self, arg: str | None) -> None:
        """Add a recipient."""
        if await self.check_helo_needed() or await self.check_auth_needed("RCPT"):
            return
        if self.envelope.mail_from is None:
            await self.push("503 Error: need MAIL command")
            return
        parsed = await self._path(arg, "TO:", "501 Syntax: RCPT TO: <address>")
        if parsed is None:
            return
        address, options, params, syntax_error = parsed
        if params is None:
            await self.push(syntax_error)
            return
        if params.keys() - _RCPT_PARAMETERS:
            await self.push("555 RCPT TO parameters not recognized or not implemented")
            return
        status = await self._call_handler_hook("RCPT", address, options)
        if status is MISSING:
            self.envelope.rcpt_tos.append(address)
            self.envelope.rcpt_options.extend(options)
            status = "250 OK"
        await self.push(status)

    async def _path(
        self, arg: str | None, keyword: str, syntax_error: str
    ) -> tuple[str, list[str], dict[str, str | bool] | None, str] | None:
        """Parse a path and its parameters; None when that was answered here."""
        if self.session.extended_smtp:
            syntax_error += " [SP <mail-parameters>]"
        path = None if arg is None else self._strip_command_keyword(keyword, arg)
        if path is None:
            await self.push(syntax_error)
            return None
        address, rest = self._getaddr(path)
        if address is None:
            await self.push("553 5.1.3 Error: malformed address")
            return None
        if not address or (rest and not self.session.extended_smtp):
            await self.push(syntax_error)
            return None
        options = (rest or "").split()
        return address, options, self._getparams(options), syntax_error

    # AUTH with an authenticator that may be asynchronous.

    async def _verified(self, mechanism: str, credentials: LoginPassword) -> AuthResult:
        if self._authenticator is not None:
            result = self._authenticator(self, self.session, self.envelope, mechanism, credentials)
            verified: AuthResult = await result if inspect.isawaitable(result) else result
            return verified
        good = self._auth_callback(mechanism, *credentials)
        if inspect.isawaitable(good):
            good = await good
        if good:
            return AuthResult(success=True, handled=True, auth_data=credentials)
        return AuthResult(success=False, handled=False)

    def _authenticate(self, mechanism: str, auth_data: Any) -> Any:
        """Return an awaitable; :meth:`auth_PLAIN` and :meth:`auth_LOGIN` see to it that it is awaited."""
        return self._verified(mechanism, auth_data)

    async def auth_PLAIN(self, server: Any, args: list[str]) -> Any:
        """RFC 4616."""
        result = await super().auth_PLAIN(server, args)
        return await result if inspect.isawaitable(result) else result

    async def auth_LOGIN(self, server: Any, args: list[str]) -> Any:
        """draft-murchison-sasl-login."""
        result = await super().auth_LOGIN(server, args)
        return await result if inspect.isawaitable(result) else result

    # DATA, in bulk.

    @syntax("DATA")
    async def smtp_DATA(self, arg: str | None) -> None:
        """Receive a message and hand it to the handler."""
        if await self.check_helo_needed() or await self.check_auth_needed("DATA"):
            return
        if not self.envelope.rcpt_tos:
            await self.push("503 Error: need RCPT command")
            return
        if arg:
            await self.push("501 Syntax: DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        scanner = DataScanner(
            self.data_size_limit or 0, self.line_length_limit, strict_line_ends=self.refuse_bare_line_ends
        )
        self._timer.postpone(self._timeout_duration)
        await self._receive(scanner)
        if scanner.fault is not None:
            await self.push(_FAULTS[scanner.fault])
            self._set_post_data_state()
            return
        content = bytes(scanner.content())
        envelope = self.envelope
        envelope.original_content = envelope.content = content
        if self._decode_data:
            try:
                envelope.content = (
                    content.decode("utf-8", "surrogateescape") if self.enable_SMTPUTF8 else content.decode("ascii")
                )
            except UnicodeDecodeError:
                await self.push("500 Error: strict ASCII mode")
                return
        self._handing_over = True
        try:
            status = await self._hand_over()
        finally:
            self._handing_over = False
        self._set_post_data_state()
        await self.push("250 OK" if status is MISSING or status is None else status)
        self._timer.postpone(self._timeout_duration)

    async def _hand_over(self) -> Any:
        """Give the message to the handler: ``handle_DATA``, or the old ``process_message``."""
        if "DATA" in self._handle_hooks:
            return await self._call_handler_hook("DATA")
        process = getattr(self.event_handler, "process_message", None)
        if process is None:
            return MISSING
        warn("Use handler.handle_DATA() instead of .process_message()", DeprecationWarning, stacklevel=1)
        envelope = self.envelope
        status = process(self.session.peer, envelope.mail_from, envelope.rcpt_tos, envelope.content)
        return await status if inspect.isawaitable(status) else status
