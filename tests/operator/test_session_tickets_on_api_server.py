"""The session ticket secret on a real API server: one for all pods, kept, and replaced in time without a word."""

from __future__ import annotations

import base64
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_kit import Clock, Cluster, versions
from control_plane import ControlPlane, wait_for
from resumption_kit import VERSIONS, ReturningClient
from tls_cluster_kit import PORT, session, tls_cluster

from postroad_operator.certificates.tickets import ROTATION, TICKETS_NAME, read_ticket_secret
from postroad_transport.config.files import SESSION_TICKETS_FILE

SECRET, STORE = "postroad-default", "postroad-default-certificates"
KEPT = f"{TICKETS_NAME}.pem"
OBJECTS = {f"Secret/{SECRET}", f"Secret/{STORE}"}


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with tls_cluster(control_plane, "tickets", tmp_path_factory.mktemp("tickets")) as cluster:
        yield cluster


def data(cluster: Cluster, name: str, key: str) -> bytes:
    return base64.b64decode(((cluster.get("Secret", name) or {}).get("data") or {}).get(key, ""))


def published(cluster: Cluster) -> bytes:
    return data(cluster, SECRET, SESSION_TICKETS_FILE)


def wait_published(cluster: Cluster, unlike: bytes) -> bytes:
    """Wait until another secret than `unlike` is published and every pod has it; return it."""
    made: bytes = wait_for(
        lambda: found if len(found := published(cluster)) == 32 and found != unlike else None,
        timeout=45,
        what="another secret",
    )
    for pod in cluster.pods:
        served = pod.directory / "state/served/secrets" / SESSION_TICKETS_FILE
        wait_for(lambda: served.read_bytes() == made, what=f"{pod.name} to have it")  # noqa: B023 (called at once)
    return made


def client(directory: Path, version: str) -> ReturningClient:
    return ReturningClient(directory / version, version, PORT, starttls=True)


def resume_everywhere(cluster: Cluster, directory: Path) -> bool:
    """Begin a session at each pod; tell whether every pod resumes that very one."""
    for version in VERSIONS:
        for began in cluster.pods:
            (directory / version).unlink(missing_ok=True)
            coming = client(directory, version)
            assert not coming.resumes(began.address)
            if not all(coming.resumes(pod.address, keep=False) for pod in cluster.pods):
                return False
    return True


def programmed(cluster: Cluster, number: int) -> None:
    """Have the operator compile once more, and wait until all pods serve it."""
    name = f"d{number}"
    spec = {"domain": f"{name}.example", "deliver": {"maildir": {"path": "m/{local}"}}}
    cluster.apply("AcceptedDomain", name, spec)
    cluster.wait_condition("AcceptedDomain", name, "Programmed")
    cluster.client.delete("AcceptedDomain", name, cluster.namespace)
    wait_for(lambda: cluster.get("AcceptedDomain", name) is None, what="it to go")
    cluster.wait_settled()


def quiet(cluster: Cluster) -> dict[str, str]:
    wait_for(lambda: versions(cluster) == (time.sleep(1.0) or versions(cluster)), what="quiet")
    return versions(cluster)


def test_pods_resume_each_others_sessions(cluster: Cluster, tmp_path: Path) -> None:
    assert resume_everywhere(cluster, tmp_path)


def test_it_stands_in_secrets_and_nowhere_else(cluster: Cluster) -> None:
    secret = published(cluster)
    kept = read_ticket_secret(data(cluster, STORE, KEPT))
    assert kept is not None
    assert kept.secret == secret
    kinds = "ConfigMap", "Event", "Pod", "ReceiveConnector", "TransportCertificate"
    everything = [cluster.client.list(kind, cluster.namespace) for kind in kinds]
    logs = [operator.log for operator in cluster.operators] + [pod.directory / "log" for pod in cluster.pods]
    shown = str([*everything, *(pod.configz() for pod in cluster.pods)]) + "".join(log.read_text() for log in logs)
    for form in (base64.b64encode(secret).decode(), secret.hex(), repr(secret)):
        assert form not in shown


def test_it_outlives_operators_and_leaders(cluster: Cluster) -> None:
    before = published(cluster)
    cluster.operators[-1].kill()
    cluster.operator()
    programmed(cluster, 1)
    first = cluster.operators[-1]
    second = cluster.operator()
    wait_for(lambda: second.metric("postroad_operator_leader") == 0, what="a standby")
    first.kill(signal.SIGTERM)
    wait_for(lambda: second.metric("postroad_operator_leader") == 1, what="a leader")
    programmed(cluster, 2)
    assert published(cluster) == before


def test_one_that_is_damaged_or_gone_heals(cluster: Cluster, tmp_path: Path) -> None:
    before = published(cluster)
    path = cluster.client.path("Secret", cluster.namespace, SECRET)
    for damage in ("AAAA", None):
        patch: dict[str, Any] = {"data": {SESSION_TICKETS_FILE: damage}}
        cluster.client.request("PATCH", path, patch, "application/merge-patch+json")
        wait_for(lambda: published(cluster) == before, what="what was published before")
    store = cluster.client.path("Secret", cluster.namespace, STORE)
    for number, damage in enumerate(("AAAA", None)):
        before = published(cluster)
        cluster.client.request("PATCH", store, {"data": {KEPT: damage}}, "application/merge-patch+json")
        programmed(cluster, 3 + number)
        made = wait_published(cluster, before)
        kept = read_ticket_secret(data(cluster, STORE, KEPT))
        assert kept is not None
        assert kept.secret == made
    wait_for(lambda: resume_everywhere(cluster, tmp_path), timeout=30, what="pods that resume")


def test_one_that_is_due_is_replaced_without_a_word(cluster: Cluster, clock: Clock, tmp_path: Path) -> None:
    cluster.operators[-1].kill(signal.SIGTERM)
    operator = cluster.operator(environment=clock.environment)
    wait_for(lambda: operator.metric("postroad_operator_leader") == 1, timeout=30, what="a leader")
    cluster.wait_settled()
    secret, before, events = published(cluster), quiet(cluster), cluster.client.list("Event", cluster.namespace)
    clients = {version: client(tmp_path, version) for version in VERSIONS}
    for coming in clients.values():
        coming.resumes(cluster.pods[0].address)
    # Not long before its time nothing is written, though the operator has reason to look.
    clock.put(ROTATION - 3600)
    looked = operator.metric("postroad_operator_compilations_total")
    passing = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "passing"}, "data": {"key": "value"}}
    cluster.client.apply(passing, cluster.namespace)
    cluster.client.delete("ConfigMap", "passing", cluster.namespace)
    wait_for(lambda: operator.metric("postroad_operator_compilations_total") > looked, timeout=45, what="a look")
    assert quiet(cluster) == before
    with session(cluster.pods[0].address) as (open_session, _):
        clock.put(ROTATION + 60)
        made = wait_published(cluster, secret)
        assert open_session.noop()[0] == 250
    after = quiet(cluster)
    # No status, no ConfigMap and no pod was touched, and no event told of it.
    assert {name for name in after if after[name] != before.get(name)} == OBJECTS
    assert cluster.client.list("Event", cluster.namespace) == events
    cluster.wait_settled()
    for coming in clients.values():
        for pod in cluster.pods:
            what = f"{pod.name} to let go of the old one"
            wait_for(lambda: not coming.resumes(pod.address, keep=False), what=what)  # noqa: B023 (called at once)
    assert resume_everywhere(cluster, tmp_path)
    # What is new stays until it is due in its turn.
    programmed(cluster, 5)
    assert published(cluster) == made
