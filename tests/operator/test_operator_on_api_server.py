"""The operator and three transport processes on a real API server."""

from __future__ import annotations

import signal
import smtplib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cluster_kit import Cluster, condition, holds, mx_connector, settled_tier, versions
from control_plane import ControlPlane, free_port, wait_for

MX, SUBMISSION = free_port(), free_port()


def connector(**changes: Any) -> dict[str, Any]:
    return mx_connector(MX, **changes)


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with settled_tier(control_plane, "tier", tmp_path_factory.mktemp("cluster"), MX) as cluster:
        yield cluster


def banner(address: str, port: int = MX) -> str:
    with smtplib.SMTP(timeout=10) as client:
        return client.connect(address, port)[1].decode()


def test_resources_become_programmed_and_say_what_is_served(cluster: Cluster) -> None:
    mx = cluster.wait_condition("ReceiveConnector", "mx", "Programmed")
    assert mx["status"]["ports"] == str(MX)
    assert mx["status"]["certificate"] == "mail"
    assert mx["status"]["observedGeneration"] == mx["metadata"]["generation"]
    assert "3 of 3 ready pods" in condition(mx, "Programmed")["message"]
    assert condition(mx, "Reconciling")["status"] == condition(mx, "Stalled")["status"] == "False"
    domain = cluster.wait_condition("AcceptedDomain", "mail", "Ready")
    assert domain["status"]["route"] == "Maildir mail/{local}"
    certificate = cluster.wait_condition("TransportCertificate", "mail", "Ready")["status"]
    assert len(certificate["thumbprint"]) == 64
    assert certificate["dnsNames"] == ["mail.example"]
    assert "Postroad" in certificate["issuer"]
    assert certificate["notBefore"] < certificate["renewalTime"] < certificate["notAfter"]
    for pod in cluster.pods:
        assert banner(pod.address).startswith("mail.example")


def test_the_table_shows_it(cluster: Cluster) -> None:
    row = cluster.plane.kubectl("get", "rconn", "mx", "-n", cluster.namespace).splitlines()[1].split()
    assert row[:6] == ["mx", "Internet", str(MX), "True", "True", "True"]


def test_a_changed_connector_is_served_by_every_pod(cluster: Cluster) -> None:
    for text in ("hello one", "hello two"):
        started = time.monotonic()
        cluster.apply("ReceiveConnector", "mx", connector(banner=text))
        cluster.wait_condition("ReceiveConnector", "mx", "Programmed")
        # What the condition says is true at the moment it says so.
        assert [text in banner(pod.address) for pod in cluster.pods] == [True] * 3
        assert time.monotonic() - started < 20
    assert cluster.operators[0].metric("postroad_operator_programmed_seconds_count") >= 2


def test_other_resources_stay_programmed_while_one_changes(cluster: Cluster) -> None:
    before = condition(cluster.wait_condition("AcceptedDomain", "mail", "Programmed"), "Programmed")
    cluster.apply("ReceiveConnector", "mx", connector(banner="three"))
    cluster.wait_condition("ReceiveConnector", "mx", "Programmed")
    after = condition(cluster.wait_condition("AcceptedDomain", "mail", "Programmed"), "Programmed")
    assert after["lastTransitionTime"] == before["lastTransitionTime"]


def test_a_pod_that_lags_keeps_programmed_false(cluster: Cluster) -> None:
    cluster.wait_settled()
    cluster.pods[2].frozen = True
    try:
        cluster.apply("ReceiveConnector", "mx", connector(banner="four"))

        def counted() -> bool:
            return "2 of 3 ready pods" in condition(cluster.get("ReceiveConnector", "mx"), "Programmed").get(
                "message", ""
            )

        wait_for(counted, what="two of three pods")
        assert not holds(cluster.get("ReceiveConnector", "mx"), "Programmed")
        assert condition(cluster.get("ReceiveConnector", "mx"), "Reconciling")["status"] == "True"
    finally:
        cluster.pods[2].frozen = False
    cluster.wait_settled()


def test_a_bad_resource_says_so_and_good_ones_stay(cluster: Cluster) -> None:
    cluster.wait_settled()
    cluster.apply(
        "ReceiveConnector",
        "submission",
        connector(
            usage="Client",
            bindings=[{"port": SUBMISSION}],
            authMechanisms=["TLS", "BasicAuthRequireTLS"],
            authentication={"htpasswdSecretRef": {"name": "accounts", "key": "htpasswd"}},
        ),
    )

    def refused() -> bool:
        return condition(cluster.get("ReceiveConnector", "submission"), "Accepted").get("status") == "False"

    wait_for(refused, what="a verdict")
    bad = cluster.get("ReceiveConnector", "submission")
    assert condition(bad, "Accepted")["reason"] == "RefNotFound"
    assert "accounts" in condition(bad, "Accepted")["message"]
    assert condition(bad, "Stalled")["status"] == "True"
    assert holds(cluster.get("ReceiveConnector", "mx"), "Programmed")
    # It heals when the cause goes: no touch of the resource itself.
    cluster.client.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "accounts"},
            "stringData": {
                "htpasswd": "a@mail.example:$2b$04$6tcdIZE7k749KmKiOBbvte9T9.5OZozpns/zfPBFWJb9XKjWlj.I.\n"
            },
        },
        cluster.namespace,
    )
    cluster.wait_condition("ReceiveConnector", "submission", "Programmed")
    assert banner(cluster.pods[1].address, SUBMISSION)
    cluster.client.delete("ReceiveConnector", "submission", cluster.namespace)
    cluster.client.delete("Secret", "accounts", cluster.namespace)

    def gone() -> bool:
        return all("ReceiveConnector/tier/submission" not in pod.configz()["generations"] for pod in cluster.pods)

    wait_for(gone, what="the deleted connector to go")


def test_nothing_is_written_when_nothing_changes(cluster: Cluster) -> None:
    cluster.wait_settled()
    wait_for(lambda: versions(cluster) == (time.sleep(1.0) or versions(cluster)), what="quiet")
    before, compilations = versions(cluster), cluster.operators[-1].metric("postroad_operator_compilations_total")
    # A look at everything, caused by something that is no input.
    cluster.pods[0].set_ready(False)
    cluster.pods[0].set_ready(True)
    time.sleep(1.5)
    cluster.apply("ReceiveConnector", "mx", cluster.get("ReceiveConnector", "mx")["spec"])
    after = versions(cluster)
    del before["Pod/postroad-default-0"], after["Pod/postroad-default-0"]
    changed = {name for name in before if before[name] != after.get(name)}
    # Statuses may speak of the pod that was away for a moment; nothing else may have been written.
    assert {name for name in changed if name.startswith(("ConfigMap", "Secret", "Pod"))} == set()
    assert cluster.operators[-1].metric("postroad_operator_compilations_total") == compilations
    cluster.wait_settled()


@pytest.mark.parametrize("kind", ["ConfigMap", "Secret"])
def test_drift_is_put_right(cluster: Cluster, kind: str) -> None:
    cluster.wait_settled()
    before = cluster.get(kind, "postroad-default")
    part = "binaryData" if kind == "ConfigMap" else "data"
    key = next(iter(before[part]))
    path = cluster.client.path(kind, cluster.namespace, "postroad-default")
    cluster.client.request("PATCH", path, {part: {key: "AAAA", "extra": "AAAA"}}, "application/merge-patch+json")
    wait_for(lambda: cluster.get(kind, "postroad-default")[part] == before[part], what="the old content")
    cluster.client.delete(kind, "postroad-default", cluster.namespace)
    wait_for(lambda: (cluster.get(kind, "postroad-default") or {}).get(part) == before[part], what="a new object")
    cluster.wait_settled()


def test_a_killed_operator_heals(cluster: Cluster) -> None:
    cluster.wait_settled()
    thumbprint = cluster.get("TransportCertificate", "mail")["status"]["thumbprint"]
    cluster.apply("ReceiveConnector", "mx", connector(banner="killed"))
    cluster.operators[-1].kill()
    cluster.apply("AcceptedDomain", "second", {"domain": "b.example", "aliasOf": "mail.example"})
    cluster.operator()
    cluster.wait_condition("AcceptedDomain", "second", "Programmed", timeout=45)
    cluster.wait_settled()
    assert [("killed" in banner(pod.address)) for pod in cluster.pods] == [True] * 3
    assert cluster.get("TransportCertificate", "mail")["status"]["thumbprint"] == thumbprint
    wait_for(lambda: cluster.operators[-1].health() == 200, what="a healthy operator")


def test_a_standby_takes_over_when_the_leader_dies(cluster: Cluster) -> None:
    cluster.wait_settled()
    first = cluster.operators[-1]
    second = cluster.operator()
    wait_for(lambda: second.metric("postroad_operator_leader") == 0, what="a standby")
    assert first.metric("postroad_operator_leader") == 1
    first.kill()
    died = time.monotonic()
    cluster.apply("ReceiveConnector", "mx", connector(banner="taken over"))
    cluster.wait_condition("ReceiveConnector", "mx", "Programmed")
    assert time.monotonic() - died < 20
    assert second.metric("postroad_operator_leader") == 1
    assert ["taken over" in banner(pod.address) for pod in cluster.pods] == [True] * 3


def test_a_leader_that_is_asked_to_stop_hands_over_at_once(cluster: Cluster) -> None:
    cluster.wait_settled()
    first = cluster.operators[-1]
    second = cluster.operator()
    wait_for(lambda: second.metric("postroad_operator_leader") == 0, what="a standby")
    first.kill(signal.SIGTERM)
    started = time.monotonic()
    wait_for(lambda: second.metric("postroad_operator_leader") == 1, what="a leader")
    assert time.monotonic() - started < 8


def test_an_api_server_restarted_underneath_is_survived(cluster: Cluster) -> None:
    cluster.wait_settled()
    cluster.plane.stop_server()
    time.sleep(1.0)
    cluster.plane.start_server()
    cluster.apply("ReceiveConnector", "mx", connector(banner="restarted"))
    cluster.wait_condition("ReceiveConnector", "mx", "Programmed", timeout=60)
    cluster.client.delete("AcceptedDomain", "second", cluster.namespace)

    def gone() -> bool:
        return all("AcceptedDomain/tier/second" not in pod.configz().get("generations", {}) for pod in cluster.pods)

    wait_for(gone, timeout=60, what="a deletion after the restart")
