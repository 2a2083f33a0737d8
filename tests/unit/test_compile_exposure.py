"""Services that hide clients' addresses: which they are, on which ports, and what that refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from compile_kit import compiled, rconn, verdict
from hypothesis import given
from hypothesis import strategies as st

from postroad_operator.compile import Reason, TierSettings, exposure_of, hidden_ports
from postroad_operator.resources.labels import COMPONENT, TIER

LABELS = {COMPONENT: "transport", TIER: "default", "app": "mail"}
RELAY = {"principal": "Anonymous", "permissions": ["SMTP-Submit", "SMTP-Accept-Any-Recipient"]}
PRIVATE = {"remoteIPRanges": ["10.0.0.0/8"], "grants": [RELAY]}
PROXIED = {"port": 25, "proxyProtocol": {"trustedRanges": ["10.9.0.1/32"]}}


@dataclass(frozen=True)
class Pod:
    tier: str = "default"
    labels: dict[str, str] = field(default_factory=lambda: dict(LABELS))
    ports: dict[str, int] = field(default_factory=lambda: {"smtp": 2525})


def service(**spec: Any) -> dict[str, Any]:
    given = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Cluster",
        "selector": {"app": "mail"},
        "ports": [{"port": 25}],
    }
    return {"metadata": {"namespace": "default", "name": "front"}, "spec": given | spec}


def ports_of(*documents: dict[str, Any], pods: tuple[Pod, ...] = (Pod(),)) -> dict[int, tuple[str, ...]]:
    exposures = [found for document in documents if (found := exposure_of(document))]
    return hidden_ports("default", exposures, pods)


@pytest.mark.parametrize(
    ("spec", "hides"),
    [
        ({}, True),
        ({"externalTrafficPolicy": None}, True),
        ({"externalTrafficPolicy": "Local"}, False),
        ({"type": "NodePort"}, True),
        ({"type": "ClusterIP", "externalTrafficPolicy": None}, False),
        ({"type": "ClusterIP", "externalIPs": ["192.0.2.1"]}, True),
        ({"type": "ExternalName"}, False),
        ({"selector": {}}, False),
        ({"selector": None}, False),
        ({"selector": {"app": "web"}}, False),
        ({"selector": {"app": "mail", "more": "x"}}, False),
        ({"ports": [{"port": 25, "protocol": "UDP"}]}, False),
        ({"ports": []}, False),
        ({"ports": [{"port": 2500, "targetPort": 25}]}, True),
        ({"ports": [{"port": 25, "targetPort": 2525}]}, False),
    ],
)
def test_which_services_hide_addresses_on_port_25(spec: dict[str, Any], hides: bool) -> None:
    assert (25 in ports_of(service(**spec))) is hides


def test_a_named_port_is_the_one_of_the_pods() -> None:
    named = service(ports=[{"port": 25, "targetPort": "smtp"}])
    assert ports_of(named) == {2525: ("front",)}
    assert ports_of(named, pods=(Pod(), Pod(ports={"smtp": 26}))) == {26: ("front",), 2525: ("front",)}
    assert ports_of(named, pods=(Pod(ports={}),)) == {}


def test_every_service_on_a_port_is_named() -> None:
    other = service() | {"metadata": {"namespace": "default", "name": "back"}}
    assert ports_of(service(), other) == {25: ("back", "front")}


def test_pods_of_another_tier_do_not_count() -> None:
    assert ports_of(service(), pods=(Pod(tier="edge"),)) == {}


@pytest.mark.parametrize(
    ("selector", "hides"),
    [
        ({TIER: "default"}, True),
        ({TIER: "default", COMPONENT: "transport", "app": "x"}, True),
        ({TIER: "default", COMPONENT: "operator"}, False),
        ({TIER: "edge"}, False),
        ({"app": "mail"}, False),
    ],
)
def test_without_pods_a_selector_that_names_the_tier_counts(selector: dict[str, str], hides: bool) -> None:
    assert bool(ports_of(service(selector=selector), pods=())) is hides


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["type", "selector", "ports", "externalIPs", "externalTrafficPolicy"])


@given(JSON, st.dictionaries(FIELDS, JSON | st.just("LoadBalancer")), st.lists(JSON, max_size=3))
def test_whatever_a_service_holds_it_is_read(metadata: Any, spec: dict[str, Any], ports: list[Any]) -> None:
    for document in ({"metadata": metadata, "spec": spec}, service(ports=ports), {"spec": metadata}):
        ports_of(document)


def behind(*services: str, port: int = 25) -> TierSettings:
    return TierSettings(hostname="mx.example", hidden_ports={port: services})


def test_relay_by_range_is_refused_naming_the_service_and_what_to_do() -> None:
    result = verdict(compiled(rconn(**PRIVATE), settings=behind("front")), "r")
    assert not result.accepted
    assert result.reason is Reason.CLIENT_ADDRESSES_HIDDEN
    for text in ("Service front", "port 25", "externalTrafficPolicy: Local", "spec.bindings[0].proxyProtocol"):
        assert text in result.message


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        (PRIVATE, behind("front", port=26)),
        (PRIVATE | {"bindings": [PROXIED]}, behind("front")),
        ({}, behind("front")),
    ],
    ids=["another port", "PROXY protocol", "no relay"],
)
def test_what_a_service_does_not_matter_to_is_accepted(spec: dict[str, Any], settings: TierSettings) -> None:
    assert verdict(compiled(rconn(**spec), settings=settings), "r").accepted


def test_one_hidden_port_among_several_is_enough_and_is_named() -> None:
    bindings = [{**PROXIED, "port": 2525}, {"port": 25}]
    result = verdict(compiled(rconn(**PRIVATE, bindings=bindings), settings=behind("a", "b")), "r")
    assert not result.accepted
    assert "Services a, b" in result.message
    assert "spec.bindings[1].proxyProtocol" in result.message


def test_other_connectors_stay_when_one_is_refused() -> None:
    result = compiled(rconn("bad", **PRIVATE), rconn("good", bindings=[{"port": 26}]), settings=behind("front"))
    assert [part.name for part in result.config.receive_connectors] == ["good"]


def test_bans_are_off_on_a_port_where_a_service_hides_addresses() -> None:
    spec = {"authentication": {"bans": {"failures": 5}}}
    result = compiled(rconn(**spec), settings=behind("front"))
    (part,) = result.config.receive_connectors
    assert not part.authentication.bans.on
    (warning,) = (text for text in verdict(result, "r").warnings if "bans" in text)
    assert "spec.authentication.bans: off, because Service front" in warning
    (part,) = compiled(rconn(**spec), settings=behind("front", port=26)).config.receive_connectors
    assert part.authentication.bans.on
