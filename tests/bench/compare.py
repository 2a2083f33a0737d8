"""Compare the tier with Postfix, and with the floor, on this machine.

    python -m tests.bench.compare --runs 5 --systems postfix,floor,postroad

Every system gets the same load, in turn, A B C A B C, so that all runs of a row lie within the same
minutes. All are durable: fsync comes before 250. Printed are the median (best) of messages per second, the server's
CPU milliseconds per message, and both as ratios to Postfix. This measures; it judges nothing and never fails for
being slow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median

from tests.bench.processes import wait_until
from tests.bench.servers import HERE, Floor, Postfix, Postroad, Server, Sink
from tests.bench.starttls import StarttlsSource, postfix_settings

SYSTEMS = ("postfix", "postfix tuned", "floor", "postroad")


class Kind(StrEnum):
    """What servers are set up for."""

    ACCEPT = "accept"
    RELAY = "relay"
    STARTTLS = "starttls"


@dataclass(frozen=True)
class Work:
    """One row of the table."""

    name: str
    size: int
    sessions: int
    messages: int
    kept: bool = True
    kind: Kind = Kind.ACCEPT
    recipients: int = 1
    resume: bool = False
    """Resume TLS sessions."""


WORKS = {
    "accept-4k": Work("accept 4 kB, kept", 4096, 50, 4000),
    "accept-4k-each": Work("accept 4 kB, one a connection", 4096, 50, 2000, kept=False),
    "accept-64k": Work("accept 64 kB, kept", 65_536, 50, 2000),
    "accept-1m": Work("accept 1 MB, kept", 1_048_576, 10, 300),
    "starttls-4k": Work("accept 4 kB, STARTTLS, one a connection", 4096, 50, 1500, kept=False, kind=Kind.STARTTLS),
    "starttls-4k-resumed": Work(
        "accept 4 kB, STARTTLS resumed, one a connection", 4096, 50, 1000, kept=False, kind=Kind.STARTTLS, resume=True
    ),
    "relay-4k": Work("accept + deliver 4 kB, kept", 4096, 50, 3000, kind=Kind.RELAY),
    "relay-4k-each": Work("accept + deliver 4 kB, one a connection", 4096, 50, 2000, kept=False, kind=Kind.RELAY),
    "relay-64k": Work("accept + deliver 64 kB, kept", 65_536, 50, 1000, kind=Kind.RELAY),
    "relay-1m": Work("accept + deliver 1 MB, kept", 1_048_576, 10, 150, kind=Kind.RELAY),
}
#: Other shapes of the same load, to look for regressions; measured when asked for.
SHAPES = {
    **{f"sessions-{n}": Work(f"accept 4 kB, {n} sessions", 4096, n, 2000) for n in (1, 10, 200)},
    **{
        f"recipients-{n}": Work(f"accept 4 kB, {n} recipients", 4096, 50, 20_000 // n, recipients=n)
        for n in (10, 100)
    },
}
ALL_WORKS = WORKS | SHAPES


@dataclass(frozen=True)
class Run:
    """What one run took."""

    per_second: float
    cpu_ms: float
    resumed: int = 0
    """How many TLS sessions were resumed."""


def load(port: int, work: Work, messages: int) -> None:
    """Send `messages` with smtp-source. Raises RuntimeError when one is refused."""
    command = ["/usr/sbin/smtp-source", "-s", str(work.sessions), "-l", str(work.size), "-m", str(messages)]
    command += ["-r", str(work.recipients), "-f", "sender@one.example", "-t", "recipient@two.example"]
    done = subprocess.run(
        [*command, *(["-d"] if work.kept else []), f"127.0.0.1:{port}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"smtp-source: {done.stderr.strip()}")


def measure(server: Server, work: Work, sink: Sink, messages: int, source: StarttlsSource | None = None) -> Run:
    """Run `work` once; the clock stops when the last message is durable, or has arrived at the sink."""
    arrived = sink.messages()
    resumed = 0
    cpu = server.cpu()
    begun = time.perf_counter()
    if source is None:
        load(server.port, work, messages)
    else:
        resumed = source.send(server.port, work.sessions, messages, work.size, resume=work.resume)
    if work.kind is Kind.RELAY:
        wait_until(lambda: sink.messages() >= arrived + messages, f"{server.name}: the last message", 300)
    elapsed = time.perf_counter() - begun
    run = Run(messages / elapsed, (server.cpu() - cpu) * 1000 / messages, resumed)
    server.reset()
    return run


def make(system: str, directory: Path, kind: Kind, sink: Sink, command: str) -> Server | None:
    """Return a server that only accepts, with STARTTLS or without, or relays; None where a system cannot."""
    relay_to = sink.port if kind is Kind.RELAY else None
    if system.startswith("postfix"):
        postfix = Postfix(directory, relay_to, tuned=system == "postfix tuned")
        if kind is Kind.STARTTLS:
            postfix.more = postfix_settings(directory)
        return postfix
    if system == "floor":
        return Floor(directory) if kind is Kind.ACCEPT else None
    postroad = Postroad(directory, relay_to, command) if command else Postroad(directory, relay_to)
    if kind is Kind.STARTTLS:
        postroad.more = (HERE / "postroad-starttls.yaml").read_text()
    return postroad


@contextmanager
def started(
    options: argparse.Namespace, sink: Sink, directory: Path, kind: Kind, source: StarttlsSource | None
) -> Iterator[list[Server]]:
    """Start every system of one kind, and warm it up; stop them all at the end."""
    with ExitStack() as stack:
        servers = []
        for system in options.systems:
            folder = directory / f"{system.replace(' ', '-')}-{kind}"
            server = make(system, folder, kind, sink, options.command)
            if server is None:
                continue
            stack.callback(server.stop)
            server.start()
            measure(server, Work("warm up", 4096, 20, 0, kind=kind), sink, 200, source)
            servers.append(server)
        yield servers


def report(results: dict[str, dict[str, list[Run]]]) -> Iterator[str]:
    """Yield the table as Markdown."""
    yield "| work | system | messages/s: median (best) | to Postfix | CPU ms a message | to Postfix |"
    yield "|---|---|---|---|---|---|"
    for work, systems in results.items():
        reference = systems.get("postfix")
        for system, runs in systems.items():
            rate, cpu = median(run.per_second for run in runs), median(run.cpu_ms for run in runs)
            line = f"| {ALL_WORKS[work].name} | {system} | {rate:,.0f} ({max(run.per_second for run in runs):,.0f}) "
            if reference:
                rates = median(run.per_second / base.per_second for run, base in zip(runs, reference, strict=True))
                costs = median(run.cpu_ms / max(base.cpu_ms, 1e-6) for run, base in zip(runs, reference, strict=True))
                yield f"{line}| {rates:.2f}x | {cpu:.2f} | {costs:.2f}x |"
            else:
                yield f"{line}| - | {cpu:.2f} | - |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--systems", default=",".join(SYSTEMS), help=f"of {', '.join(SYSTEMS)} (comma-separated)")
    parser.add_argument("--work", default=",".join(WORKS), help=f"of {', '.join(ALL_WORKS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the numbers of messages")
    parser.add_argument("--command", default="", help="how to start the tier, where it is not ./.venv/bin/postroad")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    parser.add_argument("--json", type=Path, help="also write every run to this file")
    options = parser.parse_args()
    options.systems = [system.strip() for system in options.systems.split(",")]
    works = [name.strip() for name in options.work.split(",")]

    load_before = os.getloadavg()[0]
    results: dict[str, dict[str, list[Run]]] = {}
    directory = Path(tempfile.mkdtemp(prefix="postroad-bench-", dir=options.directory))
    directory.chmod(0o755)
    sink = Sink()
    sink.start()
    try:
        for kind in Kind:
            chosen = [name for name in works if ALL_WORKS[name].kind is kind]
            if not chosen:
                continue
            source = StarttlsSource(directory) if kind is Kind.STARTTLS else None
            with started(options, sink, directory, kind, source) as servers:
                for name in chosen:
                    work = ALL_WORKS[name]
                    runs: dict[str, list[Run]] = {server.name: [] for server in servers}
                    for _ in range(options.runs):
                        for server in servers:
                            messages = max(work.sessions, int(work.messages * options.scale))
                            runs[server.name].append(measure(server, work, sink, messages, source))
                    results[name] = runs
                    print(
                        f"{name}: "
                        + ", ".join(
                            f"{system} {median(run.per_second for run in list_):,.0f}/s"
                            for system, list_ in runs.items()
                        ),
                        flush=True,
                    )
    finally:
        sink.stop()
        shutil.rmtree(directory, ignore_errors=True)
    busy = f"load average before the first run {load_before:.1f}"
    print(f"\n{os.cpu_count()} CPUs, {options.runs} runs, {busy}\n")
    print("\n".join(report(results)))
    if options.json:
        encoded = {
            work: {name: [asdict(run) for run in runs] for name, runs in systems.items()}
            for work, systems in results.items()
        }
        options.json.write_text(json.dumps(encoded, indent=1))


if __name__ == "__main__":
    main()
