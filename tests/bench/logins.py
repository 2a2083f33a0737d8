"""Measure good logins beside a guessing attack: 10,000 bad logins from 100 addresses.

    python -m tests.bench.logins

Prints the latency of good logins without an attack, during one with the bans of a new connector, and during one with
bans turned off; and the CPU seconds that the tier and the attacker used meanwhile. Each good login is by another
user, so that none is answered from memory. This judges nothing.

The attacker is a process of its own with the lowest priority: a real one has its own machine, so what its program
costs must not slow the server down. What it makes the server do counts in full.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import multiprocessing
import os
import resource
import secrets
import shutil
import tempfile
import time
from collections import Counter
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles

import argon2
from tests.bench.servers import Postroad

USERS = 1000
_MANIFESTS = """---
apiVersion: postroad.dev/v1alpha1
kind: ReceiveConnector
metadata:
  name: submission
spec:
  usage: Client
  bindings:
    - port: @PORT@
  remoteIPRanges: [127.7.0.0/16]
  authMechanisms: [BasicAuth]
  authentication:
    htpasswdSecretRef: {name: users, key: htpasswd}
    bans: %s
---
apiVersion: v1
kind: Secret
metadata:
  name: users
stringData:
  htpasswd: |
%s
"""


class Client:
    """A session from an address of loopback."""

    def __init__(self, port: int, source: str) -> None:
        self._address = port, source

    async def __aenter__(self) -> Client:
        port, source = self._address
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def reply(self) -> int:
        while True:
            line = await self._reader.readline()
            if line[3:4] != b"-":
                return int(line[:3] or 0)

    async def ask(self, command: str) -> int:
        self._writer.write(command.encode() + b"\r\n")
        return await self.reply()

    async def log_in(self, user: str, password: str) -> int:
        return await self.ask("AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode())


Timed = list[tuple[float, float]]
"""When each good login began, in seconds from the first on, and the seconds from AUTH to its reply."""


async def good(
    port: int, stop: asyncio.Event, numbers: count[int], options: argparse.Namespace
) -> tuple[Timed, Counter[int]]:
    """Log in now and then until `stop`; return when each began and what it took, and the replies."""
    latencies: Timed = []
    replies: Counter[int] = Counter()
    start = time.perf_counter()

    async def one(number: int) -> None:
        async with Client(port, f"127.7.200.{number % options.homes + 1}") as client:
            if await client.reply() != 220:
                replies[421] += 1
                return
            await client.ask("EHLO good.example")
            begin = time.perf_counter()
            replies[await client.log_in(f"user{number % USERS}", "right")] += 1
            latencies.append((begin - start, time.perf_counter() - begin))

    tasks = []
    while not stop.is_set():
        tasks.append(asyncio.create_task(one(next(numbers))))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), options.every)
    await asyncio.gather(*tasks)
    return latencies, replies


async def attack(port: int, attempts: int, addresses: int, parallel: int) -> Counter[int]:
    """Make so many bad logins, `parallel` from each address at a time; return the replies."""
    replies: Counter[int] = Counter()
    left = count(attempts, -1)

    async def guess(source: str) -> None:
        while next(left) > 0:
            try:
                async with Client(port, source) as client:
                    if (code := await client.reply()) != 220:
                        replies[code] += 1
                        continue
                    await client.ask("EHLO bad.example")
                    for _ in range(3):
                        replies[await client.log_in(f"user{secrets.randbelow(USERS)}", secrets.token_hex(4))] += 1
                        if next(left) <= 0:
                            return
            except OSError:
                replies[0] += 1

    sources = [f"127.7.100.{number + 1}" for number in range(addresses)]
    await asyncio.gather(*(guess(source) for source in sources for _ in range(parallel)))
    return replies


def attacker(answer: Connection, port: int, options: argparse.Namespace) -> None:
    """Attack, in a process with the lowest priority; send the replies, the seconds and the CPU seconds it took."""
    os.nice(19)
    begin = time.perf_counter()
    replies = asyncio.run(attack(port, options.attempts, options.addresses, options.parallel))
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer.send((dict(replies), time.perf_counter() - begin, used.ru_utime + used.ru_stime))


def tell(name: str, timed: Timed, replies: Counter[int], options: argparse.Namespace) -> None:
    milliseconds = [1000 * seconds for _, seconds in timed]
    print(
        f"{name}: {len(timed)} good logins, median {median(milliseconds):.0f} ms,"
        f" p95 {quantiles(milliseconds, n=20)[-1]:.0f} ms, most {max(milliseconds):.0f} ms, replies {dict(replies)}",
        flush=True,
    )
    if options.each:
        print("  " + " ".join(f"{begun:.0f}s:{1000 * seconds:.0f}" for begun, seconds in timed))


async def measure(options: argparse.Namespace, server: Postroad, numbers: count[int], name: str) -> None:
    stop = asyncio.Event()
    before, begin = server.cpu(), time.perf_counter()
    watching = asyncio.create_task(good(server.port, stop, numbers, options))
    if name == "calm":
        await asyncio.sleep(options.calm)
    else:
        answer, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=attacker, args=(sender, server.port, options))
        process.start()
        replies, seconds, used = await asyncio.to_thread(answer.recv)
        process.join()
        print(f"{name}: over after {seconds:.0f} s, replies {replies}, the attacker's CPU {used:.1f} s", flush=True)
    stop.set()
    tell(name, *await watching, options)
    print(f"{name}: the tier's CPU {server.cpu() - before:.1f} s in {time.perf_counter() - begin:.0f} s", flush=True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--attempts", type=int, default=10_000)
    parser.add_argument("--addresses", type=int, default=100)
    parser.add_argument("--parallel", type=int, default=4, help="connections of each address at a time")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between good logins")
    parser.add_argument("--homes", type=int, default=250, help="addresses that good logins come from, in turn")
    parser.add_argument("--calm", type=float, default=20.0, help="seconds without an attack")
    parser.add_argument("--each", action="store_true", help="print the latency of each good login")
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args()
    hashed = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash("right")
    lines = "\n".join(f"    user{number}:{hashed}" for number in range(USERS))
    for bans in ({}, {"failures": 0, "accountFailures": 0}):
        directory = Path(tempfile.mkdtemp(prefix="postroad-bench-", dir=options.directory))
        server = Postroad(directory, None, more=_MANIFESTS % (json.dumps(bans), lines))
        try:
            server.start()
            numbers = count()
            if not bans:
                asyncio.run(measure(options, server, numbers, "calm"))
            name = "attack, bans off" if bans else "attack, bans as they are"
            asyncio.run(measure(options, server, numbers, name))
        finally:
            server.stop()
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
