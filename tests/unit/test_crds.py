"""The CustomResourceDefinitions: current, structural, small, and agreeing with the models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from postroad_operator.resources import KINDS, Resource, parse
from postroad_operator.resources.crds import DEFINITIONS, definition, manifests
from postroad_operator.resources.reference import reference

ROOT = Path(__file__).parents[2]
CRDS = {entry.model.__name__: definition(entry) for entry in DEFINITIONS}
INT_OR_STRING = "x-kubernetes-int-or-string"


def schema(kind: str) -> dict[str, Any]:
    root: dict[str, Any] = CRDS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return root


def walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from walk(node[key], f"{path}[]")


NODES = [(kind, path, node) for kind in CRDS for path, node in walk(schema(kind), "")]


def test_the_committed_files_are_current() -> None:
    committed = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "crds").glob("*.yaml")}
    assert committed == manifests(), "run `make crds`"


def test_the_committed_reference_is_current() -> None:
    assert (ROOT / "docs" / "resources.md").read_text(encoding="utf-8") == reference(), "run `make crds`"


def test_every_kind_has_a_definition() -> None:
    assert set(CRDS) == set(KINDS)


def test_each_definition_is_small_enough_to_be_applied() -> None:
    assert all(len(text) < 200_000 for text in manifests().values())


@pytest.mark.parametrize("kind", CRDS)
def test_a_definition_has_status_names_and_columns(kind: str) -> None:
    spec = CRDS[kind]["spec"]
    (version,) = spec["versions"]
    assert version["subresources"] == {"status": {}}
    assert spec["names"]["categories"] == ["mail"]
    assert len(spec["names"]["shortNames"]) == 1
    columns = [column["name"] for column in version["additionalPrinterColumns"]]
    assert {"Accepted", "Programmed", "Ready", "Age"} <= set(columns)
    for column in version["additionalPrinterColumns"]:
        first = column["jsonPath"].split("[")[0].removeprefix(".")
        node = schema(kind)
        for step in first.split("."):
            if step == "metadata":
                break
            node = node["properties"][step]


def test_every_node_is_typed_and_nothing_is_left_of_json_schema() -> None:
    forbidden = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "title", "const", "nullable", "exclusiveMinimum"}
    for kind, path, node in NODES:
        place = f"{kind}{path}"
        assert ("type" in node) != bool(node.get(INT_OR_STRING)), place
        assert not forbidden & set(node), place
        assert not ("properties" in node and "additionalProperties" in node), place
        assert "x-kubernetes-preserve-unknown-fields" not in node, place
        assert ("items" in node) == (node.get("type") == "array"), place


def test_every_field_is_described() -> None:
    for kind, path, node in NODES:
        if path and not path.endswith("[]") and path != ".metadata":
            assert node.get("description"), f"{kind}{path}"


def test_whatever_a_rule_may_iterate_is_bounded() -> None:
    for kind, path, node in NODES:
        if path.startswith(".spec"):
            if node.get("type") == "array":
                assert node["maxItems"] <= 10_000, f"{kind}{path}"
            if node.get("type") == "string" and "enum" not in node:
                assert node["maxLength"] <= 32_768, f"{kind}{path}"


def test_set_lists_hold_scalars_and_map_lists_have_their_keys() -> None:
    for kind, path, node in NODES:
        match node.get("x-kubernetes-list-type"):
            case "set":
                assert node["items"]["type"] == "string", f"{kind}{path}"
            case "map":
                for key in node["x-kubernetes-list-map-keys"]:
                    assert key in node["items"]["required"], f"{kind}{path}"


def test_patterns_are_valid_and_defaults_satisfy_them() -> None:
    for kind, path, node in NODES:
        default = node.get("default")
        if "pattern" in node:
            re.compile(node["pattern"])
            assert default is None or re.search(node["pattern"], str(default)), f"{kind}{path}"
        if "enum" in node and default is not None:
            assert default in node["enum"], f"{kind}{path}"


def test_required_fields_exist_and_have_no_default() -> None:
    for kind, path, node in NODES:
        for name in node.get("required", ()):
            assert "default" not in node["properties"][name], f"{kind}{path}.{name}"


def test_rules_blame_fields_that_exist_and_name_only_such() -> None:
    for kind, path, node in NODES:
        for rule in node.get("x-kubernetes-validations", ()):
            place = f"{kind}{path}: {rule['rule']}"
            if "fieldPath" in rule:
                assert rule["fieldPath"].removeprefix(".") in node["properties"], place
            assert len(rule["message"]) <= 2048, place
            for field in re.findall(r"\bself\.([A-Za-z]+)\b(?!\()", rule["rule"]):
                assert field in node["properties"], place


def test_a_field_without_default_is_asked_for_before_it_is_used() -> None:
    """CEL fails on a field that is not there; optional ones need has()."""
    for kind, path, node in NODES:
        for rule in node.get("x-kubernetes-validations", ()):
            for field in set(re.findall(r"\bself\.([A-Za-z]+)\b(?!\()", rule["rule"])):
                child = node["properties"][field]
                sure = field in node.get("required", ()) or "default" in child
                assert sure or f"has(self.{field})" in rule["rule"], f"{kind}{path}: {rule['rule']}"


def defaulted(node: dict[str, Any], value: Any) -> Any:
    """Fill in defaults as the API server does."""
    if isinstance(value, dict):
        for name, child in node.get("properties", {}).items():
            if name not in value and "default" in child:
                value[name] = child["default"]
        return {name: defaulted(node.get("properties", {}).get(name, {}), item) for name, item in value.items()}
    if isinstance(value, list):
        return [defaulted(node.get("items", {}), item) for item in value]
    return value


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("ReceiveConnector", {"bindings": [{"port": 25}]}),
        ("SendConnector", {"addressSpaces": [{"domain": "*"}], "dns": {}}),
        ("AcceptedDomain", {"domain": "a.example"}),
        ("TransportCertificate", {"ca": {}, "dnsNames": ["a.example"]}),
    ],
)
def test_the_defaults_of_the_schema_are_those_of_the_model(kind: str, spec: dict[str, Any]) -> None:
    document = {"apiVersion": "postroad.dev/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    stored = yaml.safe_load(yaml.safe_dump(document)) | {"spec": defaulted(schema(kind)["properties"]["spec"], spec)}
    ours, theirs = parse(document), parse(stored)
    assert isinstance(ours, Resource)
    assert theirs == ours
