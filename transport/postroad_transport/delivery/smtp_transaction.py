"""Mail transactions of one session as client (RFC 5321 3.3, RFC 2920, 2033, 3030).

Every recipient gets exactly one :class:`Attempt`, whatever the peer does:

- DELIVERED only by a 2xx reply to the end of the message that came after all of it was sent.
- FAILED only by a 5xx reply, or by what the peer says it cannot take.
- DEFERRED by everything else: 4xx, silence, garbage, a lost connection. When the reply to the end of the message
  is lost, the peer may have taken it; that host is not followed by another in the same attempt, and the retry may
  deliver a second copy (RFC 1047): never lost, perhaps doubled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from postroad_transport.config import SendLimits
from postroad_transport.delivery.hop import Outcome, Result
from postroad_transport.delivery.peer_reply import PeerReply
from postroad_transport.delivery.smtp_commands import (
    converted_body,
    mail_command,
    message_refusal,
    rcpt_command,
    recipient_refusal,
    speaks_utf8,
    uses_binary,
)
from postroad_transport.delivery.smtp_connection import SmtpConnection
from postroad_transport.delivery.transfer_encoding import UnconvertibleError, convert
from postroad_transport.delivery.wire_form import data_form
from postroad_transport.message import Body, Chunk, Content, Envelope, Recipient, content_size

CONVERTED_AT_ONCE = 1 << 17
"""Bytes of content up to which a conversion is not worth a thread."""

_DATA = b"DATA\r\n"
_MORE_THAN = {Body.SEVEN_BIT: "8-bit", Body.EIGHT_BIT_MIME: "binary"}
_UNKNOWN_PARAMETER = (501, 504, 555)
_OUT_OF_STEP = "451 4.5.0 protocol error: replies out of step"


class StaleSessionError(Exception):
    """A kept connection turned out dead before the peer answered anything of the transaction: try a new one."""


class Attempt(NamedTuple):
    """One recipient's outcome at one host; `elsewhere`: another host may be tried at once."""

    outcome: Outcome
    elsewhere: bool


class SmtpTransactions:
    """The transactions of one session, one at a time.

    Attributes
    ----------
    count
        Transactions begun.
    extensions
        EHLO keywords in upper case, with their parameters.
    tells_submitter
        Whether MAIL has AUTH=: after a login with AUTH, unless the peer does not know it.
    """

    def __init__(self, connection: SmtpConnection, label: str, limits: SendLimits, *, lmtp: bool) -> None:
        self.count = 0
        self.extensions: dict[str, str] = {}
        self.tells_submitter = False
        self._connection = connection
        self._label = label
        self._limits = limits
        self._lmtp = lmtp
        self._unfinished = False
        self._converted = ""
        self._mail_code = 0

    async def send(self, envelope: Envelope, recipients: Sequence[Recipient], content: Content) -> list[Attempt]:
        """Run one transaction; return one attempt per recipient, in order.

        Raises
        ------
        StaleSessionError
            The session had been kept and the peer had given it up: nothing of this transaction was answered.
        """
        self._converted = ""
        body = converted_body(envelope, content, self.extensions)
        if body is not None:
            try:
                envelope, content = await self._converted_message(envelope, content, body)
            except UnconvertibleError as error:
                refusal = (
                    f"554 5.6.3 the peer takes no {_MORE_THAN[body]} messages, and it cannot be converted: {error}"
                )
                return [self._attempt(Result.FAILED, refusal)] * len(recipients)
        size = content_size(content)
        refusal = message_refusal(envelope, size, content, self.extensions)
        if refusal:
            return [self._attempt(Result.FAILED, refusal)] * len(recipients)
        if envelope.require_tls and not self._connection.tls:
            refusal = f"451 4.7.10 the message requires TLS and {self._label} has none"
            return [self._attempt(Result.DEFERRED, refusal, elsewhere=True)] * len(recipients)
        utf8 = speaks_utf8(envelope, self.extensions)
        refusals = [recipient_refusal(recipient, utf8=utf8) for recipient in recipients]
        rcpts = [
            rcpt_command(recipient, self.extensions, utf8=utf8)
            for recipient, refusal in zip(recipients, refusals, strict=True)
            if not refusal
        ]
        if not rcpts:
            return [self._attempt(Result.FAILED, refusal) for refusal in refusals]
        made = iter(await self._transactions(envelope, size, rcpts, content))
        return [self._attempt(Result.FAILED, refusal) if refusal else next(made) for refusal in refusals]

    async def _transactions(
        self, envelope: Envelope, size: int, rcpts: list[bytes], content: Content
    ) -> list[Attempt]:
        """Return one attempt per command in `rcpts`; MAIL is said again where the peer does not know AUTH= of it."""
        binary = uses_binary(envelope)
        mail = mail_command(envelope, size, self.extensions, tells_submitter=self.tells_submitter)
        attempts = await self._transaction(mail, rcpts, content, binary=binary)
        if self.tells_submitter and self._mail_code in _UNKNOWN_PARAMETER:
            self.tells_submitter = False
            mail = mail_command(envelope, size, self.extensions)
            try:
                attempts = await self._transaction(mail, rcpts, content, binary=binary)
            except StaleSessionError:
                # It is gone over the refusal, which stands: another session would end like this one.
                return attempts
        return attempts

    async def _converted_message(self, envelope: Envelope, content: Content, body: Body) -> tuple[Envelope, Content]:
        """Return the message as the peer takes it. Raises UnconvertibleError."""
        given = envelope.body
        try:
            if content_size(content) <= CONVERTED_AT_ONCE:
                converted = convert(content, given, body)
            else:
                converted = await asyncio.to_thread(convert, content, given, body)
        except UnconvertibleError:
            if given is Body.SEVEN_BIT:
                # Nobody has said that it is more: it goes as it came.
                return envelope, content
            raise
        if converted is not content:
            self._converted = str(body)
        if given is Body.SEVEN_BIT:
            return envelope, converted
        return msgspec.structs.replace(envelope, body=body), converted

    async def _transaction(self, mail: bytes, rcpts: list[bytes], content: Content, *, binary: bool) -> list[Attempt]:
        """Return one attempt per command in `rcpts`."""
        replies = await self._envelope([mail, *rcpts] if binary else [mail, *rcpts, _DATA])
        if self.count and (not replies or replies[0].code == 421):
            raise StaleSessionError
        self.count += 1
        self._unfinished = True

        rest = replies[1:]
        self._mail_code = replies[0].code if replies else 0
        if not replies or not _positive(replies[0]):
            attempts: list[Attempt | None] = [self._refused(replies[0] if replies else None)] * len(rcpts)
        else:
            attempts = [
                None if reply is not None and _positive(reply) else self._refused(reply, rcpt=True)
                for reply in _filled(rest, len(rcpts))
            ]
        data_reply = None if binary else _filled(rest, len(rcpts) + 1)[-1]

        accepted = attempts.count(None)
        if accepted:
            last = iter(await self._message(data_reply, content, accepted, binary=binary))
            return [attempt or next(last) for attempt in attempts]
        if data_reply is not None and data_reply.code == 354:
            # A lone dot ends a DATA that should have been refused (RFC 2920 section 3.1); but where the peer refused
            # the sender and goes on all the same, it could send an empty message to somebody.
            if _positive(replies[0]):
                self._connection.write(b".\r\n")
                self._connection.finish()
            else:
                self._connection.abort()
        return [attempt for attempt in attempts if attempt is not None]

    async def _envelope(self, commands: list[bytes]) -> list[PeerReply]:
        """Say `commands`; return the replies in order, fewer when the rest was not said or not answered."""
        connection = self._connection
        seconds = self._limits.command_timeout
        reset = [b"RSET\r\n"] if self._unfinished else []
        if "PIPELINING" in self.extensions:
            connection.write(b"".join(reset + commands))
            replies = await connection.replies(len(reset) + len(commands), seconds)
            return replies[len(reset) :]
        replies = []
        for command in reset + commands:
            if command is _DATA and not any(map(_positive, replies[len(reset) + 1 :])):
                break
            connection.write(command)
            replies += await connection.replies(1, seconds)
            if connection.failure or (len(replies) > len(reset) and not _positive(replies[len(reset)])):
                break
        return replies[len(reset) :]

    async def _message(
        self, data_reply: PeerReply | None, content: Content, accepted: int, *, binary: bool
    ) -> list[Attempt]:
        """Send the message; return one attempt for each of the `accepted` recipients."""
        connection = self._connection
        if connection.failure or not connection.quiet:
            refused = self._refused(None)
            connection.abort()
            return [refused] * accepted
        chunks: list[Chunk]
        if binary:
            chunks = [b"BDAT %d LAST\r\n" % content_size(content), *content]
        elif data_reply is not None and data_reply.code == 354:
            chunks = data_form(content)
        else:
            return [self._refused(data_reply)] * accepted
        count = accepted if self._lmtp else 1
        if not await connection.stream(chunks, self._limits.data_timeout):
            return [await self._interrupted()] * accepted
        replies = await connection.replies(count, self._limits.data_timeout)
        self._unfinished = False
        attempts = [self._final(reply) for reply in replies]
        if len(attempts) < count:
            lost = f"{connection.failure or _OUT_OF_STEP} (after the end of the message)"
            attempts += [self._attempt(Result.DEFERRED, lost)] * (count - len(attempts))
        return attempts if self._lmtp else attempts * accepted

    async def _interrupted(self) -> Attempt:
        """Judge a peer that answered, or was lost, in the middle of the message; no more of it is sent."""
        early = await self._connection.replies(1, 0)
        # A single reply is everybody's in SMTP only; an early 2xx means nothing.
        refusal = early[0] if early and early[0].code >= 400 and not self._lmtp else None
        attempt = self._refused(refusal)
        self._connection.abort()
        return attempt

    def _final(self, reply: PeerReply) -> Attempt:
        if _positive(reply):
            return self._attempt(Result.DELIVERED, reply.line)
        attempt = self._refused(reply)
        return attempt if reply.code >= 400 else attempt._replace(elsewhere=False)

    def _refused(self, reply: PeerReply | None, *, rcpt: bool = False) -> Attempt:
        """Judge a reply that is not the wanted one; None: there is none, because the connection failed."""
        if reply is None:
            return self._attempt(Result.DEFERRED, self._connection.failure or _OUT_OF_STEP, elsewhere=True)
        if reply.code < 400:
            self._connection.abort()
            return self._attempt(Result.DEFERRED, f"451 4.5.0 unexpected reply: {reply.line}", elsewhere=True)
        if reply.code < 500:
            return self._attempt(Result.DEFERRED, reply.line, elsewhere=True)
        if rcpt and reply.code == 552 and reply.enhanced in ("", "5.5.3"):
            # RFC 5321 section 4.5.3.1.10: to RCPT, 552 means too many recipients and is to be read as 452.
            return self._attempt(Result.DEFERRED, f"452 4.5.3 {reply.line}")
        return self._attempt(Result.FAILED, reply.line)

    def _attempt(self, result: Result, reply: str, *, elsewhere: bool = False) -> Attempt:
        dsn = result is Result.DELIVERED and "DSN" in self.extensions
        converted = self._converted if result is Result.DELIVERED else ""
        return Attempt(Outcome(result, reply, self._label, self._connection.tls, dsn, converted), elsewhere)


def _positive(reply: PeerReply) -> bool:
    return reply.code < 300


def _filled(replies: list[PeerReply], count: int) -> list[PeerReply | None]:
    """Return the first `count` of `replies`, None standing for those that did not come."""
    return [*replies[:count], *[None] * (count - len(replies))]
