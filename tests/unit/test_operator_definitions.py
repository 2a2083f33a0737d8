"""Bringing CRDs to a cluster: what is said of each, and what happens when one is not served."""

from __future__ import annotations

from typing import Any

import pytest

from postroad_operator.publish import ApiError
from postroad_operator.publish.definitions import install_definitions


class Api:
    """Definitions by name; one that is applied is established unless its name is in ``stuck``."""

    def __init__(self, **existing: str) -> None:
        self.found = {name: self._document(name, spec, 1) for name, spec in existing.items()}
        self.stuck: set[str] = set()
        self.managers: set[str] = set()

    @staticmethod
    def _document(name: str, spec: str, generation: int) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "generation": generation},
            "spec": spec,
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        }

    async def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        assert (kind, namespace) == ("CustomResourceDefinition", None)
        return self.found.get(name)

    async def apply(self, document: dict[str, Any], *, manager: str) -> dict[str, Any]:
        name = document["metadata"]["name"]
        self.managers.add(manager)
        before = self.found.get(name)
        generation = 1 if before is None else before["metadata"]["generation"] + (before["spec"] != document["spec"])
        self.found[name] = self._document(name, document["spec"], generation)
        if name in self.stuck:
            self.found[name]["status"] = {}
        return self.found[name]


def wanted(**specs: str) -> list[dict[str, Any]]:
    return [{"metadata": {"name": name}, "spec": spec} for name, spec in specs.items()]


async def test_each_definition_is_created_updated_or_left_as_it_is() -> None:
    api = Api(a="old", b="same")
    done = await install_definitions(api, wanted(a="new", b="same", c="more"))
    assert done == {"a": "updated", "b": "unchanged", "c": "created"}
    # As helm itself would, so that its next apply meets no conflict.
    assert api.managers == {"helm"}


async def test_a_definition_that_is_not_served_in_time_is_an_error() -> None:
    api = Api()
    api.stuck.add("a")
    with pytest.raises(ApiError, match="a is not established"):
        await install_definitions(api, wanted(a="new"), patience=0)
