"""One TCP connection to a peer: bytes out, replies in, every fault turned into a reason.

Nothing here raises for what a peer does. A connection that has failed says why in :attr:`failure` and is of no
further use.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterable, Sequence
from typing import cast

from postroad_transport.delivery.peer_reply import PeerReply, ReplyParser, ReplySyntaxError
from postroad_transport.message import Chunk

WRITE_SLICE = 256 * 1024
"""Bytes handed to the transport between two looks at its buffer."""
_UNASKED_REPLIES = 64


class SmtpConnection(asyncio.Protocol):
    """The client's end of a connection.

    Attributes
    ----------
    failure
        Why the connection is of no more use, as ``CODE ENHANCED text``; empty while it is sound.
    tls
        TLS version, empty in clear.
    """

    def __init__(self) -> None:
        self.failure = ""
        self.tls = ""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = ReplyParser()
        self._replies: list[PeerReply] = []
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._closed = False

    @property
    def quiet(self) -> bool:
        """Whether the peer has said nothing that was not asked for; if it has, its answers are out of step."""
        return not self._replies and self._parser.idle

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take in reply bytes."""
        try:
            replies = self._parser.feed(data)
        except ReplySyntaxError as error:
            self._fail(f"451 4.5.0 protocol error: {error}")
            return
        if not replies:
            return
        self._replies += replies
        for reply in replies:
            if reply.code == 421:
                # The peer closes after a 421 (RFC 5321 section 3.8), whatever else was asked.
                self.failure = self.failure or reply.line
                self._wake()
                return
        if len(self._replies) > self._wanted + _UNASKED_REPLIES:
            self._fail("451 4.5.0 protocol error: replies to nothing")
        elif len(self._replies) >= self._wanted:
            self._wake()

    def eof_received(self) -> bool:
        """Close our side too: a peer that sends no more replies is of no use."""
        self.failure = self.failure or "451 4.4.2 connection closed by the peer"
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember why."""
        self._closed = True
        number = exc.errno if isinstance(exc, OSError) else None
        reason = os.strerror(number) if number else "closed by the peer"
        self.failure = self.failure or f"451 4.4.2 connection lost: {reason}"
        self._wake()

    def pause_writing(self) -> None:
        """Stop writing until the peer has read some."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on writing."""
        self._paused = False
        if not self._wanted:
            self._wake()

    # What the session calls.

    def write(self, data: bytes) -> None:
        """Send `data` (commands)."""
        if self._transport is not None and not self.failure:
            self._transport.write(data)

    async def replies(self, count: int, seconds: float) -> list[PeerReply]:
        """Wait for `count` replies. Fewer come back only when :attr:`failure` is set.

        Parameters
        ----------
        seconds
            How long to wait; on expiry the connection is aborted.
        """
        if len(self._replies) < count and not self.failure:
            self._wanted = count
            await self._wait(seconds)
            self._wanted = 0
        taken, self._replies = self._replies[:count], self._replies[count:]
        return taken

    async def stream(self, chunks: Sequence[Chunk], seconds: float) -> bool:
        """Send message content, holding back while the peer does not read.

        Returns False when the peer answered or the connection failed before everything was handed over.
        `seconds` is how long the peer may go without reading anything.
        """
        transport = self._transport
        if transport is None or self.failure:
            return False
        if sum(map(len, chunks)) <= WRITE_SLICE:
            transport.writelines(chunks)
            return True
        for piece in _slices(chunks):
            if self.failure or self._replies:
                return False
            transport.write(piece)
            while self._paused and not self.failure and not self._replies:
                self._wanted = 0
                await self._wait(seconds)
        return not self.failure and not self._replies

    async def start_tls(self, context: ssl.SSLContext, server_hostname: str, seconds: float) -> None:
        """Do the TLS handshake.

        Raises
        ------
        ssl.SSLError, OSError, TimeoutError
            The handshake failed; the connection is gone.
        """
        if self._transport is None or self.failure:
            raise ConnectionError(self.failure)
        try:
            upgraded = await self._loop.start_tls(
                self._transport, self, context, server_hostname=server_hostname, ssl_handshake_timeout=seconds
            )
        except BaseException:
            self.failure = self.failure or "451 4.4.2 connection lost in the TLS handshake"
            raise
        if upgraded is None:
            raise ConnectionError("connection lost in the handshake")
        self._transport = upgraded
        self.tls = str(upgraded.get_extra_info("ssl_object").version())

    def peer_certificate(self) -> dict[str, object]:
        """Return the verified certificate of the peer as :meth:`ssl.SSLObject.getpeercert` does."""
        return (self._transport and self._transport.get_extra_info("peercert")) or {}

    def presented_chain(self) -> list[bytes]:
        """Return the certificates that the peer has presented, in DER, its own first; none of it is verified."""
        from postroad_transport.tls.peer import presented_chain  # here, since few sessions need OpenSSL's bindings

        return presented_chain(self._transport and self._transport.get_extra_info("ssl_object"))

    def certificate_der(self) -> bytes | None:
        """Return the peer's certificate, verified or not; None in clear."""
        tls = self._transport and self._transport.get_extra_info("ssl_object")
        return tls.getpeercert(binary_form=True) if tls else None

    def finish(self) -> None:
        """Close once what was written is sent."""
        self.failure = self.failure or "451 4.4.2 connection closed"
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self.failure = self.failure or "451 4.4.2 connection closed"
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, seconds: float) -> None:
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._fail, f"451 4.4.2 no answer in {seconds:g} s")
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self._wake()
        if self._transport is not None:
            self._transport.abort()


def _slices(chunks: Iterable[Chunk]) -> Iterable[Chunk]:
    for chunk in chunks:
        if len(chunk) <= WRITE_SLICE:
            yield chunk
            continue
        view = memoryview(chunk)
        for start in range(0, len(view), WRITE_SLICE):
            yield view[start : start + WRITE_SLICE]
