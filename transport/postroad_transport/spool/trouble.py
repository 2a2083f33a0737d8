"""Telling of a writer's failures: counted each time, in the log when they begin, change and end."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from postroad_transport.spool.store import SpoolError, SpoolFullError
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics


class Trouble:
    """The failures of one writer; ``path`` is what it writes."""

    def __init__(self, path: Path, *, metrics: Metrics, events: EventLog | None) -> None:
        self._path = str(path)
        self._metrics = metrics
        self._events = events
        self._reason = ""

    def record(self, failures: Collection[SpoolError]) -> None:
        """Note how writing ended; no failures: all is well again."""
        if failures:
            full = any(isinstance(failure, SpoolFullError) for failure in failures)
            self.fail("full" if full else "error", next(iter(failures)))
        elif self._reason:
            self._reason = ""
            if self._events is not None:
                self._events.emit("spool.recovered", path=self._path)

    def fail(self, reason: str, error: SpoolError) -> None:
        """Note a failure: ``full``, ``error`` or ``stalled``."""
        self._metrics.spool_failures.labels(reason).inc()
        if self._reason != reason and self._events is not None:
            self._events.emit("spool.failing", path=self._path, reason=reason, error=str(error))
        self._reason = reason
