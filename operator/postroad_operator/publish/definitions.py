"""The CustomResourceDefinitions on a cluster: brought to what this version of Postroad has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from postroad_operator.publish.api import ApiError, KubernetesApi

_KIND = "CustomResourceDefinition"
#: Helm installs the definitions, and applies them again when a release is installed anew. Under any other name than
#: its own that would from now on conflict with what is applied here.
_MANAGER = "helm"
#: Seconds between looks at a definition that is not established yet.
_LOOK = 0.2


async def install_definitions(
    api: KubernetesApi, wanted: Iterable[dict[str, Any]], *, patience: float = 60.0
) -> dict[str, str]:
    """Apply each definition, then wait until all are served.

    Returns
    -------
    What was done, by name: ``created``, ``updated`` or ``unchanged``.

    Raises
    ------
    ApiError
        A request was refused, or a definition was not established within `patience` seconds (code 0).
    """
    done = {document["metadata"]["name"]: await _install(api, document) for document in wanted}
    deadline = time.monotonic() + patience
    for name in done:
        while not _established(await api.get(_KIND, None, name)):
            if time.monotonic() > deadline:
                raise ApiError(0, f"{name} is not established after {patience:g} s")
            await asyncio.sleep(_LOOK)
    return done


async def _install(api: KubernetesApi, wanted: dict[str, Any]) -> str:
    before = await api.get(_KIND, None, wanted["metadata"]["name"])
    after = await api.apply(wanted, manager=_MANAGER)
    if before is None:
        return "created"
    # The API server counts a change of the spec as a new generation.
    return "unchanged" if before["metadata"]["generation"] == after["metadata"]["generation"] else "updated"


def _established(document: dict[str, Any] | None) -> bool:
    conditions = ((document or {}).get("status") or {}).get("conditions") or ()
    return any(item.get("type") == "Established" and item.get("status") == "True" for item in conditions)
