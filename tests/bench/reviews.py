"""Measure the admission webhook: how long the API server waits for a review, with thousands of resources.

    PYTHONPATH=tests/operator python -m tests.bench.reviews --domains 4800 --connectors 200

It needs kube-apiserver, etcd and kubectl where the operator's tests find them, and prints its figures.
"""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from cluster_kit import Cluster, manifest
from control_plane import Client, ControlPlane, free_port, wait_for

KINDS = ("receiveconnectors", "sendconnectors", "accepteddomains", "transportcertificates")
NAMESPACE = "bench"
NAME = "postroad-bench"
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


def domain(number: int, name: str = "") -> dict[str, Any]:
    spec = {"domain": f"d{number}.example", "deliver": {"lmtp": {"host": "mail", "port": 24}}}
    return manifest("AcceptedDomain", name or f"d{number}", spec)


def connector(number: int, name: str = "") -> dict[str, Any]:
    spec = {
        "usage": "Internal",
        "authMechanisms": ["TLS"],
        "bindings": [{"port": 2525}],
        "fqdn": "mail.example",
        "remoteIPRanges": [f"10.{number // 256}.{number % 256}.0/24"],
    }
    return manifest("ReceiveConnector", name or f"r{number}", spec)


def fill(client: Client, domains: int, connectors: int) -> None:
    """Create everything, a few at a time."""
    documents = [*map(domain, range(domains)), *map(connector, range(connectors))]
    documents.append(manifest("TransportCertificate", "mail", {"ca": {}, "dnsNames": ["mail.example"]}))

    def create(document: dict[str, Any]) -> None:
        client.request("POST", client.path(document["kind"], NAMESPACE), document)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, documents))


def configuration(port: int) -> dict[str, Any]:
    rule = {
        "apiGroups": ["postroad.dev"],
        "apiVersions": ["v1alpha1"],
        "operations": ["CREATE", "UPDATE", "DELETE"],
        "resources": list(KINDS),
    }
    hook = {
        "name": "resources.postroad.dev",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": {"url": f"https://localhost:{port}/validate"},
        "rules": [rule],
    }
    return {"metadata": {"name": NAME}, "webhooks": [hook]}


def timed(call: Callable[[int], object], count: int) -> list[float]:
    """Return how long each call took, in milliseconds."""
    times = []
    for number in range(count):
        started = time.perf_counter()
        call(number)
        times.append((time.perf_counter() - started) * 1000)
    return times


def show(what: str, times: list[float]) -> None:
    cuts = quantiles(times, n=100)
    print(f"{what:64} {len(times):5} {median(times):8.1f} {cuts[94]:8.1f} {cuts[98]:8.1f} {max(times):8.1f}")


class Webhook:
    """Asks the webhook as the API server does: over one TLS connection that is kept."""

    def __init__(self, port: int) -> None:
        # What is measured is time; whose certificate it is has been tested elsewhere.
        context = ssl._create_unverified_context()
        self._connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)

    def ask(self, document: dict[str, Any]) -> dict[str, Any]:
        request = {
            "uid": "u",
            "kind": {"group": "postroad.dev", "version": "v1alpha1", "kind": document["kind"]},
            "operation": "CREATE",
            "object": document | {"metadata": document["metadata"] | {"namespace": NAMESPACE}},
        }
        body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        self._connection.request("POST", "/validate", json.dumps(body), {"Content-Type": "application/json"})
        return dict(json.load(self._connection.getresponse())["response"])


@contextmanager
def changing(client: Client) -> Iterator[list[int]]:
    """Change one domain after the other meanwhile, so that the operator compiles and writes without pause."""
    stop, count = threading.Event(), [0]

    def change() -> None:
        while not stop.is_set():
            path = client.path("AcceptedDomain", NAMESPACE, f"d{count[0] % 100}")
            lmtp = {"host": f"mail{count[0]}", "port": 24}
            body = {"spec": {"deliver": {"lmtp": lmtp}}}
            client.request("PATCH", path, body, "application/merge-patch+json")
            count[0] += 1
            stop.wait(0.1)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


def run(domains: int, connectors: int, requests: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        plane = ControlPlane(Path(directory) / "plane").start()
        plane.install_crds()
        plane.client.namespace(NAMESPACE)
        cluster = Cluster(plane, NAMESPACE, Path(directory))
        try:
            started = time.perf_counter()
            fill(plane.client, domains, connectors)
            print(f"{domains} domains and {connectors} connectors created in {time.perf_counter() - started:.0f} s")
            port = free_port()
            plane.client.request("POST", HOOKS, configuration(port))
            options = ("--webhook-port", str(port), "--webhook-host", "localhost", "--webhook-configuration", NAME)
            started = time.perf_counter()
            operator = cluster.operator(*options)
            wait_for(lambda: cluster.get("ConfigMap", "postroad-default"), timeout=300, what="a publication")
            print(f"published {time.perf_counter() - started:.1f} s after the start of the operator")
            last = ("AcceptedDomain", f"d{domains - 1}")
            wait_for(lambda: cluster.get(*last).get("status", {}).get("conditions"), timeout=900, what="statuses")
            wait_for(lambda: not Webhook(port).ask(domain(1, "rival"))["allowed"], timeout=60, what="a refusal")
            time.sleep(20)  # (the first statuses are written)
            print(f"{'milliseconds':64} {'count':>5} {'median':>8} {'p95':>8} {'p99':>8} {'max':>8}")
            measure(plane.client, port, requests, "", domains, connectors)
            with changing(plane.client) as count:
                measure(plane.client, port, requests, ", domains changing", domains, connectors)
            print(f"{count[0]} changes meanwhile")
            total = operator.metric("postroad_operator_review_seconds_sum")
            count_of = operator.metric("postroad_operator_review_seconds_count")
            print(f"mean in the operator: {total / count_of * 1000:.1f}")
            print(f"memory: {memory(operator.process.pid if operator.process else 0)} MB")
        finally:
            cluster.stop()
            plane.stop()


def measure(client: Client, port: int, requests: int, when: str, domains: int, connectors: int) -> None:
    webhook = Webhook(port)
    show(f"the webhook: a new domain{when}", timed(lambda n: webhook.ask(domain(domains + n)), requests))
    show(f"the webhook: a new connector{when}", timed(lambda n: webhook.ask(connector(connectors + n)), requests))
    show(f"the webhook: a conflict, checked again{when}", timed(lambda n: webhook.ask(domain(n, "x")), requests))

    def dry(document: dict[str, Any]) -> None:
        client.request("POST", client.path(document["kind"], NAMESPACE) + "?dryRun=All", document)

    show(f"the API server: dry run of a domain{when}", timed(lambda n: dry(domain(domains + n)), requests))


def memory(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", type=int, default=4800)
    parser.add_argument("--connectors", type=int, default=200)
    parser.add_argument("--requests", type=int, default=500)
    given = parser.parse_args()
    run(given.domains, given.connectors, given.requests)


if __name__ == "__main__":
    main()
