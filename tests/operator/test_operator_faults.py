"""What may go wrong around the operator on a real API server: it says so, loses nothing, and heals."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import smtplib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cluster_kit import ENVIRONMENT, Cluster, Operator, condition, holds, manifest, mx_connector, settled_tier
from control_plane import ApiError, ControlPlane, free_port, wait_for

MX, RELAY = free_port(), free_port()
#: Seconds; short, so that one takes over soon and a dead watch is told soon.
LEASE = 2.0
OPTIONS = ("--lease-duration", str(LEASE))
BAD = 1000
RELAYING = {
    "usage": "Custom",
    "bindings": [{"port": RELAY}],
    "remoteIPRanges": ["10.0.0.0/8"],
    "permissionGroups": [],
    "grants": [{"principal": "Anonymous", "permissions": ["SMTP-Submit", "SMTP-Accept-Any-Recipient"]}],
}


def connector(**changes: Any) -> dict[str, Any]:
    return mx_connector(MX, **changes)


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with settled_tier(control_plane, "faults", tmp_path_factory.mktemp("faults"), MX, *OPTIONS) as cluster:
        yield cluster


def start(cluster: Cluster) -> Operator:
    return cluster.operator(*OPTIONS)


def leader(cluster: Cluster) -> Operator:
    def look() -> Operator | None:
        running = [item for item in cluster.operators if item.process is not None and item.process.poll() is None]
        return next((item for item in running if item.metric("postroad_operator_leader") == 1), None)

    found: Operator = wait_for(look, what="a leader")
    return found


def told(cluster: Cluster, kind: str, name: str, *words: str, which: str = "Accepted", timeout: float = 30) -> None:
    """Wait until a condition is false and says all of the words, in its reason or its message."""

    def look() -> bool:
        found = condition(cluster.get(kind, name), which)
        said = f"{found.get('reason')} {found.get('message')}"
        return found.get("status") == "False" and all(word in said for word in words)

    try:
        wait_for(look, timeout=timeout, what=f"{kind}/{name} to say {words}")
    except AssertionError as error:
        raise AssertionError(
            f"{error}: {cluster.get(kind, name)}\n{cluster.operators[-1].log.read_text()[-3000:]}"
        ) from None


def programmed_in(cluster: Cluster, text: str) -> float:
    """Change the connector's banner; return how many seconds it took until every pod served it."""
    started = time.monotonic()
    cluster.apply("ReceiveConnector", "mx", connector(banner=text))
    cluster.wait_condition("ReceiveConnector", "mx", "Programmed", timeout=60)
    took = time.monotonic() - started
    for pod in cluster.pods:
        with smtplib.SMTP(timeout=10) as client:
            assert text in client.connect(pod.address, MX)[1].decode()
    return took


def put_secret(cluster: Cluster, name: str, **data: bytes) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "data": {key.replace("_", "."): base64.b64encode(value).decode() for key, value in data.items()},
    }
    cluster.client.apply(document, cluster.namespace)


def test_a_secret_that_turns_to_garbage_is_told_and_heals(cluster: Cluster) -> None:
    chain, key = (path.read_bytes() for path in cluster.plane.authority.issue("imported"))
    put_secret(cluster, "imported", tls_crt=chain, tls_key=key)
    cluster.apply("TransportCertificate", "imported", {"secretRef": {"name": "imported"}, "dnsNames": ["localhost"]})
    before = cluster.wait_condition("TransportCertificate", "imported", "Programmed")["status"]["thumbprint"]
    for garbage in (b"\xff\x00garbage", b"", chain):
        put_secret(cluster, "imported", tls_crt=garbage, tls_key=garbage)
        told(cluster, "TransportCertificate", "imported", "CertificateUnusable", "tls.")
        assert cluster.get("TransportCertificate", "imported")["status"]["thumbprint"] == before
        assert holds(cluster.get("ReceiveConnector", "mx"), "Programmed")
        assert holds(cluster.get("TransportCertificate", "mail"), "Programmed")
        # Each is a cause of its own: nothing that was said before is waited for.
        put_secret(cluster, "imported", tls_crt=chain, tls_key=key)
        cluster.wait_condition("TransportCertificate", "imported", "Programmed")
    cluster.client.delete("Secret", "imported", cluster.namespace)
    told(cluster, "TransportCertificate", "imported", "imported")
    put_secret(cluster, "imported", tls_crt=chain, tls_key=key)
    healed = cluster.wait_condition("TransportCertificate", "imported", "Programmed")
    assert healed["status"]["thumbprint"] == before
    cluster.client.delete("TransportCertificate", "imported", cluster.namespace)


def linted(cluster: Cluster) -> str:
    return subprocess.run(
        [sys.executable, "-m", "postroad_operator.cli", "lint", "--cluster", "-n", cluster.namespace],
        env={**ENVIRONMENT, "KUBECONFIG": str(cluster.plane.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout


def test_a_service_that_hides_clients_addresses_refuses_relay_by_range_until_it_is_local(cluster: Cluster) -> None:
    cluster.apply("ReceiveConnector", "relay", RELAYING)
    cluster.wait_condition("ReceiveConnector", "relay", "Programmed")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "front"},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "selector": {"app.kubernetes.io/component": "transport"},
            "ports": [{"name": "smtp", "port": 25, "targetPort": RELAY}],
        },
    }
    path = cluster.client.path("Service", cluster.namespace, "front")

    def policy(value: str) -> None:
        spec = {"spec": {"externalTrafficPolicy": value}}
        cluster.client.request("PATCH", path, spec, "application/merge-patch+json")

    cluster.client.apply(service, cluster.namespace)
    try:
        policy("Cluster")
        told(
            cluster,
            "ReceiveConnector",
            "relay",
            "ClientAddressesHidden",
            "Service front",
            "externalTrafficPolicy: Local",
        )
        source = f"ReceiveConnector/{cluster.namespace}/relay"
        wait_for(lambda: all(source not in pod.configz()["generations"] for pod in cluster.pods), what="it to go")
        assert holds(cluster.get("ReceiveConnector", "mx"), "Programmed")
        assert "refused: ClientAddressesHidden" in linted(cluster)
        policy("Local")
        cluster.wait_condition("ReceiveConnector", "relay", "Programmed")
        policy("Cluster")
        told(cluster, "ReceiveConnector", "relay", "ClientAddressesHidden")
    finally:
        cluster.client.delete("Service", "front", cluster.namespace)
    cluster.wait_condition("ReceiveConnector", "relay", "Programmed")
    cluster.client.delete("ReceiveConnector", "relay", cluster.namespace)


@contextlib.contextmanager
def older_crd(cluster: Cluster, plural: str) -> Iterator[None]:
    """Let the API server take any spec of a kind for a while."""
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.postroad.dev"
    strict = cluster.client.request("GET", path)["spec"]
    loose = json.loads(json.dumps(strict))
    loose["versions"][0]["schema"]["openAPIV3Schema"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }

    def put(spec: dict[str, Any]) -> None:
        cluster.client.request(
            "PATCH", path, [{"op": "replace", "path": "/spec", "value": spec}], "application/json-patch+json"
        )

    put(loose)
    try:
        yield
    finally:
        put(strict)


def test_objects_of_an_older_definition_are_told_apart_and_harm_nobody(cluster: Cluster) -> None:
    wrong = {
        # Of these the API server cannot even write a status now.
        "types": {"domain": ["not", "a", "name"], "deliver": 7},
        "rule": {"domain": "both.example", "aliasOf": "mail.example", "deliver": {"maildir": {"path": "x"}}},
        "unknown": {"domain": "unknown.example", "deliver": {"maildir": {"path": "x"}}, "colour": "red"},
    }
    path = cluster.client.path("AcceptedDomain", cluster.namespace)
    for item in cluster.operators:
        item.stop()

    def create(name: str) -> bool:
        with contextlib.suppress(ApiError):
            cluster.client.request("POST", path, manifest("AcceptedDomain", name, wrong[name]))
        return cluster.get("AcceptedDomain", name) is not None

    def refuses(name: str) -> bool:
        try:
            cluster.client.request("POST", f"{path}?dryRun=All", manifest("AcceptedDomain", "other", wrong[name]))
        except ApiError as error:
            return error.code == 422
        return False

    with older_crd(cluster, "accepteddomains"):
        for name in wrong:
            wait_for(lambda: create(name), what="the API server to take it")  # noqa: B023 (called at once)
    wait_for(lambda: refuses("types") and refuses("rule"), what="the strict definition")
    operator = start(cluster)
    assert programmed_in(cluster, "beside old ones") < 20
    told(cluster, "AcceptedDomain", "rule", "Invalid", "aliasOf")
    cluster.wait_condition("AcceptedDomain", "unknown", "Programmed")
    assert min(programmed_in(cluster, f"and again {number}") for number in range(2)) < 5
    assert "AcceptedDomain/faults/types" not in cluster.pods[0].configz()["generations"]
    assert operator.metric("postroad_operator_objects") >= 5
    # One whose status cannot be written is no reason to hold back what else is to be done.
    assert holds(cluster.get("AcceptedDomain", "mail"), "Programmed")
    assert operator.metric("postroad_operator_apply_errors_total") >= 1
    assert "accepteddomains/types/status" in operator.log.read_text()
    for name in wrong:
        cluster.client.delete("AcceptedDomain", name, cluster.namespace)
    wait_for(lambda: cluster.get("AcceptedDomain", "types") is None, what="it to go")
    cluster.wait_settled()


def bad_resource(number: int) -> dict[str, Any]:
    name = f"bad-{number}"
    match number % 6:
        case 0:
            return manifest("AcceptedDomain", name, {"domain": f"{name}.example", "aliasOf": "nowhere.example"})
        case 1:
            return manifest("AcceptedDomain", name, {"domain": "mail.example", "deliver": {"maildir": {"path": "x"}}})
        case 2:
            missing = {"htpasswdSecretRef": {"name": "missing", "key": "htpasswd"}}
            return manifest(
                "ReceiveConnector", name, connector(bindings=[{"port": 20000 + number}], authentication=missing)
            )
        case 3:
            return manifest("ReceiveConnector", name, connector())
        case 4:
            open_relay = {"usage": "Custom", "bindings": [{"port": 20000 + number}], "grants": RELAYING["grants"]}
            return manifest("ReceiveConnector", name, open_relay)
        case _:
            return manifest(
                "TransportCertificate", name, {"secretRef": {"name": "missing"}, "dnsNames": ["b.example"]}
            )


def test_a_thousand_bad_resources_do_not_touch_the_good_ones(cluster: Cluster, record_property: Any) -> None:
    cluster.wait_settled()
    alone = min(programmed_in(cluster, f"alone {number}") for number in range(3))
    generations = {pod.name: pod.configz()["generations"] for pod in cluster.pods}
    documents = [bad_resource(number) for number in range(BAD)]
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: cluster.client.apply(item, cluster.namespace), documents))
        assert programmed_in(cluster, "in the flood") < 30

        def refused() -> int:
            found = [
                condition(item, "Accepted")
                for kind in ("AcceptedDomain", "ReceiveConnector", "TransportCertificate")
                for item in cluster.client.list(kind, cluster.namespace)
                if item["metadata"]["name"].startswith("bad-")
            ]
            return sum(item.get("status") == "False" and bool(item["message"]) for item in found)

        wait_for(lambda: refused() == BAD, timeout=120, what="a verdict on each")
        among = min(programmed_in(cluster, f"among {number}") for number in range(3))
        record_property("seconds_alone_and_among", f"{alone:.2f} {among:.2f}")
        print(f"a good change: {alone:.2f} s alone, {among:.2f} s among {BAD} bad resources")
        assert among < alone * 3 + 2
        for pod in cluster.pods:
            served = pod.configz()["generations"]
            assert served.keys() == generations[pod.name].keys()
        leading = leader(cluster)
        assert leading.metric("postroad_operator_objects") == BAD + 3
    finally:
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda item: cluster.client.delete(item["kind"], item["metadata"]["name"], cluster.namespace),
                    documents,
                )
            )
    wait_for(lambda: leader(cluster).metric("postroad_operator_objects") == 3, timeout=60, what="the bad ones to go")


def test_health_fails_while_the_api_server_hangs_and_heals(cluster: Cluster) -> None:
    cluster.wait_settled()
    leading = leader(cluster)
    wait_for(lambda: leading.health() == 200, what="health")
    with cluster.plane.frozen_server():
        began = time.monotonic()
        wait_for(lambda: leading.health() == 503, what="the health check to fail")
        # 15/4 of the Lease's duration after the last sight of it.
        assert LEASE <= time.monotonic() - began <= LEASE * 15 / 4 + 3
        assert leading.metric("postroad_operator_leader") == 0
        assert leading.metric("postroad_operator_watch_age_seconds") > LEASE
    wait_for(lambda: leading.health() == 200, timeout=60, what="health again")
    assert programmed_in(cluster, "thawed") < 30


def test_killed_ten_times_in_the_middle_nothing_is_lost_or_doubled(cluster: Cluster) -> None:
    cluster.wait_settled()
    chance = random.Random(20240607)
    kept = cluster.get("Secret", "postroad-default-certificates")["data"]
    thumbprint = cluster.get("TransportCertificate", "mail")["status"]["thumbprint"]
    stop = threading.Event()
    expected: dict[str, str] = {}

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            name = f"d{number % 40}"
            if name in expected and chance.random() < 0.3:
                cluster.client.delete("AcceptedDomain", name, cluster.namespace)
                del expected[name]
            else:
                expected[name] = f"mail{number}/{{local}}"
                spec = {"domain": f"{name}.example", "deliver": {"maildir": {"path": expected[name]}}}
                cluster.apply("AcceptedDomain", name, spec)
            if number % 15 == 0:
                cluster.apply("TransportCertificate", f"c{number}", {"ca": {}, "dnsNames": [f"c{number}.example"]})
            time.sleep(0.03)

    changing = threading.Thread(target=change)
    start(cluster)
    changing.start()
    try:
        for _ in range(10):
            leading = leader(cluster)
            start(cluster)
            time.sleep(chance.uniform(0.0, 1.5))
            leading.kill()
    finally:
        stop.set()
        changing.join()
    for name, path in expected.items():
        found = cluster.wait_condition("AcceptedDomain", name, "Programmed", timeout=60)
        assert found["spec"]["deliver"]["maildir"]["path"] == path
    cluster.wait_settled()
    sources = {f"AcceptedDomain/{cluster.namespace}/{name}" for name in (*expected, "mail")}
    for pod in cluster.pods:
        served = {name for name in pod.configz()["generations"] if name.startswith("AcceptedDomain/")}
        assert served == sources
    # One of each, and the authority and its first certificate are still the same.
    ours = {
        kind: [
            item["metadata"]["name"]
            for item in cluster.client.list(kind, cluster.namespace)
            if item["metadata"]["name"].startswith("postroad")
        ]
        for kind in ("ConfigMap", "Secret", "Lease")
    }
    assert ours == {
        "ConfigMap": ["postroad-default"],
        "Secret": ["postroad-default", "postroad-default-certificates"],
        "Lease": ["postroad-operator"],
    }
    now = cluster.get("Secret", "postroad-default-certificates")["data"]
    assert {name: now[name] for name in kept} == kept
    assert cluster.get("TransportCertificate", "mail")["status"]["thumbprint"] == thumbprint
    for item in cluster.client.list("TransportCertificate", cluster.namespace):
        name = item["metadata"]["name"]
        shown = cluster.wait_condition("TransportCertificate", name, "Programmed", timeout=60)["status"]
        assert shown["servedBy"] == "3/3"
        assert all(shown["thumbprint"] in pod.configz()["thumbprints"] for pod in cluster.pods)


def test_with_the_default_times_another_takes_over_within_20_seconds(cluster: Cluster) -> None:
    for item in cluster.operators:
        item.stop()
    first = cluster.operator("--lease-duration", "12")
    wait_for(lambda: first.metric("postroad_operator_leader") == 1, what="a leader")
    second = cluster.operator("--lease-duration", "12")
    wait_for(lambda: second.metric("postroad_operator_leader") == 0, what="a standby")
    first.kill()
    died = time.monotonic()
    wait_for(lambda: second.metric("postroad_operator_leader") == 1, what="the other to lead")
    assert time.monotonic() - died < 20
    cluster.apply("ReceiveConnector", "mx", connector(banner="taken over"))
    cluster.wait_condition("ReceiveConnector", "mx", "Programmed")
