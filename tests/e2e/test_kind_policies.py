"""The chart's NetworkPolicies on a real cluster whose network enforces them: who reaches what."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from kind_kit import kubectl, needs_kind, pods

pytestmark = needs_kind

MAIL_PORTS = (2525, 2587, 2465)
LISTEN = """
import asyncio
async def main():
    for port in (24, 25, 2525, 8080):
        await asyncio.start_server(lambda reader, writer: writer.close(), "0.0.0.0", port)
    await asyncio.Event().wait()
asyncio.run(main())
"""
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
except OSError:
    print("no")
else:
    print("yes")
"""
NOBODY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "nobody"},
    "spec": {"podSelector": {"matchLabels": {"app": "shut"}}, "policyTypes": ["Ingress"]},
}


@dataclass(frozen=True)
class Pod:
    namespace: str
    name: str
    address: str

    def reaches(self, host: str, port: int) -> bool:
        command = ("exec", self.name, "--", "python3", "-c", CONNECT, host, str(port))
        return kubectl(*command, namespace=self.namespace).strip() == "yes"

    def comes_to_reach(self, host: str, port: int, wanted: bool = True, seconds: float = 30) -> bool:
        """Say whether it does (``wanted=False``: does not) in time: networks hear of pods and policies late."""
        deadline = time.monotonic() + seconds
        while self.reaches(host, port) is not wanted:
            if time.monotonic() > deadline:
                return False
        return True


def started(namespace: str, name: str, labels: dict[str, str]) -> Pod:
    """Start a pod that listens on some ports, from the image of the tier, which is on every node."""
    container = {
        "name": "listen",
        "image": pods()[0]["spec"]["containers"][0]["image"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", LISTEN],
        "securityContext": {"runAsUser": 0},
    }
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "containers": [container],
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
        },
    }
    kubectl("create", "--filename=-", namespace=namespace, stdin=json.dumps(pod))
    kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=60s", namespace=namespace)
    address = kubectl("get", "pod", name, "--output=jsonpath={.status.podIP}", namespace=namespace)
    return Pod(namespace, name, address)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """A namespace that is none of the tier's, on a network that is seen to enforce policies."""
    name = f"strangers-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name)


@pytest.fixture(scope="module")
def stranger(elsewhere: str) -> Pod:
    pod, shut = (started(elsewhere, name, {"app": name}) for name in ("stranger", "shut"))
    assert pod.comes_to_reach(shut.address, 8080)
    kubectl("create", "--filename=-", namespace=elsewhere, stdin=json.dumps(NOBODY))
    if not pod.comes_to_reach(shut.address, 8080, wanted=False):
        pytest.skip("NETWORK POLICIES ARE NOT ENFORCED on this cluster's network: nothing is seen of the chart's")
    return pod


@pytest.fixture(scope="module")
def prometheus() -> Iterator[Pod]:
    """A pod in the namespace that networkPolicy.metricsFrom names."""
    made = not kubectl("get", "namespace", "monitoring", "--ignore-not-found")
    if made:
        kubectl("create", "namespace", "monitoring")
    name = f"prometheus-{uuid.uuid4().hex[:8]}"
    yield started("monitoring", name, {"app": name})
    kubectl("delete", "pod", name, namespace="monitoring")
    if made:
        kubectl("delete", "namespace", "monitoring")


@pytest.fixture(scope="module")
def servers() -> list[Pod]:
    return [Pod("mail", pod["metadata"]["name"], pod["status"]["podIP"]) for pod in pods()]


@pytest.fixture(scope="module")
def operator() -> str:
    return str(pods("app.kubernetes.io/component=operator")[0]["status"]["podIP"])


def test_everybody_reaches_the_mail_ports_and_not_the_metrics(stranger: Pod, servers: list[Pod]) -> None:
    for server in servers:
        assert [port for port in (*MAIL_PORTS, 9925) if stranger.reaches(server.address, port)] == [*MAIL_PORTS]


def test_a_pod_beside_the_tier_is_a_stranger_to_the_operator(stranger: Pod, operator: str) -> None:
    assert not stranger.reaches(operator, 9926)


@pytest.mark.usefixtures("stranger")
def test_prometheus_reads_the_metrics_of_both(prometheus: Pod, servers: list[Pod], operator: str) -> None:
    assert prometheus.comes_to_reach(operator, 9926)
    for server in servers:
        assert prometheus.reaches(server.address, 9925)


def test_servers_reach_next_hops_and_each_other_by_name(stranger: Pod, servers: list[Pod]) -> None:
    for port in (24, 25):
        assert servers[0].reaches(stranger.address, port)
    for server in servers[1:]:
        assert servers[0].reaches(f"{server.name}.postroad-default-pods.mail.svc", 2525)


def test_servers_reach_nothing_else(stranger: Pod, servers: list[Pod], operator: str) -> None:
    others = [(stranger.address, 8080), (stranger.address, 2525), (operator, 9926), ("kubernetes.default.svc", 443)]
    assert [hop for hop in others if servers[0].reaches(*hop)] == []
    assert not servers[0].reaches(servers[1].address, 9925)


def test_servers_reach_those_of_another_tier_in_the_cluster(stranger: Pod, servers: list[Pod]) -> None:
    labels = {"app.kubernetes.io/name": "postroad", "app.kubernetes.io/component": "transport"}
    other = started(stranger.namespace, "other-tier", labels)
    assert servers[0].comes_to_reach(other.address, 2525)
