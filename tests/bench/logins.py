"""Measure good logins beside a guessing attack: 10,000 bad logins from 100 addresses.

    python -m tests.bench.logins

Prints the latency of good logins without an attack, during one with the bans of a new connector, and during one with
bans turned off. Each good login is by another user, so that none is answered from memory. This judges nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import secrets
import shutil
import tempfile
import time
from collections import Counter
from itertools import count
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


async def good(
    port: int, stop: asyncio.Event, numbers: count[int], options: argparse.Namespace
) -> tuple[list[float], Counter[int]]:
    """Log in now and then until `stop`; return the seconds that each took from AUTH to the reply, and the replies."""
    latencies: list[float] = []
    replies: Counter[int] = Counter()

    async def one(number: int) -> None:
        async with Client(port, f"127.7.200.{number % options.homes + 1}") as client:
            if await client.reply() != 220:
                replies[421] += 1
                return
            await client.ask("EHLO good.example")
            begin = time.perf_counter()
            replies[await client.log_in(f"user{number % USERS}", "right")] += 1
            latencies.append(time.perf_counter() - begin)

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


def tell(name: str, latencies: list[float], replies: Counter[int]) -> None:
    milliseconds = [1000 * seconds for seconds in latencies]
    tenths = quantiles(milliseconds, n=20)
    print(
        f"{name}: {len(latencies)} good logins, median {median(milliseconds):.0f} ms, p95 {tenths[-1]:.0f} ms,"
        f" most {max(milliseconds):.0f} ms, replies {dict(replies)}",
        flush=True,
    )


async def measure(options: argparse.Namespace, port: int, numbers: count[int], name: str) -> None:
    stop = asyncio.Event()
    watching = asyncio.create_task(good(port, stop, numbers, options))
    if name == "calm":
        await asyncio.sleep(options.calm)
    else:
        begin = time.perf_counter()
        replies = await attack(port, options.attempts, options.addresses, options.parallel)
        print(f"{name}: attack over after {time.perf_counter() - begin:.0f} s, replies {dict(replies)}", flush=True)
    stop.set()
    tell(name, *await watching)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--attempts", type=int, default=10_000)
    parser.add_argument("--addresses", type=int, default=100)
    parser.add_argument("--parallel", type=int, default=4, help="connections of each address at a time")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between good logins")
    parser.add_argument("--homes", type=int, default=250, help="addresses that good logins come from, in turn")
    parser.add_argument("--calm", type=float, default=20.0, help="seconds without an attack")
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
                asyncio.run(measure(options, server.port, numbers, "calm"))
            name = "attack, bans off" if bans else "attack, bans as they are"
            asyncio.run(measure(options, server.port, numbers, name))
        finally:
            server.stop()
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
