"""DATA and BDAT: receiving a message, deciding on it, and handing it over to the spool.

The 250 is sent after the commit and not before. From the last byte on, nothing the client does (closing its
side, going away) stops the commit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from functools import partial

from postroad_transport.message import Body, Content, Envelope, PlainContent, content_size
from postroad_transport.policy import headers
from postroad_transport.policy.headers import HeaderReport
from postroad_transport.policy.receive import check_message, message_too_big
from postroad_transport.policy.submission import missing_fields, passed_on
from postroad_transport.policy.verdict import Refuse
from postroad_transport.smtp import replies
from postroad_transport.smtp.bdat import ChunkReader, parse_bdat
from postroad_transport.smtp.data import DataScanner, Fault, has_bare_line_end
from postroad_transport.smtp.received import received_header, transmission_type
from postroad_transport.smtp.transaction import TransactionVerbs
from postroad_transport.spool.store import SpoolError, SpoolFullError
from postroad_transport.telemetry.events import Received

HARD_SIZE_LIMIT = 1 << 30
"""Bytes of a message that no permission lifts."""

_BINARY_MIME = Body.BINARY_MIME
_FAULTS = {
    Fault.LINE_TOO_LONG: replies.DATA_LINE_TOO_LONG,
    Fault.BARE_LINE_END: replies.DATA_BARE_LINE_END,
}


class ContentVerbs(TransactionVerbs):
    """Mixin with DATA and BDAT."""

    _errors: int
    _scanner: DataScanner | None
    """Collects the message of a DATA command that was answered with 354."""

    def _internal_error(self, error: BaseException) -> bytes:
        """Log an exception, and return a reply that says nothing about it."""
        raise NotImplementedError

    def _message_done(self, reply: bytes) -> None:
        """Answer a message that was handed over, and go on with what came in behind it."""
        raise NotImplementedError

    def verb_data(self, argument: bytes) -> bytes:
        """RFC 5321 section 4.1.1.4. What follows a 354 goes to :meth:`_content_received`."""
        if argument:
            return replies.NO_ARGUMENT
        if not self._begun:
            return replies.MAIL_FIRST
        if self._chunks is not None or self._chunks_refused:
            return replies.CHUNKS_STARTED
        if not self._recipients:
            return replies.NO_VALID_RECIPIENTS if self._recipients_refused else replies.RCPT_FIRST
        if self._mail.body is _BINARY_MIME:
            return replies.BINARY_NEEDS_BDAT
        self._sink = self._scanner = DataScanner(self._size_limit(), self.serving.line_length_limit)
        return replies.START_DATA

    def _content_received(self, scanner: DataScanner) -> bytes:
        """Take what DATA has brought. Return the reply, nothing when it follows the commit."""
        if scanner.fault is not None:
            reply = self._refuse_content("DATA", scanner.fault)
            if scanner.fault is Fault.BARE_LINE_END:
                # Where the sender thinks the message ends is unknown: what follows may be a part of it.
                self._ending = True
                reply += replies.END_IN_DOUBT
            self._reset_transaction()
            return reply
        return self._take(scanner.content(), plain=scanner.plain)

    def verb_bdat(self, argument: bytes) -> bytes | Awaitable[bytes]:
        """RFC 3030 section 2. Whatever the answer, the octets that were announced are read."""
        parsed = parse_bdat(argument)
        if parsed is None:
            # Without a count nothing tells where the next command begins.
            self._ending = True
            return replies.BDAT_SYNTAX
        return self._receive_chunk(*parsed)

    async def _receive_chunk(self, octets: int, last: bool) -> bytes:
        refusal = self._chunk_refusal(octets)
        if not refusal and self._chunks is None:
            self._chunks = bytearray()
        await self._receive(ChunkReader(octets, None if refusal else self._chunks))
        if refusal:
            if self._begun and self._recipients:
                self._chunks_refused, self._chunks = refusal, None
            if last:
                self._reset_transaction()
            return refusal
        content = self._chunks
        if not last or content is None:
            return f"250 2.0.0 {octets} octets received\r\n".encode()
        self._chunks = None
        # Binary content holds any octets; its header is text like every other.
        if has_bare_line_end(content, headers.end(content) if self._mail.body is _BINARY_MIME else None):
            self.refused("BDAT", Fault.BARE_LINE_END.name.lower(), "554")
            self._reset_transaction()
            return replies.DATA_BARE_LINE_END
        return self._take(content)

    def _chunk_refusal(self, octets: int) -> bytes:
        if "CHUNKING" not in self.connector.extensions:
            return replies.BDAT_NOT_OFFERED
        if not self._begun:
            return replies.MAIL_FIRST
        if not self._recipients:
            return replies.NO_VALID_RECIPIENTS if self._recipients_refused else replies.RCPT_FIRST
        if self._chunks_refused:
            return self._chunks_refused
        if len(self._chunks or b"") + octets > self._size_limit():
            return self._refuse_content("BDAT", Fault.TOO_MUCH)
        return b""

    def _refuse_content(self, verb: str, fault: Fault) -> bytes:
        if fault is Fault.TOO_MUCH:
            # What check_message would say, had it been received whole.
            return self.refusal(verb, message_too_big(self.connector.policy))
        reply = _FAULTS[fault]
        self.refused(verb, fault.name.lower(), reply[:3].decode())
        return reply

    def _size_limit(self) -> int:
        limit = self.connector.config.limits.message_size
        lifted = self.connector.policy.access(self.facts.principals).bypass_size
        return HARD_SIZE_LIMIT if lifted or not limit else limit

    def _take(self, content: bytearray, *, plain: bool = False) -> bytes:
        """Decide on a whole message, and begin its commit. Return the refusal; nothing when the commit has begun.

        A client that closed its side still gets its commit and its answer, one that is gone its commit.
        """
        began = time.perf_counter()
        refusal = self._decide(content, plain=plain, began=began)
        if refusal:
            self._reset_transaction()
            self.connector.accept_seconds.observe(time.perf_counter() - began)
        return refusal

    def _decide(self, content: bytearray, *, plain: bool, began: float) -> bytes:
        serving, policy = self.serving, self.connector.policy
        report = headers.inspect(content, policy.permissions(self.facts), hostname=serving.hostname)
        verdict = check_message(serving.tier, policy, self.facts, report, size=len(content))
        if isinstance(verdict, Refuse):
            return self.refusal("DATA", verdict)
        envelope, chunks = self._compose(content, report)
        if plain:
            chunks = PlainContent(chunks)
        try:
            commit = serving.store.submit(envelope, chunks)
        except SpoolError as error:
            return self._not_kept(error)
        self._handing_over = True
        commit.add_done_callback(partial(self._handed_over, envelope, chunks, report, began))
        return b""

    def _handed_over(
        self,
        envelope: Envelope,
        chunks: Content,
        report: HeaderReport,
        began: float,
        commit: asyncio.Future[None],
    ) -> None:
        """Deliver what was committed, and answer."""
        try:
            commit.result()
            self._report(envelope, report)
            self.serving.on_committed(envelope, chunks)
        except (Exception, asyncio.CancelledError) as error:
            reply = self._not_kept(error)
        else:
            connector = self.connector
            self._errors = 0
            self._messages += 1
            connector.messages_received.inc()
            connector.bytes_received.inc(envelope.size)
            reply = b"250 2.0.0 Ok: queued as " + envelope.id.encode() + b"\r\n"
        self._handing_over = False
        self._reset_transaction()
        self.connector.accept_seconds.observe(time.perf_counter() - began)
        self._message_done(reply)

    def _not_kept(self, error: BaseException) -> bytes:
        """Count a message that the store could not keep, and return the reply."""
        if isinstance(error, SpoolFullError):
            self.refused("DATA", "spool_full", "452")
            return replies.NO_ROOM
        if isinstance(error, SpoolError | asyncio.CancelledError):
            self.refused("DATA", "spool", "451")
            return replies.LOCAL_PROBLEM
        return self._internal_error(error)

    def _compose(self, content: bytearray, report: HeaderReport) -> tuple[Envelope, Content]:
        serving, facts, mail = self.serving, self.facts, self._mail
        now = serving.clock()
        recipients = list(self._recipients.values())
        identifier = serving.new_message_id()
        trace = received_header(
            helo=facts.helo,
            client=facts.remote_ip,
            by=self.connector.config.fqdn,
            protocol=transmission_type(
                extended=self.session.extended_smtp,
                tls=facts.tls,
                authenticated=bool(facts.account),
                smtputf8=mail.smtputf8,
            ),
            tls=self._tls_comment() if facts.tls else "",
            message=identifier,
            recipient=recipients[0].address if len(recipients) == 1 else "",
            now=now,
        )
        stamps = headers.stamps(facts, report)
        if facts.account:
            stamps += missing_fields(
                content, report.header_end, identifier=identifier, host=serving.hostname, now=now
            )
        if headers.begins_with_text(content):
            stamps += b"\r\n"
        chunks: list[bytes | bytearray | memoryview] = [trace + stamps]
        if report.kept is None:
            chunks.append(content)
        else:
            chunks.extend(report.kept)
            chunks.append(memoryview(content)[report.header_end :])
        envelope = Envelope(
            id=identifier,
            received_at=now,
            sender=self._sender.address if self._sender else "",
            recipients=recipients,
            size=content_size(chunks),
            body=mail.body,
            smtputf8=mail.smtputf8,
            connector=self.connector.config.name,
            client=facts.remote_ip,
            account=facts.account,
            auth_as=headers.auth_as(facts, report),
            hops=report.hops,
        )
        # What few messages have is not passed above: CPython calls with so many arguments the slow way.
        if mail.ret or mail.envid:
            envelope.ret, envelope.envid = mail.ret, mail.envid
        if mail.submitter or mail.priority:
            permissions = self.connector.policy.permissions(facts)
            envelope.submitter, envelope.priority = passed_on(
                mail.submitter, mail.priority, permissions, account=facts.account
            )
        return envelope, chunks

    def _tls_comment(self) -> str:
        tls = self.session.ssl["ssl_object"]
        cipher = tls.cipher()
        return f"{tls.version()} {cipher[0]}" if cipher else str(tls.version())

    def _report(self, envelope: Envelope, report: HeaderReport) -> None:
        facts = self.facts
        self.serving.events.step(
            Received(
                id=envelope.id,
                connector=envelope.connector,
                client=envelope.client,
                helo=facts.helo,
                tls=self.session.ssl["ssl_object"].version() if facts.tls else None,
                account=envelope.account,
                sender=envelope.sender,
                recipients=[recipient.address for recipient in envelope.recipients],
                size=envelope.size,
                message_id=report.message_id(),
                stripped=report.stripped,
            )
        )
