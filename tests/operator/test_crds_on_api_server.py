"""What only a real API server can show of the CRDs: it takes them, refuses by their rules, fills in, prints."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ApiError, ControlPlane

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from resource_cases import BROKEN, SOUND, document

#: Those are for other tools; test_gitops.py and test_autoscaling_example.py have them.
OTHERS = {"gitops", "autoscaling"}
EXAMPLES = [
    path for path in sorted((Path(__file__).parents[2] / "examples").rglob("*.yaml")) if not OTHERS & {*path.parts}
]
CRDS = [yaml.safe_load(path.read_text()) for path in sorted((Path(__file__).parents[2] / "crds").glob("*.yaml"))]


def rules(node: Any) -> list[str]:
    """Return the message of every CEL rule in a schema, those on transitions apart."""
    found = [rule["message"] for rule in node.get("x-kubernetes-validations", ()) if "oldSelf" not in rule["rule"]]
    for child in (*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])):
        found += rules(child)
    return found


def schema(crd: dict[str, Any]) -> dict[str, Any]:
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_example_is_accepted(control_plane: ControlPlane, namespace: str, path: Path) -> None:
    for item in yaml.safe_load_all(path.read_text()):
        if item is not None:
            item["metadata"].pop("namespace", None)
            control_plane.client.apply(item, namespace)


def test_sound_resources_are_accepted(control_plane: ControlPlane, namespace: str) -> None:
    for number, (kind, spec) in enumerate(SOUND):
        control_plane.client.apply(document(kind, spec, name=f"sound-{number}"), namespace, dry_run=True)


def test_every_rule_has_a_case_that_the_api_server_refuses(control_plane: ControlPlane, namespace: str) -> None:
    answers: list[str] = []
    taken: list[tuple[str, dict[str, Any]]] = []
    for kind, spec, _ in BROKEN:
        try:
            control_plane.client.apply(document(kind, spec), namespace, dry_run=True)
            taken.append((kind, spec))
        except ApiError as error:
            answers.append(error.message)
    said = "\n".join(answers)
    expected = {message for crd in CRDS for message in rules(schema(crd)["properties"]["spec"])}
    assert {message for message in expected if message not in said} == set()
    # What has no rule in the schema (such as a name's characters by IDNA) is left to the compiler.
    assert len(taken) <= 3, taken


def test_a_tier_cannot_be_changed(control_plane: ControlPlane, namespace: str) -> None:
    body = document("AcceptedDomain", {"domain": "a.example", "deliver": {"lmtp": {"host": "h", "port": 24}}})
    control_plane.client.apply(body, namespace)
    moved = copy.deepcopy(body)
    moved["spec"]["tier"] = "edge"
    with pytest.raises(ApiError, match="tier cannot be changed"):
        control_plane.client.apply(moved, namespace)


def test_defaults_are_filled_in(control_plane: ControlPlane, namespace: str) -> None:
    made = control_plane.client.apply(document("ReceiveConnector", {"bindings": [{"port": 25}]}), namespace)
    spec = made["spec"]
    assert (spec["tier"], spec["usage"], spec["enabled"]) == ("default", "Custom", True)
    assert spec["bindings"][0]["tls"] == "STARTTLS"
    assert spec["limits"]["messageSize"]
    assert made["metadata"]["generation"] == 1


def test_kubectl_shows_mail_resources_with_their_columns(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.client.apply(document("ReceiveConnector", {"bindings": [{"port": 25}]}, name="mx"), namespace)
    control_plane.client.apply(
        document("AcceptedDomain", {"domain": "a.example", "deliver": {"lmtp": {"host": "h", "port": 24}}}), namespace
    )
    everything = control_plane.kubectl("get", "mail", "-n", namespace)
    assert "receiveconnector.postroad.dev/mx" in everything
    assert "accepteddomain.postroad.dev/x" in everything
    header = control_plane.kubectl("get", "rconn", "-n", namespace).splitlines()[0].split()
    assert header == ["NAME", "USAGE", "PORTS", "ACCEPTED", "PROGRAMMED", "READY", "AGE"]
    for short in ("sconn", "adom", "tcert"):
        assert "error" not in control_plane.kubectl("get", short, "-n", namespace)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("receiveconnector.spec.bindings.tls", "STARTTLS"),
        ("sendconnector.spec.addressSpaces", "Recipient domains"),
        ("accepteddomain.spec.deliver", "Maildirs on the tier's own disk"),
        ("transportcertificate.status.thumbprint", "SHA-256"),
    ],
)
def test_kubectl_explains_fields(control_plane: ControlPlane, field: str, words: str) -> None:
    assert words in " ".join(control_plane.kubectl("explain", field).split())


def test_applying_twice_changes_nothing(control_plane: ControlPlane, namespace: str) -> None:
    for kind, spec in SOUND:
        control_plane.client.apply(document(kind, spec), namespace)
        # The first status, which is the operator's, is a write; so is its default when nobody has written one yet.
        path = control_plane.client.path(kind, namespace, "x") + "/status"
        status = {"status": {"observedGeneration": 1}}
        first = control_plane.client.request("PATCH", path, status, "application/merge-patch+json")
        again = control_plane.client.apply(document(kind, spec), namespace)
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        control_plane.client.delete(kind, "x", namespace)
