"""How long the tier takes to accept 4 kB messages at half of the rate it can do.

    python -m tests.bench.latency --seconds 10

The rate it can do is measured first, by smtp-source. Then messages are sent at fixed moments, whether or not the ones
before have been answered, so that a pause delays every message that falls into it. Measured are the seconds from a
message's moment to its 250. The client is Python and shares the CPUs with the tier, so the figures include its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import deque
from pathlib import Path
from statistics import median, quantiles

import uvloop
from tests.bench.compare import WORKS, Work, measure
from tests.bench.limits import tier
from tests.bench.servers import Postfix, Sink

CONNECTIONS = 50
CONTENT = b"Subject: x\r\n\r\n" + (b"x" * 78 + b"\r\n") * 51 + b".\r\n"
TRANSACTION = b"MAIL FROM:<sender@one.example>\r\nRCPT TO:<recipient@two.example>\r\nDATA\r\n"


class Client(asyncio.Protocol):
    """One session; takes a message at a time, and tells how long it took."""

    def __init__(self, free: deque[Client], waiting: deque[float], took: list[float]) -> None:
        self._free, self._waiting, self._took = free, waiting, took
        self._due = 0.0
        self._replies = 0
        self._input = b""
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(b"EHLO client.example\r\n")

    def send(self, due: float) -> None:
        self._due, self._replies = due, 0
        self.transport.write(TRANSACTION)

    def data_received(self, data: bytes) -> None:
        *lines, self._input = (self._input + data).split(b"\r\n")
        for line in lines:
            if line[3:4] == b"-":
                continue
            if line[:1] not in (b"2", b"3"):
                raise RuntimeError(line.decode())
            self._replies += 1
            if not self.ready.done():
                if self._replies == 2:
                    self.ready.set_result(None)
                    self._free.append(self)
            elif self._replies == 3:
                self.transport.write(CONTENT)
            elif self._replies == 4:
                self._took.append(time.perf_counter() - self._due)
                if self._waiting:
                    self.send(self._waiting.popleft())
                else:
                    self._free.append(self)


async def paced(port: int, rate: float, seconds: float) -> list[float]:
    """Send at `rate` messages a second; return the seconds that each took."""
    loop = asyncio.get_running_loop()
    free: deque[Client] = deque()
    waiting: deque[float] = deque()
    took: list[float] = []
    clients = [
        (await loop.create_connection(lambda: Client(free, waiting, took), "127.0.0.1", port))[1]
        for _ in range(CONNECTIONS)
    ]
    await asyncio.gather(*(client.ready for client in clients))
    begun = time.perf_counter()
    count = int(rate * seconds)
    for number in range(count):
        due = begun + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        if free:
            free.popleft().send(due)
        else:
            waiting.append(due)
    async with asyncio.timeout(30):
        while len(took) < count:
            await asyncio.sleep(0.01)
    for client in clients:
        client.transport.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.0, help="messages a second, where not half of what it can do")
    parser.add_argument("--command", default="", help="how to start the tier, where it is not ./.venv/bin/postroad")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}", flush=True)
    sink = Sink()
    sink.start()
    postfix = Postfix(options.directory / f"postroad-latency-{os.getpid()}", None)
    try:
        postfix.start()
        with tier(options) as server:
            for system in (postfix, server):
                measure(system, Work("warm up", 4096, 20, 0), sink, 500)
            full = median(measure(server, WORKS["accept-4k"], sink, 4000).per_second for _ in range(3))
            rate = options.rate or full / 2
            for system in (postfix, server) * options.runs:
                took = uvloop.run(paced(system.port, rate if system is server else rate / 4, options.seconds))
                cuts = quantiles(took, n=1000)
                print(
                    f"latency: {system.name}, {len(took) / options.seconds:,.0f} messages/s: "
                    f"p50 {cuts[499] * 1000:.1f} ms, p99 {cuts[989] * 1000:.1f}, longest {max(took) * 1000:.0f}",
                    flush=True,
                )
                system.reset()
    finally:
        postfix.stop()
        sink.stop()


if __name__ == "__main__":
    main()
