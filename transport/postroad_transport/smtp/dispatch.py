"""Commands as they come in, each to its verb: at once where nothing has to be waited for, else by the coroutine.

The coroutine of a session sleeps nearly always. What wakes it costs as much as the answer to a command, so commands
that need not wait are answered from the transport's callback, and so are DATA and the end of a commit: meanwhile the
coroutine stays where it is. It is woken for a verb that waits (AUTH, STARTTLS, BDAT, a partner's MAIL), for a client
that does not read its replies, and for the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiosmtpd.smtp import TLSSetupException

from postroad_transport.smtp import replies
from postroad_transport.smtp.connection import Disconnected
from postroad_transport.smtp.content import ContentVerbs
from postroad_transport.smtp.data import DataScanner
from postroad_transport.smtp.lines import Flaw

VerbAtOnce = Callable[[Any, bytes], bytes]
Verb = Callable[[Any, bytes], "bytes | Awaitable[bytes]"]


class Dispatch(ContentVerbs):
    """Mixin with the loop of commands; the class it is mixed into has the verbs."""

    _verbs: Mapping[bytes, Verb]
    """By name in upper case: all of them."""
    _verbs_at_once: Mapping[bytes, VerbAtOnce]
    """Those that wait for nothing."""
    _between_commands: bool
    _line_due: bytes | None
    """The command that the coroutine was woken for."""

    def _tls_failed(self, error: TLSSetupException) -> None:
        """Count a handshake that failed, and end the session."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a refused connection go nowhere."""
        if self._sink is None and self._is_parked():
            # What is out of the ordinary is looked at one by one below.
            line = None if self._ending or self._write_paused or self._stopping else self._input.lone_line(data)
            if line is None:
                self._input.feed(data)
                answered = self._answer_at_once()
            else:
                answered = self._answer_line(line) and not self._ending
            if not answered:
                self._wake()
        elif self._handler_coroutine is not None:
            super().data_received(data)

    def _is_parked(self) -> bool:
        """Tell whether input may be answered without the coroutine. Once that is woken, the next command is its."""
        return self._between_commands and self._waiter is not None and not self._handing_over

    def _input_arrived(self) -> None:
        if self._is_parked():
            scanner, self._scanner = self._scanner, None
            if scanner is not None:
                self._end_content(scanner)
            if self._answer_at_once():
                return
        self._wake()

    def _answer_at_once(self) -> bool:
        """Answer what has come in without the coroutine, which costs as much as the answer to wake.

        Return False where it must go on: a command that has to wait for something, an end, a client that does not
        read its replies.
        """
        while not self._is_over():
            if self._handing_over:
                break
            line = self._input.next_line()
            if line is None:
                break
            if isinstance(line, Flaw):
                self._refuse_line(line)
                continue
            if not self._answer_line(line):
                return False
            if self._scanner is not None and not self._scan_what_came():
                break
        else:
            return False
        self._resume_reading()
        return True

    def _is_over(self) -> bool:
        """Tell whether no command is to be answered now: the session ends, or the client does not read."""
        return self._ending or self._write_paused or (self._stopping and not self._begun)

    def _answer_line(self, line: bytes) -> bool:
        """Answer one command; leave it to the coroutine, and return False, where it has to wait for something."""
        verb, _, argument = line.partition(b" ")
        at_once = self._verbs_at_once
        method = at_once.get(verb) or at_once.get(verb.upper())
        if method is None:
            self._line_due = line
            return False
        self._timer.postpone(self._timeout_duration)
        try:
            reply = method(self, argument)
        except Exception as error:
            reply = self._internal_error(error)
        self._reply(reply)
        return True

    def _scan_what_came(self) -> bool:
        """Give the input to the scanner that DATA has just set up; return whether the message was all there."""
        scanner = self._scanner
        rest = scanner.feed(self._input.take()) if scanner is not None and len(self._input) else None
        if scanner is None or rest is None:
            return False
        self._sink = self._scanner = None
        if rest:
            self._input.feed(rest)
        self._end_content(scanner)
        return True

    def _end_content(self, scanner: DataScanner) -> None:
        try:
            reply = self._content_received(scanner)
        except Exception as error:
            reply = self._internal_error(error)
        self._reply(reply)

    def _message_done(self, reply: bytes) -> None:
        self._timer.postpone(self._timeout_duration)
        self._reply(reply)
        if not self._between_commands:
            return
        if not self._answer_at_once() or self._eof:
            self._wake()

    async def _converse(self) -> None:
        while not self._ending:
            if self._stopping and not self._begun:
                self._writer.write(self.shutdown_reply)
                return
            line, self._line_due = self._line_due, None
            if line is not None:
                await self._run(line)
            elif self._write_paused:
                await self._flushed()
            elif self._answer_at_once():
                await self._more_commands()

    async def _more_commands(self) -> None:
        self._between_commands = True
        try:
            await self._more_input()
        finally:
            self._between_commands = False

    async def _run(self, line: bytes) -> None:
        try:
            answer = self._answer(line)
            reply = answer if isinstance(answer, bytes) else await answer
        except (Disconnected, ConnectionResetError):
            raise
        except TLSSetupException as error:
            self._tls_failed(error)
            return
        except Exception as error:
            reply = self._internal_error(error)
        self._reply(reply)

    def _reply(self, reply: bytes) -> None:
        if reply:
            self._writer.write(reply)
            if reply >= b"5":  # 5yz
                self._count_error()

    def _answer(self, line: bytes) -> bytes | Awaitable[bytes]:
        self._timer.postpone(self._timeout_duration)
        verb, _, argument = line.partition(b" ")
        method = self._verbs.get(verb) or self._verbs.get(verb.upper())
        return replies.UNRECOGNIZED if method is None else method(self, argument)

    def _refuse_line(self, flaw: Flaw) -> None:
        super()._refuse_line(flaw)
        self.refused("line", flaw.name.lower(), "500")
        self._count_error()

    def _count_error(self) -> None:
        """Count one refused command; the count starts anew with each message taken."""
        self._errors += 1
        limit = self.connector.config.limits.errors
        if limit and self._errors >= limit:
            self._writer.write(replies.TOO_MANY_ERRORS)
            self._ending = True
