"""Measure the spool by itself: commits of concurrent committers, each settled after its commit.

    python -m tests.bench.spool --sizes 4096,65536 --committers 1,50

Prints messages a second, transactions a message, CPU microseconds a message (user and system, event loop and writers
in one process) and the latency of a commit. This judges nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
import time
from pathlib import Path
from statistics import quantiles

import uvloop

from postroad_transport.message import Envelope, Recipient
from postroad_transport.spool.sqlite import SqliteStore
from postroad_transport.telemetry.metrics import Metrics

_HEAD = b"Received: from bench.example\r\n" * 10


def _envelope(number: int, size: int) -> Envelope:
    return Envelope(
        id=f"message-{number}",
        received_at=time.time(),
        sender="sender@one.example",
        recipients=[Recipient(address="recipient@two.example")],
        size=size,
        connector="bench",
        client="127.0.0.1",
        hops=1,
    )


async def measure(directory: Path, size: int, committers: int, messages: int, *, settle: bool) -> str:
    """Commit `messages` of `size` bytes; return a line of the table."""
    metrics = Metrics()
    store = await SqliteStore.open(directory / "worker-0.db", metrics=metrics)
    content = (_HEAD, os.urandom(size))
    latencies: list[float] = []
    numbers = iter(range(messages))

    async def commit() -> None:
        for number in numbers:
            envelope = _envelope(number, size)
            begin = time.perf_counter()
            await store.commit(envelope, content)
            latencies.append(time.perf_counter() - begin)
            if settle:
                store.settle(envelope.id)

    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await asyncio.gather(*(commit() for _ in range(committers)))
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    await store.close()
    flushes = metrics.registry.get_sample_value("postroad_spool_commits_total") or 0
    user, system = (
        1e6 * (getattr(after, name) - getattr(before, name)) / messages for name in ("ru_utime", "ru_stime")
    )
    hundredths = quantiles(latencies, n=100)
    kept = "" if settle else ", never settled"
    return (
        f"| {size / 1024:,.0f} kB{kept} | {committers} | {messages / seconds:,.0f} | {flushes / messages:.3f} "
        f"| {user:.0f} + {system:.0f} | {1000 * hundredths[49]:.1f} / {1000 * hundredths[98]:.1f} |"
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="4096,16384,65536,262144,1048576", help="bytes")
    parser.add_argument("--committers", default="1,50")
    parser.add_argument("--bytes", type=int, default=200_000_000, help="about how much to write for each line")
    parser.add_argument("--most", type=int, default=20_000, help="messages for each line, at the most")
    parser.add_argument("--keep", action="store_true", help="never settle")
    parser.add_argument("--directory", default="/var/tmp", help="on the disk to measure")
    options = parser.parse_args()
    print("| size | committers | messages/s | flushes a message | CPU µs a message | commit p50 / p99 ms |")
    print("|---|---|---|---|---|---|")
    for size in map(int, options.sizes.split(",")):
        for committers in map(int, options.committers.split(",")):
            messages = min(options.most, options.bytes // size)
            with tempfile.TemporaryDirectory(prefix="postroad-bench-", dir=options.directory) as directory:
                line = measure(Path(directory), size, committers, messages, settle=not options.keep)
                print(uvloop.run(line), flush=True)


if __name__ == "__main__":
    main()
