"""The CustomResourceDefinitions on a cluster: brought to what this version of Postroad has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from postroad_operator.publish.api import ApiError, KubernetesApi

_KIND = "CustomResourceDefinition"
#: Seconds between looks at a definition that is not established yet.
_LOOK = 0.2
#: Tries when somebody else changes a definition at the same moment.
_TRIES = 5


def replacement(existing: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Return the existing definition with the wanted spec, None where that changes nothing.

    The API server adds defaults to a spec, so they are compared by what is wanted. Labels and annotations stay, save
    for those that `wanted` has. A replacement, unlike an apply, also takes away fields that are wanted no more.
    """
    metadata = {**existing["metadata"]}
    for part in ("labels", "annotations"):
        if merged := {**(metadata.get(part) or {}), **(wanted["metadata"].get(part) or {})}:
            metadata[part] = merged
    kept = {name: existing["spec"][name] for name in ("conversion",) if name in existing["spec"]}
    spec = {**kept, **wanted["spec"]}
    if _says(existing["spec"], spec) and metadata == existing["metadata"]:
        return None
    return {**existing, "metadata": metadata, "spec": spec}


async def install_definitions(
    api: KubernetesApi, wanted: Iterable[dict[str, Any]], *, patience: float = 60.0
) -> dict[str, str]:
    """Create or replace each definition, then wait until all are served.

    Returns
    -------
    What was done, by name: ``created``, ``updated`` or ``unchanged``.

    Raises
    ------
    ApiError
        A request was refused, or a definition was not established within `patience` seconds (code 0).
    """
    documents = list(wanted)
    done = {document["metadata"]["name"]: await _install(api, document) for document in documents}
    deadline = time.monotonic() + patience
    for name in done:
        while not _established(await api.get(_KIND, None, name)):
            if time.monotonic() > deadline:
                raise ApiError(0, f"{name} is not established after {patience:g} s")
            await asyncio.sleep(_LOOK)
    return done


async def _install(api: KubernetesApi, wanted: dict[str, Any]) -> str:
    for last in (*[False] * (_TRIES - 1), True):
        existing = await api.get(_KIND, None, wanted["metadata"]["name"])
        try:
            if existing is None:
                await api.create(wanted)
                return "created"
            changed = replacement(existing, wanted)
            if changed is None:
                return "unchanged"
            await api.replace(changed)
            return "updated"
        except ApiError as error:
            if error.code != 409 or last:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


def _established(document: dict[str, Any] | None) -> bool:
    conditions = ((document or {}).get("status") or {}).get("conditions") or ()
    return any(item.get("type") == "Established" and item.get("status") == "True" for item in conditions)


def _says(existing: Any, wanted: Any) -> bool:
    """Tell whether `existing` is `wanted`, with no more than defaults at its top."""
    return isinstance(existing, dict) and all(existing.get(name) == value for name, value in wanted.items())
