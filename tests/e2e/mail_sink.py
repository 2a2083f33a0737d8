"""A next hop that remembers what it took, and can be told to refuse or to be slow."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

EHLO = (
    b"250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 104857600\r\n"
    b"250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES"
)


@dataclass
class MailSink:
    """What arrived. ``rcpt_reply`` and ``data_reply`` may be changed at any time."""

    port: int = 0
    recipients: Counter[str] = field(default_factory=Counter)
    bodies: list[bytes] = field(default_factory=list)
    keep_bodies: bool = True
    rcpt_reply: bytes = b"250 2.1.5 Ok"
    data_reply: bytes = b"250 2.0.0 Ok"
    connections: int = 0


class _Session(asyncio.Protocol):
    """Just enough ESMTP, pipelined, with 8BITMIME, SIZE and ENHANCEDSTATUSCODES."""

    def __init__(self, sink: MailSink) -> None:
        self.sink = sink
        self.buffer = b""
        self.in_data = False
        self.pending: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.sink.connections += 1
        transport.write(b"220 sink.example ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            if self.in_data:
                body, found, rest = self.buffer.partition(b"\r\n.\r\n")
                if not found:
                    return
                self.buffer, self.in_data = rest, False
                if self.sink.data_reply.startswith(b"2"):
                    self.sink.recipients.update(self.pending)
                    if self.sink.keep_bodies:
                        self.sink.bodies.append(body.replace(b"\r\n..", b"\r\n.") + b"\r\n")
                self.pending = []
                self.reply(self.sink.data_reply)
                continue
            line, found, rest = self.buffer.partition(b"\r\n")
            if not found:
                return
            self.buffer = rest
            self.command(line)

    def reply(self, line: bytes) -> None:
        self.transport.write(line + b"\r\n")

    def command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"EHLO":
            self.reply(EHLO)
        elif verb == b"MAIL":
            self.pending = []
            self.reply(b"250 2.1.0 Ok")
        elif verb == b"RCPT":
            if self.sink.rcpt_reply.startswith(b"2"):
                self.pending.append(line[line.index(b"<") + 1 : line.index(b">")].decode())
            self.reply(self.sink.rcpt_reply)
        elif verb == b"DATA":
            if self.pending:
                self.in_data = True
                self.reply(b"354 go")
            else:
                self.reply(b"554 5.5.1 no valid recipients")
        elif verb == b"QUIT":
            self.reply(b"221 2.0.0 Bye")
            self.transport.close()
        else:
            self.reply(b"250 2.0.0 Ok")


@contextmanager
def mail_sink(*, port: int = 0, keep_bodies: bool = True) -> Iterator[MailSink]:
    """Run a sink on loopback, in a thread of its own."""
    sink = MailSink(keep_bodies=keep_bodies)
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        server = await loop.create_server(lambda: _Session(sink), "127.0.0.1", port)
        sink.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield sink
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
