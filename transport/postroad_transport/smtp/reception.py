"""Postroad's SMTP server session: the protocol of :mod:`.protocol`, the rules of ``policy``, the spool behind.

Commands are dispatched from bytes to synchronous methods that return the reply; only what must wait (content,
AUTH, TLS) returns an awaitable. No rule of who may do what is in here: ``policy.receive`` decides.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable

from aiosmtpd.smtp import TLSSetupException

from postroad_transport.config import TlsMode
from postroad_transport.policy.reply import Reply
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.verdict import Refuse
from postroad_transport.smtp import replies
from postroad_transport.smtp.anonymous_tls import AnonymousTls
from postroad_transport.smtp.connection import tls_facts
from postroad_transport.smtp.dispatch import Dispatch, Verb, VerbAtOnce
from postroad_transport.smtp.exch50 import Exch50
from postroad_transport.smtp.partners import PartnerVerbs
from postroad_transport.smtp.sessions import Refusal, Sessions
from postroad_transport.smtp.writer import ReplyWriter
from postroad_transport.tls.failures import refused_afterwards

log = logging.getLogger("postroad.smtp")

_HELLO_NAME = re.compile(rb"\[?[A-Za-z0-9_](?:[A-Za-z0-9_.:-]{0,253})\]?").fullmatch


class Reception(Dispatch, Exch50, AnonymousTls, PartnerVerbs):
    """One session.

    Parameters
    ----------
    sessions : Sessions
        Where the session is counted, and what it serves from.
    port : int
        The port of the binding, as configured.
    peer : tuple, optional
        (address, port) of the client where a proxy named it.
    release : callable, optional
        Takes back that the session was counted in advance.
    """

    # Beyond 30 attributes in its dictionary an object shares their names with no other of its class, and CPython then
    # looks every method up anew.
    __slots__ = (
        "_admitted",
        "_begun",
        "_between_commands",
        "_chunks",
        "_chunks_refused",
        "_ending",
        "_eof",
        "_errors",
        "_failed_logins",
        "_handing_over",
        "_handler_coroutine",
        "_input",
        "_line_due",
        "_mail",
        "_messages",
        "_peer",
        "_port",
        "_reading_paused",
        "_recipients",
        "_recipients_refused",
        "_release",
        "_resume_waiter",
        "_scanner",
        "_sender",
        "_sessions",
        "_sink",
        "_stopping",
        "_timeout_duration",
        "_timer",
        "_verbs",
        "_verbs_at_once",
        "_waiter",
        "_write_paused",
        "_writer",
        "connector",
        "facts",
        "loop",
        "mode",
        "serving",
        "session",
        "transport",
    )

    line_too_long_reply = replies.LINE_TOO_LONG
    bare_line_end_reply = replies.BARE_LINE_END
    shutdown_reply = replies.SHUTTING_DOWN
    timeout_reply = replies.TIMED_OUT
    refuse_bare_line_ends = True

    def __init__(
        self,
        sessions: Sessions,
        port: int,
        *,
        peer: tuple[str, int] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        self.serving = sessions.serving
        super().__init__(
            None, hostname=self.serving.hostname, loop=loop or asyncio.get_running_loop(), data_size_limit=None
        )
        self._sessions = sessions
        self._port = port
        self._peer = peer
        self._release = release
        self._admitted = False
        self._verbs = VERBS
        self._verbs_at_once = VERBS_AT_ONCE
        self._messages = 0
        self._failed_logins = 0
        self._errors = 0
        self._between_commands = False
        self._line_due = None
        self._scanner = None
        self._reset_transaction()

    # The life of a session.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Select the connector, and begin or refuse the session."""
        if self._release is not None:
            self._release()
        self.transport = transport
        self._writer = ReplyWriter(transport, self._sessions.outbox)  # type: ignore[arg-type]  # a stream transport
        self.session = self._create_session()
        self.session.peer = peer = self._peer or transport.get_extra_info("peername") or ("", 0)
        self.session.ssl = tls_facts(transport)
        ip = peer[0]
        policy = self.serving.tier.connectors.select(self._port, ip)
        if policy is None:
            self._refuse_connection(Refusal("no_connector", replies.NO_CONNECTOR))
            return
        self.connector = connector = self.serving.connectors[policy.config.name]
        refusal = self._sessions.admission(connector, ip)
        if refusal is not None:
            self._refuse_connection(refusal)
            return
        limits = connector.config.limits
        self.mode = connector.tls_modes[self._port]
        self.facts = SessionFacts(
            remote_ip=ip, local_port=self._port, tls=self.session.ssl is not None, principals=connector.principals
        )
        self._timeout_duration = limits.idle_timeout or 86_400.0
        self.minimum_rate = self.serving.minimum_rate
        self._sessions.add(self, connector, ip)
        self._admitted = True
        if limits.total_timeout:
            self._timer.limit = self.loop.time() + limits.total_timeout
        self._reset_timeout()
        if self.facts.tls:
            self._note_certificate()
            self._count_handshake()
        self._handler_coroutine = self.loop.create_task(self._handle_client())

    def _refuse_connection(self, refusal: Refusal) -> None:
        self._sessions.connection_refused(self.session.peer[0], self._port, refusal.reason)
        if refusal.delay:
            self.loop.call_later(refusal.delay, self._turn_away, refusal.reply)
        else:
            self._turn_away(refusal.reply)

    def _turn_away(self, reply: bytes) -> None:
        if not self._writer.closed:
            self._writer.write(reply)
            self._writer.close()

    def connection_lost(self, error: Exception | None) -> None:
        """End the session. A message that is being committed is committed all the same."""
        super().connection_lost(error)
        if self._admitted:
            self._admitted = False
            if error is not None and refused_afterwards(error):
                self._sessions.tls_failed(self.connector.config.name, self.facts.remote_ip, error)
            self._sessions.remove(self, self.connector, self.facts.remote_ip)

    def abort(self) -> None:
        """End the session now, without a word."""
        if self.transport is not None:
            self.transport.abort()

    async def _greet(self) -> bool:
        self._writer.write(self.connector.greeting)
        return True

    def _internal_error(self, error: BaseException) -> bytes:
        log.error("SMTP session failed", exc_info=error)
        self.serving.events.emit(
            "session.error",
            connector=self.connector.config.name,
            client=self.facts.remote_ip,
            error=type(error).__name__,
        )
        self.refused("session", "internal_error", "451")
        self._reset_transaction()
        return replies.LOCAL_PROBLEM

    def refused(self, verb: str, rule: str, code: str, permission: str = "") -> None:
        """Count a refusal."""
        self.serving.metrics.refusals.labels(self.connector.config.name, verb, rule, code, permission).inc()

    def refusal(self, verb: str, verdict: Refuse, subject: str = "") -> bytes:
        """Count and log a policy's refusal, and return its reply. `subject` is the address it is about."""
        code, missing, facts = str(verdict.reply.code), str(verdict.missing or ""), self.facts
        self.refused(verb, verdict.rule, code, missing)
        self._sessions.command_refused(
            verdict.rule,
            connector=self.connector.config.name,
            client=facts.remote_ip,
            account=facts.account or None,
            verb=verb,
            subject=subject or None,
            code=code,
            permission=missing or None,
            because=verdict.because or None,
        )
        return verdict.reply.encode()

    def refused_parameter(self, verb: str, reply: Reply) -> bytes:
        """Count a refused address or parameter, and return its reply."""
        self.refused(verb, "syntax", str(reply.code))
        return reply.encode()

    # The verbs that are about the session.

    def verb_ehlo(self, argument: bytes) -> bytes:
        """RFC 5321 section 4.1.1.1."""
        return self._hello(argument, extended=True)

    def verb_helo(self, argument: bytes) -> bytes:
        """RFC 5321 section 4.1.1.1."""
        return self._hello(argument, extended=False)

    def _hello(self, argument: bytes, *, extended: bool) -> bytes:
        name = argument.strip()
        if not _HELLO_NAME(name):
            return replies.BAD_HELLO
        self._reset_transaction()
        self.session.host_name = self.facts.helo = name.decode("ascii")
        self.session.extended_smtp = extended
        if not extended:
            return self.connector.helo_reply
        return self.connector.ehlo_reply(self.mode, self.facts)

    def verb_starttls(self, argument: bytes) -> bytes | Awaitable[bytes]:
        """RFC 3207."""
        if argument:
            return replies.NO_ARGUMENT
        if self.facts.tls:
            return replies.ALREADY_TLS
        context = self.connector.tls_context
        if context is None or self.mode is not TlsMode.STARTTLS:
            return replies.TLS_NOT_OFFERED
        return self._upgrade(context)

    async def _upgrade(self, context: ssl.SSLContext) -> bytes:
        if len(self._input):
            # Commands put in behind STARTTLS by someone in between; they are dropped with the rest of the buffer.
            self.refused("STARTTLS", "pipelined", "none")
        self._writer.write(replies.READY_FOR_TLS)
        await self._start_tls(context)
        peer = self.session.peer
        self.session = self._create_session()
        self.session.peer = peer
        self.session.ssl = tls_facts(self.transport)
        self.facts = SessionFacts(
            remote_ip=self.facts.remote_ip, local_port=self._port, tls=True, principals=self.connector.principals
        )
        self._reset_transaction()
        self._note_certificate()
        self._count_handshake()
        return b""

    def _note_certificate(self) -> None:
        """Look whether the client has shown a certificate: what it proves may have to be waited for."""
        if self._presented():
            self.facts.client_certificate = True
            self._verbs, self._verbs_at_once = VERBS_OF_PARTNERS, VERBS_OF_PARTNERS_AT_ONCE

    def _count_handshake(self) -> None:
        tls = self.transport.get_extra_info("ssl_object")
        version = tls.version() or ""
        self.serving.metrics.tls_handshakes.labels("in", version, "ok").inc()
        if tls.session_reused:
            self.serving.metrics.tls_resumed.labels(version).inc()

    def _tls_failed(self, error: TLSSetupException) -> None:
        self._sessions.tls_failed(self.connector.config.name, self.facts.remote_ip, error.__cause__)
        self._writer.closed = True
        self._ending = True

    def verb_noop(self, argument: bytes) -> bytes:
        """RFC 5321 section 4.1.1.9."""
        return replies.OK

    def verb_help(self, argument: bytes) -> bytes:
        """RFC 5321 section 4.1.1.8."""
        return replies.HELP

    def verb_vrfy(self, argument: bytes) -> bytes:
        """RFC 5321 section 3.5.3: no answer that tells who exists."""
        return replies.CANNOT_VERIFY if argument.strip() else replies.VRFY_SYNTAX

    def verb_expn(self, argument: bytes) -> bytes:
        """RFC 5321 section 3.5.2."""
        return replies.NOT_EXPANDED

    def verb_rset(self, argument: bytes) -> bytes:
        """RFC 5321 section 4.1.1.5."""
        if argument:
            return replies.NO_ARGUMENT
        self._reset_transaction()
        return replies.OK

    def verb_quit(self, argument: bytes) -> bytes:
        """RFC 5321 section 4.1.1.10."""
        if argument:
            return replies.NO_ARGUMENT
        self._ending = True
        return replies.BYE


VERBS_AT_ONCE: dict[bytes, VerbAtOnce] = {
    b"EHLO": Reception.verb_ehlo,
    b"HELO": Reception.verb_helo,
    b"MAIL": Reception.verb_mail,
    b"RCPT": Reception.verb_rcpt,
    b"DATA": Reception.verb_data,
    b"RSET": Reception.verb_rset,
    b"NOOP": Reception.verb_noop,
    b"QUIT": Reception.verb_quit,
    b"VRFY": Reception.verb_vrfy,
    b"EXPN": Reception.verb_expn,
    b"HELP": Reception.verb_help,
}

VERBS: dict[bytes, Verb] = {
    **VERBS_AT_ONCE,
    b"BDAT": Reception.verb_bdat,
    b"XEXCH50": Reception.verb_xexch50,
    b"AUTH": Reception.verb_auth,
    b"STARTTLS": Reception.verb_starttls,
    b"X-ANONYMOUSTLS": Reception.verb_x_anonymoustls,
    b"X-EXPS": Reception.verb_x_exps,
}

VERBS_OF_PARTNERS_AT_ONCE = {verb: method for verb, method in VERBS_AT_ONCE.items() if verb != b"MAIL"}
"""Of sessions whose client has presented a certificate: what it proves may have to be waited for."""
VERBS_OF_PARTNERS: dict[bytes, Verb] = {**VERBS, b"MAIL": Reception.mail_of_partner}
