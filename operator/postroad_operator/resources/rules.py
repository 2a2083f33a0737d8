"""Rules that one object can check about itself, each stated once: in CEL for the API server, in Python for us.

A rule hangs either on a model (``RULES`` of :class:`postroad_operator.resources.base.Model`) or on a scalar
type (:class:`Checked`). The schema generator turns both into ``x-kubernetes-validations``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must hold.

    ``cel`` is empty where CEL cannot say it (then only we check); ``holds`` is None where only the API server
    can know (transition rules). ``field`` is the field to blame, relative to the object, as in the manifest.
    """

    message: str
    cel: str = ""
    holds: Callable[[Any], bool] | None = None
    field: str = ""

    def schema(self) -> dict[str, str]:
        """Return the rule as an entry of ``x-kubernetes-validations``."""
        entry = {"rule": self.cel, "message": self.message}
        return entry | {"fieldPath": f".{self.field}"} if self.field else entry


def schema_of(rules: tuple[Rule, ...]) -> list[dict[str, str]]:
    """Return what the API server is to check."""
    return [rule.schema() for rule in rules if rule.cel]


def check(rules: tuple[Rule, ...], value: object) -> None:
    """Raise one error that lists every broken rule; ``resources.problems`` takes it apart again."""
    broken = [rule for rule in rules if rule.holds is not None and not rule.holds(value)]
    if broken:
        raise PydanticCustomError(
            "rules",
            "{text}",
            {
                "text": "; ".join(rule.message for rule in broken),
                "broken": [(rule.field, rule.message) for rule in broken],
            },
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """Annotation of a scalar type: its rules, and what to add to its schema."""

    rules: tuple[Rule, ...]
    extra: tuple[tuple[str, Any], ...] = ()

    def _validate(self, value: object) -> object:
        check(self.rules, value)
        return value

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._validate, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        node = handler(schema) | dict(self.extra)
        if rules := schema_of(self.rules):
            node["x-kubernetes-validations"] = rules
        return node


def matching(pattern: str, message: str, also: Callable[[str], bool] = lambda _: True) -> Checked:
    """Return the annotation of a string that matches `pattern` as a whole; the API server checks that, too.

    Parameters
    ----------
    pattern
        Anchored, and with the same meaning in ECMAScript, Go and Python.
    also
        What only we can check besides.
    """
    whole = re.compile(pattern)
    rule = Rule(message, holds=lambda value: whole.fullmatch(value) is not None and also(value))
    return Checked((rule,), (("pattern", pattern),))
