"""The models: the rules that one object can check about itself, and how a fault is worded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resource_cases import BROKEN, DOMAIN, RECEIVE, SOUND, document

from postroad_operator.resources import API_VERSION, KINDS, Ignored, Invalid, Resource, Secret, parse
from postroad_operator.resources.receive_connector import USAGES_WITH_TLS
from postroad_transport.config import AuthMechanism, Usage
from postroad_transport.policy.groups import usage_defaults


def problems(kind: str, spec: object) -> list[str]:
    result = parse(document(kind, spec))
    return [str(problem) for problem in result.problems] if isinstance(result, Invalid) else []


@pytest.mark.parametrize(("kind", "spec"), SOUND)
def test_a_sound_specification_is_taken(kind: str, spec: object) -> None:
    assert problems(kind, spec) == []


@pytest.mark.parametrize(("kind", "spec", "expected"), BROKEN)
def test_a_broken_specification_is_refused_naming_the_field(kind: str, spec: dict[str, Any], expected: str) -> None:
    found = problems(kind, spec)
    assert any(expected in problem for problem in found), found


def test_every_broken_rule_is_reported_at_once() -> None:
    spec = RECEIVE | {"authMechanisms": ["BasicAuthRequireTLS", "ExternalAuthoritative"], "requireTLS": True}
    assert len(problems("ReceiveConnector", spec)) == 3


def test_the_usages_that_bring_tls_are_those_of_the_usage_table() -> None:
    assert {u.value for u in Usage if AuthMechanism.TLS in usage_defaults(u).auth_mechanisms} == USAGES_WITH_TLS


def test_null_counts_as_not_given() -> None:
    spec = RECEIVE | {"limits": None, "fqdn": None, "usage": None}
    result = parse(document("ReceiveConnector", spec))
    assert isinstance(result, KINDS["ReceiveConnector"])


def test_server_side_metadata_and_status_are_tolerated() -> None:
    full = document("AcceptedDomain", DOMAIN, managedFields=[{}], resourceVersion="7", uid="u", generation=3)
    result = parse(full | {"status": {"anything": [1]}})
    assert isinstance(result, Resource)
    assert result.metadata.generation == 3


@pytest.mark.parametrize(
    ("api_version", "kind", "expected"),
    [
        (API_VERSION, "ReceiveConector", "unknown kind"),
        ("postroad.dev/v1", "AcceptedDomain", "unknown version"),
    ],
)
def test_an_unknown_kind_of_our_group_is_an_error(api_version: str, kind: str, expected: str) -> None:
    result = parse({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}})
    assert isinstance(result, Invalid)
    assert expected in str(result.problems[0])


def test_other_kinds_are_ignored() -> None:
    assert isinstance(parse({"apiVersion": "apps/v1", "kind": "Deployment"}), Ignored)
    assert isinstance(parse({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}), Ignored)


def test_string_data_wins_over_data_and_values_never_show() -> None:
    secret = parse(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": "s"},
            "data": {"a": "b2xk", "b": "Z2Vo\nZWlt"},
            "stringData": {"a": "geheim"},
        }
    )
    assert isinstance(secret, Secret)
    assert (secret.value("a"), secret.value("b"), secret.value("c")) == (b"geheim", b"geheim", None)
    assert "geheim" not in repr(secret)


def test_a_secret_that_is_not_base64_is_refused_without_showing_it() -> None:
    result = parse({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "geheim!"}})
    assert isinstance(result, Invalid)
    assert "geheim" not in str(result)


def test_a_bomb_of_nested_references_is_refused() -> None:
    bomb: list[Any] = ["x"] * 10
    for _ in range(12):
        bomb = [bomb] * 10
    loop: list[Any] = []
    loop.append(loop)
    for value in (bomb, loop):
        result = parse(document("AcceptedDomain", DOMAIN | {"recipients": {"list": value}}))
        assert isinstance(result, Invalid)
        assert "too deeply or too large" in str(result.problems[0])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "bindings",
        "domain",
        "port",
        "deliver",
        "dns",
        "smartHosts",
        "ca",
        "dnsNames",
        "grants",
        "limits",
        "tier",
        "name",
    ]
)


@given(
    st.sampled_from([*KINDS, "Secret", "ConfigMap", "Other"]),
    st.dictionaries(FIELDS, JSON | st.dictionaries(FIELDS, JSON, max_size=2), max_size=4) | JSON,
    JSON,
    st.sampled_from([API_VERSION, "v1", "x/v1"]),
)
def test_parse_answers_whatever_the_document_is(kind: str, spec: object, metadata: object, version: str) -> None:
    anything = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec, "data": spec}
    result = parse(anything)
    assert isinstance(result, Resource | Invalid | Ignored)
    if isinstance(result, Invalid):
        assert result.problems


@given(JSON)
def test_parse_answers_whatever_it_is_given(document: object) -> None:
    assert isinstance(parse(document), Invalid | Ignored)
