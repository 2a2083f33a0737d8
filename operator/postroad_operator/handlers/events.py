"""Kubernetes Events for transitions: posted beside the loop, rarely enough to burden nobody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.publish import FIELD_MANAGER, ApiError, KubernetesApi
from postroad_operator.resources import API_VERSION, GROUP
from postroad_operator.status import Transition, transitions

_log = logging.getLogger(__name__)

_MAX_NAME = 200
_MAX_INSTANCE = 128
#: Events that wait to be posted.
_QUEUE = 1000


@dataclass(slots=True)
class Budget:
    """How many Events may be posted: `burst` at once, `rate` a second for ever. Times in seconds, monotonic."""

    rate: float = 5.0
    burst: float = 200.0
    _left: float = 0.0
    _at: float = float("-inf")

    def spend(self, warning: bool, now: float) -> bool:
        """Take one, if there is one; what is no warning leaves half to warnings."""
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < (1.0 if warning else 1.0 + self.burst / 2):
            return False
        self._left -= 1.0
        return True


class Recorder:
    """Posts an Event for each transition of a status that was written."""

    def __init__(self, api: KubernetesApi, metrics: OperatorMetrics, instance: str) -> None:
        self._api = api
        self._metrics = metrics
        self._instance = instance[:_MAX_INSTANCE]
        self._budget = Budget()
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_QUEUE)

    def record(self, source: str, uid: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> None:
        """Note what has happened to a resource whose status has just been written."""
        for transition in transitions(before, after):
            if self._queue.full() or not self._budget.spend(transition.warning, time.monotonic()):
                self._metrics.events.labels("dropped").inc()
                continue
            self._queue.put_nowait(event(transition, source, uid, self._instance, time.time_ns()))

    async def run(self) -> None:
        """Post for ever. An Event that cannot be posted is not tried again: the status says the same."""
        while True:
            document = await self._queue.get()
            try:
                await self._api.create(document)
            except ApiError as error:
                _log.info("%s", error)
                self._metrics.events.labels("failed").inc()
            else:
                self._metrics.events.labels("posted").inc()


def event(transition: Transition, source: str, uid: str, instance: str, now: int) -> dict[str, Any]:
    """Return the Event (events.k8s.io/v1) about a resource; `now` in nanoseconds since the epoch."""
    kind, namespace, name = source.split("/")
    moment = datetime.fromtimestamp(now // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{name[:_MAX_NAME]}.{now:x}", "namespace": namespace},
        "eventTime": f"{moment}.{now % 1_000_000_000 // 1000:06}Z",
        "type": "Warning" if transition.warning else "Normal",
        "reason": transition.reason,
        "action": transition.action,
        "note": transition.note,
        "regarding": {"apiVersion": API_VERSION, "kind": kind, "namespace": namespace, "name": name, "uid": uid},
        "reportingController": f"{GROUP}/{FIELD_MANAGER}",
        "reportingInstance": instance,
    }
