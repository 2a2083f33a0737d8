"""What is wrong with a document, in words that name the field and the fix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]


_NOT_FIELDS = frozenset({"constrained-int", "constrained-str", "int", "str", "[key]"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one document. ``path`` leads to the field from the document's root."""

    path: Path
    message: str

    @property
    def field(self) -> str:
        """Return the path as it is written: ``spec.bindings[0].port``."""
        return field_text(self.path)

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.path else self.message


def field_text(path: Iterable[str | int]) -> str:
    """Write a path with dots and brackets: ``spec.bindings[0].port``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def of(error: ValidationError, model: type[BaseModel]) -> tuple[Problem, ...]:
    """Translate a validation error of `model` into problems, the same for the same input."""
    problems = dict.fromkeys(problem for detail in error.errors() for problem in _translate(detail, model))
    return tuple(problems)


def _translate(detail: ErrorDetails, model: type[BaseModel]) -> Iterable[Problem]:
    path = _document_path(detail["loc"])
    kind = detail["type"]
    context: dict[str, Any] = detail.get("ctx", {})
    if kind == "rules":
        for field, message in context["broken"]:
            yield Problem((*path, field) if field else path, message)
    elif kind == "extra_forbidden":
        known = sorted(_known_fields(path[:-1], model))
        close = get_close_matches(str(path[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known fields: {', '.join(known)}" if known else "remove it"
        yield Problem(path, f"unknown field: {hint}")
    elif kind == "missing":
        yield Problem(path, "this field is required: add it")
    elif kind in {"literal_error", "enum"}:
        text = f"must be one of {context['expected']}".replace(" or ", ", ")
        yield Problem(path, text + _yaml_boolean_hint(detail["input"], context["expected"]))
    elif kind == "string_type":
        yield Problem(path, "must be a string: put the value in quotes")
    elif kind == "string_pattern_mismatch":
        yield Problem(path, f"does not match {context['pattern']}")
    else:
        message = detail["msg"]
        yield Problem(path, message[:1].lower() + message[1:])


def _yaml_boolean_hint(value: object, expected: str) -> str:
    word = "Off" if value is False else "On"
    if isinstance(value, bool) and f"'{word}'" in expected:
        return f' (YAML reads a bare {word} as {str(value).lower()}: write "{word}" in quotes)'
    return ""


def _document_path(location: Sequence[str | int]) -> Path:
    """Drop the steps that name union members (``int``, ``str``) rather than fields."""
    return tuple(step for step in location if step not in _NOT_FIELDS and not str(step).startswith("function-"))


def _known_fields(path: Path, model: type[BaseModel]) -> set[str]:
    """Return the field names of the model that `path` leads to."""
    current: type[BaseModel] | None = model
    for step in path:
        if isinstance(step, int):
            continue
        current = next(
            (
                _model_in(field.annotation)
                for name, field in (current.model_fields if current else {}).items()
                if step in (field.alias, name)
            ),
            None,
        )
    return {field.alias or name for name, field in current.model_fields.items()} if current else set()


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if found := _model_in(argument):
            return found
    return None
