"""Statuses that the API server refuses, one by one: what is wrong with one object holds up nothing else.

It cannot write the status of an object that an older CRD let in, say. Such a status is tried again, ever more rarely.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from postroad_operator.publish import ApiError

#: Seconds until a refused status is tried again; doubled each time until `_LONGEST`.
_FIRST = 1.0
_LONGEST = 300.0
#: Between two looks, whatever is due.
_SHORTEST = 0.1
#: No answer, credentials, rights, too many requests: these are nothing of one object's.
_EVERYBODYS = frozenset({0, 401, 403, 429})


def concerns_one(error: ApiError) -> bool:
    """Tell whether others may fare better than the object of this request."""
    return error.code not in _EVERYBODYS


class Refusals:
    """What was refused, by source and version: a changed object is tried at once. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._refused: dict[str, tuple[str, float, float]] = {}

    def due(self, source: str, version: str, now: float) -> bool:
        """Tell whether to try."""
        refused, at, _ = self._refused.get(source, ("", 0.0, 0.0))
        return refused != version or now >= at

    def note(self, source: str, version: str, now: float) -> bool:
        """Remember a refusal; return whether it is the first of this version."""
        refused, _, delay = self._refused.get(source, ("", 0.0, 0.0))
        delay = min(delay * 2, _LONGEST) if refused == version else _FIRST
        self._refused[source] = version, now + delay, delay
        return refused != version

    def forget(self, source: str) -> None:
        """It has been written, or is gone."""
        self._refused.pop(source, None)

    def wait(self, alive: AbstractSet[str], now: float) -> float:
        """Return after how many seconds the next one is due; drop those that are not `alive` any more."""
        for source in self._refused.keys() - alive:
            self.forget(source)
        return max(_SHORTEST, min((at - now for _, at, _ in self._refused.values()), default=_LONGEST))
