"""The rules as the API server evaluates them, in CEL, agree with the rules as the models check them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import pytest

celpy = pytest.importorskip("celpy", reason="the CEL interpreter (cel-python) is not installed")

from celpy import celtypes, json_to_cel  # noqa: E402  (only where the interpreter is installed)
from resource_cases import BROKEN, SOUND, document  # noqa: E402 (needs what stands above)
from test_crds import defaulted, schema  # noqa: E402 (needs what stands above)

from postroad_operator.resources import Invalid, parse  # noqa: E402 (needs what stands above)


def is_ip(text: Any) -> celtypes.BoolType:
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return celtypes.BoolType(False)
    return celtypes.BoolType(True)


def is_cidr(text: Any) -> celtypes.BoolType:
    try:
        ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        return celtypes.BoolType(False)
    return celtypes.BoolType("/" in str(text))


FUNCTIONS = {
    "isIP": is_ip,
    "isCIDR": is_cidr,
    "split": lambda text, by: celtypes.ListType(map(celtypes.StringType, text.split(by))),
    "replace": lambda text, old, new: celtypes.StringType(text.replace(old, new)),
    "lowerAscii": lambda text: celtypes.StringType(text.lower()),
}
ENVIRONMENT = celpy.Environment()
PROGRAMS: dict[str, Any] = {}


def holds(rule: str, value: Any) -> bool:
    if rule not in PROGRAMS:
        PROGRAMS[rule] = ENVIRONMENT.program(ENVIRONMENT.compile(rule), functions=FUNCTIONS)
    return bool(PROGRAMS[rule].evaluate({"self": json_to_cel(value)}))


def broken(node: dict[str, Any], value: Any) -> Iterator[str]:
    """Yield the message of every CEL rule that fails, transition rules apart."""
    for rule in node.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not holds(rule["rule"], value):
            yield rule["message"]
    if isinstance(value, dict):
        for name, item in value.items():
            if child := node.get("properties", {}).get(name):
                yield from broken(child, item)
    elif isinstance(value, list):
        for item in value:
            yield from broken(node["items"], item)


def cel_verdict(kind: str, spec: dict[str, Any]) -> set[str]:
    node = schema(kind)["properties"]["spec"]
    return set(broken(node, defaulted(node, dict(spec))))


@pytest.mark.parametrize(("kind", "spec"), SOUND)
def test_cel_takes_what_the_models_take(kind: str, spec: dict[str, Any]) -> None:
    assert not isinstance(parse(document(kind, spec)), Invalid)
    assert cel_verdict(kind, spec) == set()


@pytest.mark.parametrize(("kind", "spec", "_expected"), BROKEN)
def test_cel_refuses_nothing_else_than_the_models(kind: str, spec: dict[str, Any], _expected: str) -> None:
    refused = parse(document(kind, spec))
    assert isinstance(refused, Invalid)
    ours = {problem.message for problem in refused.problems}
    by_rule = {message for message in ours if message in RULES}
    if by_rule == ours:
        assert cel_verdict(kind, spec) == by_rule


def rules(node: dict[str, Any]) -> Iterator[str]:
    yield from (rule["message"] for rule in node.get("x-kubernetes-validations", ()) if "oldSelf" not in rule["rule"])
    for child in (*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])):
        yield from rules(child)


RULES = {
    message
    for kind in ("ReceiveConnector", "SendConnector", "AcceptedDomain", "TransportCertificate")
    for message in rules(schema(kind)["properties"]["spec"])
}


def test_every_rule_refuses_some_case() -> None:
    refused: set[str] = set()
    for kind, spec, _ in BROKEN:
        result = parse(document(kind, spec))
        if isinstance(result, Invalid) and {problem.message for problem in result.problems} <= RULES:
            refused |= cel_verdict(kind, spec)
    assert refused >= RULES
