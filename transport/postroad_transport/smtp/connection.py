"""The connection under the SMTP commands: input, output, deadlines, TLS, end. It knows no command.

One coroutine per connection reads from an :class:`InputBuffer` and writes to a :class:`ReplyWriter`. Three rules:

- Replies leave when the input is used up, so a pipelined group is answered with one write (RFC 2920).
- The end of the input is seen where more input is wanted, never as a cancellation: what was received whole is
  worked off and answered, also when the client has closed its sending side.
- A connection that is gone cancels the coroutine, except while a message is being handed over (`_handing_over`).
"""

from __future__ import annotations

import asyncio
import ssl
from math import inf
from typing import Any

from aiosmtpd.smtp import TLSSetupException

from postroad_transport.smtp.data import Sink
from postroad_transport.smtp.lines import InputBuffer
from postroad_transport.smtp.timers import DeadlineTimer, extend_for_progress
from postroad_transport.smtp.writer import ReplyWriter

HIGH_WATER = 65_536
"""Bytes of input kept for a client that does not wait for replies; beyond, the socket is not read."""


class Disconnected(Exception):  # noqa: N818 (an event that ends a session, not a fault)
    """There is no more input."""


class Connection:
    """Mixin with the I/O of one server-side connection; the class it is mixed into runs `_handle_client`."""

    input_line_limit: int = 12_288
    """Bytes of any line, AUTH's responses included (RFC 4954 section 4)."""
    minimum_rate: float = 100.0
    """Bytes per second below which a sender of content is cut once its idle time is used up."""
    tls_handshake_timeout: float = 30.0
    timeout_reply: bytes = b""
    """Sent before a connection is closed for its timer."""
    shutdown_reply: bytes = b"421 4.3.2 Service shutting down\r\n"

    loop: asyncio.AbstractEventLoop
    transport: Any
    session: Any
    _writer: ReplyWriter
    _timeout_duration: float
    _handler_coroutine: asyncio.Task[None] | None

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the state of a connection that is not made yet."""
        self.loop = loop
        self._input = InputBuffer(self.input_line_limit)
        self._timer = DeadlineTimer(loop, self._timeout_cb)
        self._waiter: asyncio.Future[None] | None = None
        self._resume_waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._eof = False
        self._reading_paused = False
        self._write_paused = False
        self._handing_over = False
        self._stopping = False
        self._ending = False

    # The transport's callbacks.

    def data_received(self, data: bytes) -> None:
        """Take bytes: into the content being read, or into the buffer of commands."""
        sink = self._sink
        if sink is None:
            self._input.feed(data)
            if not self._reading_paused and len(self._input) > HIGH_WATER:
                self._reading_paused = True
                self.transport.pause_reading()
        else:
            timer = self._timer
            timer.deadline = extend_for_progress(
                timer.deadline,
                self.loop.time(),
                len(data),
                idle=self._timeout_duration,
                minimum_rate=self.minimum_rate,
            )
            rest = sink.feed(data)
            if rest is None:
                return
            self._sink = None
            if rest:
                self._input.feed(rest)
        self._input_arrived()

    def _input_arrived(self) -> None:
        """Let what has come in be worked off."""
        self._wake()

    def eof_received(self) -> bool:
        """Note the end of input. A connection in clear stays open for the replies that are due."""
        self._eof = True
        self._wake()
        # On TLS the answer has no effect but a warning: close_notify closes both ways there.
        return self.session.ssl is None

    def connection_lost(self, error: Exception | None) -> None:
        """Release what waits for this connection."""
        if self._writer.closed and self.transport is None:
            return
        self._eof = True
        self._writer.closed = True
        self._timer.cancel()
        self.transport = None
        waiting = self._waiter is not None
        self._wake()
        self.resume_writing()
        if not waiting and not self._handing_over and self._handler_coroutine is not None:
            self._handler_coroutine.cancel()

    def pause_writing(self) -> None:
        """Hold the coroutine at its next wait: the client does not read its replies."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Let it go on."""
        self._write_paused = False
        waiter, self._resume_waiter = self._resume_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake(self) -> None:
        """Let the coroutine go on, but not past a message that is being handed over."""
        if self._handing_over:
            return
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # What the coroutine waits for.

    async def _flushed(self) -> None:
        """Send the collected replies; wait while the transport holds too much that the client does not read."""
        self._writer.flush()
        while self._write_paused:
            self._resume_waiter = self.loop.create_future()
            await self._resume_waiter

    async def _more_input(self) -> None:
        """Send the collected replies, then wait for input. Raises Disconnected when there will be none.

        Returns without any now and then: the caller looks, and calls again.
        """
        self._writer.flush_soon()
        if self._write_paused:
            await self._flushed()
            return  # what came in meanwhile wakes nobody any more
        if self._eof and not self._handing_over:
            raise Disconnected
        self._resume_reading()
        self._waiter = self.loop.create_future()
        await self._waiter

    def _resume_reading(self) -> None:
        # What comes in behind a message that is being handed over only waits.
        if self._reading_paused and not self._handing_over and self.transport is not None:
            self._reading_paused = False
            self.transport.resume_reading()

    async def _receive(self, sink: Sink) -> None:
        """Read into `sink` until it has enough. Raises Disconnected when the input ends before."""
        rest = sink.feed(self._input.take())
        if rest is not None:
            if rest:
                self._input.feed(rest)
            return
        self._sink = sink
        try:
            while self._sink is not None:
                await self._more_input()
        finally:
            self._sink = None

    # Deadlines.

    def _reset_timeout(self, duration: float | None = None) -> None:
        self._timer.start(duration or self._timeout_duration)

    def _timeout_cb(self) -> None:
        """Close a connection that waits for its client in vain; bear with one that waits for us."""
        timer = self._timer
        if self._writer.closed:
            # The client does not read what is left to be sent, and so never comes to the end.
            self.transport.abort()
            return
        late = self.loop.time() >= timer.deadline
        waits_for_client = not self._handing_over and (self._waiter is not None or self._resume_waiter is not None)
        receiving = self._sink is not None and self._sink.fault is None
        if not late and (receiving or not waits_for_client):
            # The whole session's time is up in the middle of a message: let it finish, then stop.
            timer.limit = inf
            self._stopping = True
            self.shutdown_reply = self.timeout_reply or self.shutdown_reply
            timer.start(max(0.0, timer.deadline - self.loop.time()))
        elif waits_for_client:
            self._timed_out()
        else:
            timer.start(self._timeout_duration)

    def _timed_out(self) -> None:
        if self.timeout_reply:
            self._writer.write(self.timeout_reply)
        self._writer.close()
        self._timer.limit = inf
        self._timer.start(self._timeout_duration)

    # TLS.

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        """Upgrade to TLS as server. What was received in clear and not yet used is dropped (RFC 3207 section 4.2).

        Raises
        ------
        TLSSetupException
            The handshake failed; its cause says how.
        """
        await self._flushed()
        if self._eof:
            raise Disconnected
        self._input.clear()
        self._resume_reading()
        clear = self.transport
        try:
            transport = await self.loop.start_tls(
                clear,
                self,  # type: ignore[arg-type]  # the class this is mixed into is a protocol
                context,
                server_side=True,
                ssl_handshake_timeout=self.tls_handshake_timeout,
            )
        except (TimeoutError, OSError) as error:
            clear.close()
            # Event loops tell nobody that a connection was lost in the middle of a handshake.
            self.loop.call_soon(self.connection_lost, error)
            raise TLSSetupException from error
        if transport is None or self.transport is None:
            raise Disconnected
        self.transport = transport
        self._writer.transport = transport


def tls_facts(transport: asyncio.BaseTransport) -> dict[str, Any] | None:
    """Return what aiosmtpd keeps in ``session.ssl``; None in clear."""
    if not isinstance(transport.get_extra_info("sslcontext"), ssl.SSLContext):
        return None
    names = ("sslcontext", "ssl_object", "peercert", "cipher", "compression")
    return {name: transport.get_extra_info(name) for name in names}
