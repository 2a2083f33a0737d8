"""Manifests on disk: files and directories of YAML, each document with the place it came from.

Nothing in here raises for bad content: each fault becomes a :class:`Fault` that names file, line, document,
field and fix, and the other documents are read all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from postroad_operator.resources.base import Resource
from postroad_operator.resources.parse import Ignored, Invalid, parse
from postroad_operator.resources.problems import Problem

SUFFIXES = frozenset({".yaml", ".yml"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a document stands. ``document`` counts from 1 within the file, ``line`` is its first line."""

    file: str
    document: int
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem and its place; ``line`` is that of the field, where it is known."""

    origin: Origin
    line: int
    source: str
    problem: Problem

    def __str__(self) -> str:
        return f"{self.origin.file}:{self.line}: document {self.origin.document}: {self.source}: {self.problem}"


@dataclass(slots=True)
class Manifests:
    """What was read. ``origins`` tells where each source stands."""

    objects: list[Resource | Invalid] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the base is chosen at run time
    """YAML as kubectl reads it: JSON's types only, so a timestamp stays text; a key given twice is an error."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge", ":value"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is given twice", key.start_mark
                )
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return {key if isinstance(key, str) else str(key): value for key, value in mapping.items()}


def files(path: Path) -> list[Path]:
    """Return the manifest files of a file or directory, sorted, without hidden ones.

    Raises
    ------
    OSError
        The path does not exist or cannot be read.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(2, "no such file or directory", str(path))
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def read(path: Path) -> Manifests:
    """Read a manifest file or all of a directory.

    Raises
    ------
    OSError
        The path does not exist or cannot be listed. A single unreadable file is a fault, not an error.
    """
    manifests = Manifests()
    for file in files(path):
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            manifests.faults.append(
                Fault(Origin(str(file), 1, 1), 1, "file", Problem((), f"cannot be read: {reason}"))
            )
        else:
            read_text(text, str(file), manifests)
    return manifests


def read_text(text: str, file: str, manifests: Manifests) -> None:
    """Add the documents of one YAML text to `manifests`."""
    for number, node, value, problem in _documents(text):
        line = 1 if node is None else node.start_mark.line + 1
        origin = Origin(file, number, line)
        if problem is not None:
            manifests.faults.append(Fault(origin, problem[0], "YAML", Problem((), problem[1])))
        elif isinstance(value, dict) and value.get("apiVersion") == "v1" and str(value.get("kind")).endswith("List"):
            items = value.get("items")
            for index, item in enumerate(items if isinstance(items, list) else []):
                item_node = _descend(node, ("items", index))
                place = Origin(file, number, line if item_node is None else item_node.start_mark.line + 1)
                _add(manifests, place, item_node, item)
        elif value is not None:
            _add(manifests, origin, node, value)


def _add(manifests: Manifests, origin: Origin, node: yaml.Node | None, value: object) -> None:
    parsed = parse(value)
    if isinstance(parsed, Ignored):
        manifests.notes.append(f"{origin}: {parsed.description} is not ours, ignored")
        return
    first = manifests.origins.get(parsed.source)
    if first is not None and not parsed.source.endswith("?"):
        twice = Problem(("metadata", "name"), f"defined twice, first at {first}: rename or remove one")
        manifests.faults.append(Fault(origin, _line(node, twice.path, origin.line), parsed.source, twice))
        return
    manifests.origins[parsed.source] = origin
    if isinstance(parsed, Invalid):
        manifests.faults.extend(
            Fault(origin, _line(node, problem.path, origin.line), parsed.source, problem)
            for problem in parsed.problems
        )
    manifests.objects.append(parsed)


def _documents(text: str) -> Iterator[tuple[int, yaml.Node | None, object, tuple[int, str] | None]]:
    """Yield (number, node, value, None) for each document, or (number, node, None, (line, message)) for a fault."""
    number = 1
    node: yaml.Node | None = None
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        yield 1, None, None, _explain(error)
        return
    try:
        while True:
            node = None
            if not loader.check_node():
                return
            node = loader.get_node()
            try:
                value = loader.construct_document(node)
            except (yaml.constructor.ConstructorError, ValueError, TypeError, OverflowError) as error:
                yield number, node, None, _explain(error)
            else:
                yield number, node, value, None
            number += 1
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # The rest of a file with broken syntax cannot be told apart into documents.
        yield number, node, None, _explain(error)
    finally:
        loader.dispose()


def _explain(error: Exception) -> tuple[int, str]:
    if isinstance(error, RecursionError):
        return 1, "nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return (mark.line + 1 if mark else 1), f"{error.problem or error.context}: fix the syntax"
    return 1, "not YAML: " + (str(error).splitlines() or ["unreadable"])[0]


def _descend(node: yaml.Node | None, path: tuple[str | int, ...]) -> yaml.Node | None:
    for step in path:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
        else:
            return None
    return node


def _line(node: yaml.Node | None, path: tuple[str | int, ...], default: int) -> int:
    """Return the line of a field, or of the nearest thing above it that exists."""
    for length in range(len(path), 0, -1):
        if found := _descend(node, path[:length]):
            return int(found.start_mark.line) + 1
    return default
