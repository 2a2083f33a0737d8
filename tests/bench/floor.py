"""The floor: what receiving and storing mail costs in Python when nothing is decided.

A bare asyncio protocol on uvloop and a group-committed log: every command is believed, a message is appended to a
segment and 250 follows its fdatasync. No policy, no limits, no TLS, no queue, no delivery. What the tier's accept
path costs beyond this is the price of what it does.

    python -m tests.bench.floor --port 2525 --directory /var/tmp/floor --workers 2
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

_SEGMENT_BYTES = 256 * 1024 * 1024
_EHLO = b"250-floor\r\n250-PIPELINING\r\n250-SIZE 0\r\n250 8BITMIME\r\n"
_END = b"\r\n.\r\n"


class Log:
    """Appends to a segment; those who wait while one batch is flushed are the next batch."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._thread = ThreadPoolExecutor(1)
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[bytes, Receiver]] = []
        self._busy = False
        self._size = 0

    def append(self, message: bytes, receiver: Receiver) -> None:
        self._waiting.append((message, receiver))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        batch, self._waiting = self._waiting, []
        future = self._loop.run_in_executor(self._thread, self._write, [message for message, _ in batch])
        future.add_done_callback(lambda done: self._finish(batch, done))

    def _write(self, messages: list[bytes]) -> None:
        if self._size > _SEGMENT_BYTES:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._size = 0
        data = b"".join(messages)
        self._size += os.write(self._descriptor, data)
        os.fdatasync(self._descriptor)

    def _finish(self, batch: list[tuple[bytes, Receiver]], done: asyncio.Future[None]) -> None:
        done.result()
        for _, receiver in batch:
            receiver.stored()
        self._busy = bool(self._waiting)
        if self._busy:
            self._start()


class Receiver(asyncio.Protocol):
    """One session."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._buffer = bytearray()
        self._in_data = False
        self._searched = 0
        self._waits = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.write(b"220 floor ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._waits:
            self._proceed()

    def stored(self) -> None:
        self._waits = False
        self._transport.write(b"250 2.0.0 stored\r\n")
        self._proceed()

    def _proceed(self) -> None:
        buffer = self._buffer
        replies = []
        while buffer and not self._waits:
            if self._in_data:
                end = buffer.find(_END, self._searched)
                if end < 0:
                    self._searched = max(0, len(buffer) - len(_END) + 1)
                    break
                message = bytes(buffer[: end + 2])
                del buffer[: end + len(_END)]
                self._in_data, self._waits = False, True
                self._log.append(message.replace(b"\r\n..", b"\r\n.") if b"\r\n.." in message else message, self)
                break
            end = buffer.find(b"\r\n")
            if end < 0:
                break
            verb = bytes(buffer[:4]).upper()
            del buffer[: end + 2]
            if verb == b"DATA":
                replies.append(b"354 go ahead\r\n")
                self._in_data, self._searched = True, 0
            elif verb == b"EHLO":
                replies.append(_EHLO)
            elif verb == b"QUIT":
                self._transport.write(b"".join(replies) + b"221 2.0.0 bye\r\n")
                self._transport.close()
                return
            else:
                replies.append(b"250 2.0.0 ok\r\n")
        if replies:
            self._transport.write(b"".join(replies))


async def serve(port: int, path: Path) -> None:
    loop = asyncio.get_running_loop()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    log = Log(path)
    await loop.create_server(lambda: Receiver(log), sock=listener)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    workers = []
    for number in range(options.workers):
        pid = os.fork()
        if pid == 0:
            uvloop.run(serve(options.port, options.directory / f"segment-{number}"))
            os._exit(0)
        workers.append(pid)

    def forward(_signal: int, _frame: object) -> None:
        for worker in workers:
            os.kill(worker, signal.SIGTERM)

    signal.signal(signal.SIGTERM, forward)
    for worker in workers:
        os.waitpid(worker, 0)


if __name__ == "__main__":
    main()
