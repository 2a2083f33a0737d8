"""Measure how the operator grows: memory, compile time, first publication, latency of a change, memory over changes.

    PYTHONPATH=tests/operator python -m tests.bench.operator_size --sizes 1000,2000,5000 --changes 2000

It needs kube-apiserver, etcd and kubectl where the operator's tests find them. One transport process poses as the
tier's pod. Prints tables for docs/performance.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from cluster_kit import Cluster, Operator, condition, holds, manifest
from control_plane import ControlPlane, free_port, wait_for

#: A receive connector for so many domains: 200 for 5,000.
RATIO = 25
#: Seconds that nothing may take.
LIMIT = 300.0


class Size(NamedTuple):
    """One row of the table; seconds, and megabytes."""

    domains: int
    connectors: int
    published: float
    statuses: float
    compile: float
    programmed: float
    slowest: float
    memory: float


def domain(number: int, path: str = "mail/{local}") -> dict[str, Any]:
    """Return an AcceptedDomain."""
    return manifest(
        "AcceptedDomain", f"d{number}", {"domain": f"d{number}.example", "deliver": {"maildir": {"path": path}}}
    )


def connector(number: int, port: int) -> dict[str, Any]:
    """Return a ReceiveConnector; they share a port and differ by range."""
    spec = {
        "usage": "Internal",
        "bindings": [{"port": port}],
        "remoteIPRanges": [f"10.{number // 256}.{number % 256}.0/24"],
    }
    return manifest("ReceiveConnector", f"r{number}", spec)


def memory(operator: Operator, what: str = "VmRSS") -> float:
    """Return a process's resident memory in megabytes; VmHWM: the most that it has been."""
    assert operator.process is not None
    for line in Path(f"/proc/{operator.process.pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextmanager
def filled(plane: ControlPlane, domains: int, directory: Path) -> Iterator[Cluster]:
    """Yield a namespace with so many domains and their connectors, and a pod that waits for its configuration."""
    namespace = f"size-{domains}"
    plane.client.namespace(namespace)
    cluster = Cluster(plane, namespace, directory / namespace)
    del cluster.pods[1:]
    port = free_port()
    documents = [*map(domain, range(domains)), *(connector(number, port) for number in range(domains // RATIO))]

    def create(document: dict[str, Any]) -> None:
        plane.client.request("POST", plane.client.path(document["kind"], namespace), document)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, documents))
    try:
        yield cluster
    finally:
        cluster.stop()


def published(cluster: Cluster) -> int:
    """Return how many resources the published configuration holds."""
    found = cluster.get("ConfigMap", "postroad-default") or {"metadata": {}}
    return int((found["metadata"].get("annotations") or {}).get("postroad.dev/resources", -1))


def change(cluster: Cluster, number: int) -> float:
    """Change a domain; return how many seconds it took until its status said that the pod serves it."""
    started = time.monotonic()
    document = cluster.client.apply(domain(number, f"moved-{time.monotonic_ns()}/{{local}}"), cluster.namespace)
    name = document["metadata"]["name"]
    wait_for(lambda: holds(cluster.get("AcceptedDomain", name), "Programmed"), timeout=LIMIT, what="a change")
    return time.monotonic() - started


def measure(cluster: Cluster, domains: int, changes: int) -> Size:
    """Start an operator over what is there, and change some of it."""
    connectors = domains // RATIO
    started = time.monotonic()
    operator = cluster.operator()
    wait_for(lambda: published(cluster) == domains + connectors, timeout=LIMIT, what="a publication")
    first = time.monotonic() - started
    cluster.start_pods()

    def told() -> bool:
        items = cluster.client.list("AcceptedDomain", cluster.namespace)
        return all(condition(item, "Programmed").get("status") == "True" for item in items)

    wait_for(told, timeout=LIMIT, what="statuses")
    statuses = time.monotonic() - started - first
    compiled = (
        operator.metric("postroad_operator_compile_seconds_sum"),
        operator.metric("postroad_operator_compile_seconds_count"),
    )
    took = [change(cluster, number * 7) for number in range(changes)]
    spent = operator.metric("postroad_operator_compile_seconds_sum") - compiled[0]
    times = operator.metric("postroad_operator_compile_seconds_count") - compiled[1]
    return Size(
        domains,
        connectors,
        first,
        statuses,
        spent / max(times, 1),
        median(took),
        max(took),
        memory(operator, "VmHWM"),
    )


def flat(cluster: Cluster, changes: int, domains: int) -> None:
    """Change a domain so many times and print the memory on the way."""
    operator = cluster.operators[-1]
    print(f"\n{changes} changes at {domains} domains: changes, resident MB, compilations")
    for done in range(changes + 1):
        if done % (changes // 8) == 0:
            time.sleep(2)
            compilations = operator.metric("postroad_operator_compilations_total")
            print(f"| {done} | {memory(operator):.0f} | {compilations:.0f} |", flush=True)
        cluster.client.apply(domain(done % domains, f"m{done}/{{local}}"), cluster.namespace)
        time.sleep(0.02)


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default="1000,2000,5000")
    parser.add_argument("--latencies", type=int, default=15, help="changes that are timed at each size")
    parser.add_argument("--changes", type=int, default=2000, help="changes at the smallest size; 0: none")
    options = parser.parse_args()
    sizes = sorted(map(int, options.sizes.split(",")))
    with tempfile.TemporaryDirectory() as path:
        plane = ControlPlane(Path(path) / "plane")
        try:
            plane.start()
            plane.install_crds()
            print("domains, connectors, first publication s, statuses s, compile s, change s, slowest s, peak MB")
            for domains in sizes:
                with filled(plane, domains, Path(path)) as cluster:
                    row = measure(cluster, domains, options.latencies)
                    cells = [f"{value:.2f}" if isinstance(value, float) else f"{value:,}" for value in row]
                    print(f"| {' | '.join(cells)} |", flush=True)
                    if domains == sizes[0] and options.changes:
                        flat(cluster, options.changes, domains)
        finally:
            plane.stop()


if __name__ == "__main__":
    main()
