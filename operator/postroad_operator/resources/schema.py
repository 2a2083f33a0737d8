"""From pydantic's JSON schema to a structural one, the form that Kubernetes takes (no references, no unions)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = frozenset(
    {
        "type",
        "description",
        "enum",
        "format",
        "pattern",
        "default",
        "required",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
    }
)
_INT_OR_STRING = "x-kubernetes-int-or-string"


def structural(model: type[BaseModel]) -> Schema:
    """Return the structural schema of a model: every node typed, every reference and union resolved."""
    whole = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(whole, whole.get("$defs", {}))


def _convert(node: Schema, definitions: Schema) -> Schema:
    node = _resolve(node, definitions)
    result = {key: value for key, value in node.items() if key in _KEPT or key.startswith("x-kubernetes-")}
    if "const" in node:
        result["enum"] = [node["const"]]
    if result.get("default", ...) is None:
        del result["default"]
    if node.get(_INT_OR_STRING):
        result.pop("type", None)
    elif properties := node.get("properties"):
        result["properties"] = {name: _convert(value, definitions) for name, value in properties.items()}
        if "default" in result:
            # The properties carry their own defaults; the object only has to exist for them to be filled in. The API
            # server runs an object's rules on its default as it stands, though, so rules need all of it.
            given = {name: value for name, value in result["default"].items() if value is not None}
            result["default"] = given if "x-kubernetes-validations" in result else {}
    elif "items" in node:
        result["items"] = _convert(node["items"], definitions)
        result.setdefault("x-kubernetes-list-type", "atomic")
    elif isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = _convert(node["additionalProperties"], definitions)
    return dict(sorted(result.items(), key=_order))


def _resolve(node: Schema, definitions: Schema) -> Schema:
    """Inline references, and reduce "this or null" to "this": Kubernetes drops nulls by itself."""
    while True:
        siblings = {key: value for key, value in node.items() if key not in ("$ref", "anyOf", "allOf")}
        if reference := node.get("$ref"):
            target = definitions[reference.rpartition("/")[2]]
        elif node.get(_INT_OR_STRING):
            return siblings
        elif members := node.get("anyOf") or node.get("allOf"):
            real = [member for member in members if member.get("type") != "null"]
            if len(real) != 1:
                raise TypeError(f"a union cannot be put into a structural schema: {node}")
            target = real[0]
        else:
            return node
        # What stands beside a reference is about this use of it, and wins.
        node = {**target, **siblings}


def _order(entry: tuple[str, Any]) -> tuple[int, str]:
    """Put what a reader looks for first."""
    first = ("description", "type", "format", "default", "enum", "required")
    last = ("items", "properties", "additionalProperties", "x-kubernetes-validations")
    key = entry[0]
    if key in first:
        return first.index(key), key
    return (len(first) + 1 + last.index(key), key) if key in last else (len(first), key)
