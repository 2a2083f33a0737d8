"""From a plain document (YAML or the API server's JSON) to a resource, or to what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from postroad_operator.resources import problems
from postroad_operator.resources.accepted_domain import AcceptedDomain
from postroad_operator.resources.base import API_VERSION, GROUP, Resource
from postroad_operator.resources.config_map import ConfigMap
from postroad_operator.resources.problems import Problem
from postroad_operator.resources.receive_connector import ReceiveConnector
from postroad_operator.resources.secret import Secret
from postroad_operator.resources.send_connector import SendConnector
from postroad_operator.resources.transport_certificate import TransportCertificate

KINDS: dict[str, type[Resource]] = {
    "ReceiveConnector": ReceiveConnector,
    "SendConnector": SendConnector,
    "AcceptedDomain": AcceptedDomain,
    "TransportCertificate": TransportCertificate,
}
CORE_KINDS: dict[str, type[Resource]] = {"Secret": Secret, "ConfigMap": ConfigMap}

_MAX_NODES = 200_000


@dataclass(frozen=True, slots=True)
class Invalid:
    """A document of ours that cannot be used, and why. ``tier`` is empty when it could not be read."""

    source: str
    problems: tuple[Problem, ...]
    generation: int = 0
    tier: str = ""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A document that is none of our business."""

    description: str


def parse(document: object) -> Resource | Invalid | Ignored:
    """Read one document. Total: whatever the document is, the answer is one of the three.

    Null counts as not given, as it does on the API server; ``status`` is not read.
    """
    if not isinstance(document, Mapping):
        return Invalid("?", (Problem((), f"a document must be a mapping, not {_type_name(document)}"),))
    api_version, kind = document.get("apiVersion"), document.get("kind")
    if not isinstance(api_version, str) or not isinstance(kind, str):
        missing = "apiVersion" if not isinstance(api_version, str) else "kind"
        return Invalid("?", (Problem((missing,), "this field is required, as a string: add it"),))
    model = _model(api_version, kind)
    if model is None:
        if api_version.partition("/")[0] != GROUP:
            return Ignored(f"{kind} ({api_version})")
        reason = (
            f"unknown kind: one of {', '.join(KINDS)}"
            if api_version == API_VERSION
            else f"unknown version: write {API_VERSION}"
        )
        return Invalid(f"{kind}/?/?", (Problem(("kind" if api_version == API_VERSION else "apiVersion",), reason),))
    return _validate(model, kind, document)


def _model(api_version: str, kind: str) -> type[Resource] | None:
    if api_version == "v1":
        return CORE_KINDS.get(kind)
    return KINDS.get(kind) if api_version == API_VERSION else None


def _validate(model: type[Resource], kind: str, document: Mapping[Any, Any]) -> Resource | Invalid:
    metadata = document.get("metadata")
    facts = metadata if isinstance(metadata, Mapping) else {}
    name, namespace, generation = (facts.get(key) for key in ("name", "namespace", "generation"))
    source = (
        f"{kind}/{namespace if isinstance(namespace, str) else 'default'}/{name if isinstance(name, str) else '?'}"
    )
    spec = document.get("spec")
    tier = spec.get("tier", "default") if isinstance(spec, Mapping) else ""

    def invalid(*found: Problem) -> Invalid:
        return Invalid(
            source, found, generation if isinstance(generation, int) else 0, tier if isinstance(tier, str) else ""
        )

    try:
        fields = _without_nulls(
            {key: value for key, value in document.items() if key not in ("apiVersion", "status")}
        )
        return model.model_validate(fields)
    except ValidationError as error:
        return invalid(*problems.of(error, model))
    except (RecursionError, _TooLargeError):
        return invalid(Problem((), "nested too deeply or too large"))


class _TooLargeError(Exception):
    """More nodes than any resource has: a reference bomb."""


def _without_nulls(document: dict[Any, Any]) -> dict[Any, Any]:
    budget = [_MAX_NODES]

    def clean(value: object) -> object:
        budget[0] -= 1
        if budget[0] < 0:
            raise _TooLargeError
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items() if item is not None}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return value

    cleaned = clean(document)
    assert isinstance(cleaned, dict)  # noqa: S101  # for the type checker: a mapping stays one
    return cleaned


def _type_name(value: object) -> str:
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "nothing" if value is None else type(value).__name__
