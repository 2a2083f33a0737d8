"""The operator with the chart's rights, which are taken from it, and with a clock that jumps; a real API server."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chart_kit import documents, rendered
from cluster_kit import Clock, Cluster, Operator, condition
from control_plane import ControlPlane, refusals, wait_for

RIGHTS = {"Role", "RoleBinding", "ServiceAccount"}
HOUR = 3600.0


def domain(name: str) -> dict[str, Any]:
    return {"domain": name, "deliver": {"maildir": {"path": "mail/{local}"}}}


def accepted(cluster: Cluster, name: str) -> dict[str, Any]:
    return condition(cluster.get("AcceptedDomain", name), "Accepted")


def published(cluster: Cluster) -> int:
    """Return how many resources the published configuration holds."""
    found = cluster.get("ConfigMap", "postroad-default") or {}
    return int((found.get("metadata", {}).get("annotations") or {}).get("postroad.dev/resources", -1))


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(control_plane, namespace, tmp_path)
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def limited(cluster: Cluster) -> Cluster:
    """An operator with no rights but the chart's."""
    text = rendered(cluster.namespace, "--set", "defaults.enabled=false,crds.upgrade=false")
    for name, document in documents(text).items():
        if name.partition("/")[0] in RIGHTS and "operator" in name + str(document.get("subjects")):
            cluster.plane.kubectl("apply", "-n", cluster.namespace, "-f", "-", stdin=_yaml(document))
    cluster.plane.kubectl(
        "apply", "-n", cluster.namespace, "-f", "-", stdin=_yaml(documents(text)["Role/pr-resources"])
    )
    kubeconfig = cluster.plane.user_kubeconfig(f"system:serviceaccount:{cluster.namespace}:pr-operator")
    options = ("--lease-duration", "2")
    cluster.operators.append(
        Operator(kubeconfig, cluster.namespace, cluster.directory / "operator.log", options).start()
    )
    cluster.apply("AcceptedDomain", "first", domain("first.example"))
    wait_for(lambda: accepted(cluster, "first").get("status") == "True", what="a verdict")
    return cluster


def _yaml(document: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(document))


def taken(cluster: Cluster, kind: str, name: str) -> Callable[[], None]:
    """Delete an object; return what puts it back."""
    plural = kind.lower() + "s"
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{cluster.namespace}/{plural}"
    before = cluster.client.request("GET", f"{path}/{name}")
    cluster.client.request("DELETE", f"{path}/{name}")
    for field in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
        before["metadata"].pop(field, None)
    return lambda: cluster.client.request("POST", path, before)


def test_without_its_lease_it_writes_nothing_says_so_and_heals(limited: Cluster) -> None:
    operator = limited.operators[0]
    wait_for(lambda: operator.health() == 200, what="health")
    give_back = taken(limited, "RoleBinding", "pr-operator")
    try:
        wait_for(lambda: operator.metric("postroad_operator_leader") == 0, what="it to step down")
        wait_for(lambda: operator.health() == 503, what="the health check to fail")
        assert "the Lease cannot be used" in operator.log.read_text()
        assert refusals(operator.log)
        limited.apply("AcceptedDomain", "second", domain("second.example"))
        time.sleep(1.0)
        assert accepted(limited, "second") == {}
    finally:
        give_back()
    wait_for(lambda: accepted(limited, "second").get("status") == "True", what="a verdict")
    wait_for(lambda: operator.health() == 200, what="health")
    assert published(limited) == 2


def test_without_the_right_to_publish_the_conditions_name_it_and_heal(limited: Cluster) -> None:
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{limited.namespace}/roles/pr-operator"
    before = limited.client.request("GET", path)["rules"]

    def rules(rules: list[dict[str, Any]]) -> None:
        limited.client.request("PATCH", path, {"rules": rules}, "application/merge-patch+json")

    rules([rule for rule in before if "patch" not in rule["verbs"] or "configmaps" not in rule["resources"]])
    errors = limited.operators[0].metric("postroad_operator_apply_errors")
    limited.apply("AcceptedDomain", "first", domain("changed.example"))

    def blocked() -> bool:
        told = condition(limited.get("AcceptedDomain", "first"), "Programmed")
        return told.get("reason") == "Blocked" and "configmaps/postroad-default: 403" in told["message"]

    wait_for(blocked, what="a condition that names the right")
    assert condition(limited.get("AcceptedDomain", "first"), "Reconciling")["status"] == "True"
    assert limited.operators[0].metric("postroad_operator_apply_errors_total") > max(errors, 0)
    hash_before = limited.get("ConfigMap", "postroad-default")["metadata"]["annotations"]["postroad.dev/config-hash"]
    rules(before)

    def healed() -> bool:
        now = limited.get("ConfigMap", "postroad-default")["metadata"]["annotations"]["postroad.dev/config-hash"]
        told = condition(limited.get("AcceptedDomain", "first"), "Programmed")
        return bool(now != hash_before and told["reason"] == "NoPods")

    wait_for(healed, what="it to heal")


def test_without_the_right_to_read_the_published_stays_and_it_heals(limited: Cluster) -> None:
    give_back = taken(limited, "RoleBinding", "pr-resources")
    try:
        # With the streams cut, every watch has to begin anew, which it may not.
        limited.plane.stop_server()
        limited.plane.start_server()
        log = limited.operators[0].log
        wait_for(
            lambda: "accepteddomains" in log.read_text() and "Forbidden" in log.read_text(), what="words in the log"
        )
        limited.apply("AcceptedDomain", "second", domain("second.example"))
        limited.operators[0].kill()
        limited.operators[0].start()
        wait_for(lambda: log.read_text().count("may they be listed?") >= 1, timeout=60, what="words in the log")
        assert published(limited) == 1
    finally:
        give_back()
    wait_for(lambda: accepted(limited, "second").get("status") == "True", timeout=60, what="a verdict")
    assert published(limited) == 2


def test_a_clock_that_jumps_costs_no_lease_and_certificates_follow_it(cluster: Cluster, clock: Clock) -> None:
    cluster.apply(
        "TransportCertificate",
        "mail",
        {"ca": {}, "dnsNames": ["mail.example"], "duration": "48h", "renewBefore": "36h"},
    )
    operator = Operator(
        cluster.plane.kubeconfig,
        cluster.namespace,
        cluster.directory / "operator.log",
        ("--lease-duration", "2"),
        environment=clock.environment,
    ).start()
    cluster.operators.append(operator)

    def certificate() -> dict[str, Any]:
        return dict((cluster.get("TransportCertificate", "mail") or {}).get("status") or {})

    def changed(before: str) -> dict[str, Any]:
        found: dict[str, Any] = wait_for(
            lambda: status if (status := certificate()).get("thumbprint") not in (before, None, "") else None,
            timeout=45,
            what="another certificate",
        )
        return found

    now = changed("")
    lease = cluster.get("Lease", "postroad-operator")["spec"]
    for number, (jump, renews) in enumerate(
        [(0.5 * HOUR, False), (-0.5 * HOUR, False), (20 * HOUR, True), (0, True)]
    ):
        clock.put(jump)
        started = time.monotonic()
        cluster.apply("AcceptedDomain", f"d{number}", domain(f"d{number}.example"))
        wait_for(lambda: accepted(cluster, f"d{number}").get("status") == "True", what="a verdict")  # noqa: B023 (called at once)
        assert time.monotonic() - started < 5
        assert operator.metric("postroad_operator_leader") == 1
        assert operator.health() == 200
        if renews:
            before, now = now, changed(now["thumbprint"])
            assert now["notBefore"] != before["notBefore"]
    # The clock is right again, and so is the certificate that was made in the future.
    assert now["notBefore"] <= datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    after = cluster.get("Lease", "postroad-operator")["spec"]
    assert (after["holderIdentity"], after["leaseTransitions"]) == (
        lease["holderIdentity"],
        lease["leaseTransitions"],
    )
