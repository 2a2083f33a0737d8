"""Measure what is not messages per second: memory, idle connections, reloads and growth.

    python -m tests.bench.limits --only idle,large,reload,growth,queued

Each prints its figures; this judges nothing. The client is Python and shares the CPUs with the tier.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shutil
import smtplib
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from tests.bench.compare import WORKS, Kind, Work, load, measure
from tests.bench.processes import wait_until
from tests.bench.servers import Postroad, Sink

_UNLIMITED = """---
apiVersion: postroad.dev/v1alpha1
kind: ReceiveConnector
metadata:
  name: unlimited
spec:
  usage: Internet
  bindings:
    - port: @PORT@
  remoteIPRanges: [127.1.0.0/16]
  limits:
    connections: 0
    connectionsPerSource: 0
"""


def resident(pid: int) -> dict[str, int]:
    """Return bytes of memory of a process: resident now, and at most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {"now": found["VmRSS"], "most": found["VmHWM"]}


@contextmanager
def tier(options: argparse.Namespace, sink: Sink | None = None, more: str = "") -> Iterator[Postroad]:
    """Start a tier that drops what it accepts, or delivers it to `sink`; `more` manifests are added."""
    directory = Path(tempfile.mkdtemp(prefix="postroad-bench-", dir=options.directory))
    relay_to = sink.port if sink else None
    server = Postroad(directory, relay_to, options.command) if options.command else Postroad(directory, relay_to)
    server.more = more
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def domains(count: int) -> str:
    """Return manifests of so many accepted domains."""
    return "".join(
        f"---\napiVersion: postroad.dev/v1alpha1\nkind: AcceptedDomain\nmetadata:\n  name: d{number}\n"
        f"spec:\n  domain: d{number}.example\n  type: ExternalRelay\n"
        for number in range(count)
    )


def connectors(count: int) -> str:
    """Return manifests of so many receive connectors, each for an address of its own."""
    return "".join(
        f"---\napiVersion: postroad.dev/v1alpha1\nkind: ReceiveConnector\nmetadata:\n  name: c{number}\n"
        f"spec:\n  usage: Internet\n  bindings:\n    - port: @PORT@\n"
        f"  remoteIPRanges: [127.9.{number // 250}.{number % 250 + 1}/32]\n"
        for number in range(count)
    )


def idle(options: argparse.Namespace) -> None:
    """10,000 connections that have said EHLO: memory of each, and the 4 kB rate beside them."""
    count = options.connections
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 2000) if hard > 0 else count + 2000, hard))
    sink = options.sink
    with tier(options, more=_UNLIMITED) as server:
        measure(server, Work("warm up", 4096, 50, 0), sink, 3000)
        before_rate = median(measure(server, WORKS["accept-4k"], sink, 4000).per_second for _ in range(3))
        pids = server.workers
        before = sum(resident(pid)["now"] for pid in pids)
        sockets = []
        for number in range(count):
            sock = socket.socket()
            sock.bind((f"127.1.{number // 5000}.1", 0))
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(b"EHLO idle.example\r\n")
            sockets.append(sock)
        for sock in sockets:
            said = b""
            while b"\r\n250 " not in said and (data := sock.recv(4096)):
                said += data
        after = sum(resident(pid)["now"] for pid in pids)
        rate = median(measure(server, WORKS["accept-4k"], sink, 4000).per_second for _ in range(3))
        print(
            f"idle: {count:,} connections, {(after - before) / count / 1000:.1f} kB of the workers' memory each; "
            f"4 kB messages/s {before_rate:,.0f} without, {rate:,.0f} beside them"
        )
        for sock in sockets:
            sock.close()


def large(options: argparse.Namespace) -> None:
    """One message of 30 MB: what it adds to a worker's memory, at the most."""
    size = 30_000_000
    body = b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * (size // 80)
    sink = options.sink
    for name, to in (("accept", None), ("accept + deliver", sink)):
        with tier(options, to) as server:
            measure(server, Work("warm up", 4096, 20, 0, kind=Kind.RELAY if to else Kind.ACCEPT), sink, 500)
            pids = server.workers
            before = [resident(pid) for pid in pids]
            with smtplib.SMTP("127.0.0.1", server.port) as client:
                client.sendmail("sender@one.example", ["recipient@two.example"], body)
            time.sleep(2)
            after = [resident(pid) for pid in pids]
            grown = max(b["most"] - a["now"] for a, b in zip(before, after, strict=True))
            print(f"large: {name} 30 MB: {grown / len(body):.2f} times its size at the most")


async def _watch(port: int, seconds: float, during: Callable[[], None]) -> tuple[list[float], int]:
    """Send NOOP on 20 sessions and open new ones; return each answer's seconds, and refused sessions."""
    took: list[float] = []
    refused = 0
    end = time.perf_counter() + seconds

    async def session() -> None:
        nonlocal refused
        while time.perf_counter() < end:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if not (await reader.readline()).startswith(b"220"):
                refused += 1
            for _ in range(50):
                begun = time.perf_counter()
                writer.write(b"NOOP\r\n")
                await reader.readline()
                took.append(time.perf_counter() - begun)
                await asyncio.sleep(0.005)
            writer.close()

    changing = asyncio.get_running_loop().run_in_executor(None, during)
    await asyncio.gather(*(session() for _ in range(20)))
    await changing
    return took, refused


def _accepts(port: int, domain: str) -> bool:
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo()
        client.mail("sender@one.example")
        return client.rcpt(f"user@{domain}")[0] == 250


def reload(options: argparse.Namespace) -> None:
    """10,000 accepted domains, one changed while 20 sessions talk: how long answers take meanwhile."""
    with tier(options, more=domains(10_000)) as server:
        manifest = server.directory / "manifests" / "tier.yaml"
        text = manifest.read_text()

        def nothing() -> None:
            time.sleep(2)

        def change() -> None:
            time.sleep(2)
            manifest.write_text(text.replace("d7.example", "changed.example"))
            wait_until(lambda: _accepts(server.port, "changed.example"), "the reload")

        time.sleep(3)
        for name, during in (("nothing happens", nothing), ("reload", change)):
            took, refused = asyncio.run(_watch(server.port, options.seconds, during))
            cuts = quantiles(took, n=1000)
            print(
                f"reload: {name}: {len(took):,} answers, p99 {cuts[989] * 1000:.0f} ms, "
                f"p99.9 {cuts[998] * 1000:.0f} ms, longest {max(took) * 1000:.0f} ms, {refused} sessions refused"
            )


def _settle(server: Postroad) -> None:
    """Wait until the tier has read its manifests once more, as it does when it begins to watch them."""
    before = -1.0
    while server.cpu() - before > 0.02:
        before = server.cpu()
        time.sleep(1)


def growth(options: argparse.Namespace) -> None:
    """CPU a message of 4 kB with few and many domains and connectors."""
    sink = options.sink
    for name, more in (
        ("1 domain, 1 connector", ""),
        ("10,000 domains, 200 connectors", domains(9_999) + connectors(199)),
    ):
        with tier(options, more=more) as server:
            measure(server, Work("warm up", 4096, 20, 0), sink, 500)
            _settle(server)
            runs = [measure(server, WORKS["accept-4k"], sink, 3000) for _ in range(options.runs)]
            print(f"growth: {name}: {median(run.cpu_ms for run in runs):.2f} ms CPU a message")


def queued(options: argparse.Namespace) -> None:
    """CPU of taking a message of 1 kB while the queue grows, its next hop being down."""
    down = Sink()
    step = options.messages // 10
    with tier(options, down) as server:
        for number in range(1, 11):
            cpu = server.cpu()
            load(server.port, Work("queue", 1024, 50, step), step)
            if number in (1, 2, 5, 10):
                used = (server.cpu() - cpu) * 1000 / step
                print(f"queued: up to {number * step:,} queued: {used:.2f} ms CPU a message")
        memory = sum(resident(pid)["now"] for pid in server.workers)
        print(f"queued: {memory / 1e6:,.0f} MB of memory in the workers")


MEASUREMENTS = {
    "idle": idle,
    "large": large,
    "reload": reload,
    "growth": growth,
    "queued": queued,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help=f"of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--connections", type=int, default=10_000, help="idle ones")
    parser.add_argument("--messages", type=int, default=100_000, help="queued ones")
    parser.add_argument("--seconds", type=float, default=12.0, help="that a reload is watched for")
    parser.add_argument("--command", default="", help="how to start the tier, where it is not ./.venv/bin/postroad")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}", flush=True)
    options.sink = Sink()
    options.sink.start()
    try:
        for name in options.only.split(","):
            MEASUREMENTS[name.strip()](options)
    finally:
        options.sink.stop()


if __name__ == "__main__":
    main()
