"""A resource's whole status, to be compared with the one it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postroad_operator.compile import Verdict
from postroad_operator.status.conditions import conditions
from postroad_operator.status.pods import Serving


def status_of(
    verdict: Verdict,
    serving: Serving,
    fields: Mapping[str, Any],
    observed: Mapping[str, Any] | None,
    now: float,
) -> dict[str, Any]:
    """Return the status that a resource should have; equal to `observed` when nothing has changed."""
    previous = (observed or {}).get("conditions")
    return {
        "observedGeneration": verdict.generation,
        "conditions": conditions(verdict, serving, previous if isinstance(previous, list) else (), now),
        **fields,
    }
