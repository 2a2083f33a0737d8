"""Events and statuses on a real API server: told once, read by kubectl, in the words of kstatus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from cluster_kit import Cluster, condition
from control_plane import ControlPlane, wait_for

DOMAIN = {"domain": "events.example", "deliver": {"lmtp": {"host": "mail", "port": 24}}}


@pytest.fixture
def told(control_plane: ControlPlane, namespace: str, tmp_path: Any) -> Iterator[Cluster]:
    cluster = Cluster(control_plane, namespace, tmp_path)
    try:
        cluster.operator()
        yield cluster
    finally:
        cluster.stop()


def events(cluster: Cluster) -> Counter[tuple[str, str, str]]:
    path = f"/apis/events.k8s.io/v1/namespaces/{cluster.namespace}/events"
    items = cluster.client.request("GET", path)["items"]
    return Counter((item["type"], item["reason"], item["regarding"]["name"]) for item in items)


def test_transitions_are_told_once_even_when_the_operator_starts_again(told: Cluster) -> None:
    told.apply("AcceptedDomain", "first", DOMAIN)
    wait_for(lambda: condition(told.get("AcceptedDomain", "first"), "Accepted"), what="a status")
    told.apply("AcceptedDomain", "second", DOMAIN)
    told.apply("TransportCertificate", "mail", {"ca": {}, "dnsNames": ["events.example"]})
    wanted = {
        ("Normal", "Accepted", "first"): 1,
        ("Warning", "Conflict", "second"): 1,
        ("Normal", "Accepted", "mail"): 1,
        ("Normal", "Issued", "mail"): 1,
    }
    wait_for(lambda: dict(events(told)) == wanted, what=f"four events, not {events(told)}")
    shown = told.plane.kubectl("describe", "adom", "second", "-n", told.namespace)
    assert "postroad.dev/postroad-operator" in shown
    assert "belongs to AcceptedDomain" in shown.partition("Events:")[2]

    told.operators[-1].kill()
    again = told.operator()
    wait_for(lambda: again.metric("postroad_operator_leader") == 1, what="the next leader")
    told.apply("AcceptedDomain", "third", DOMAIN | {"domain": "third.example"})
    wanted[("Normal", "Accepted", "third")] = 1
    wait_for(lambda: events(told)[("Normal", "Accepted", "third")], what="an event of the third")
    assert dict(events(told)) == wanted

    told.client.delete("AcceptedDomain", "first", told.namespace)
    wanted[("Normal", "Accepted", "second")] = 1
    wait_for(lambda: dict(events(told)) == wanted, what=f"the second to be accepted: {events(told)}")
