"""Writing only what differs, and not a second time before the watch has shown the first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from postroad_operator.handlers.events import Recorder
from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.publish import ApiError, KubernetesApi, differs
from postroad_operator.resources import API_VERSION

_log = logging.getLogger(__name__)

#: Seconds for which our own write is believed in place of what the watch still shows.
_TRUST = 5.0


class NotLeadingError(Exception):
    """The Lease is not ours: nothing may be written."""


class Writer:
    """Applies documents and statuses; remembers what it has just written."""

    def __init__(
        self,
        api: KubernetesApi,
        metrics: OperatorMetrics,
        may_write: Callable[[], bool],
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder
        self._api = api
        self._metrics = metrics
        self._may_write = may_write
        self._written: dict[str, tuple[Any, Any, float]] = {}

    async def put(self, observed: Mapping[str, Any] | None, wanted: dict[str, Any]) -> bool:
        """Make the object what is wanted; return whether anything was written. Raises ApiError."""
        current = self.current(wanted["kind"], wanted["metadata"]["name"], observed)
        if not differs(current, wanted):
            return False
        answer = await self._apply(wanted, "", "object")
        if differs(answer, wanted):
            # Keys that somebody else added stay after an apply; they go when the object is replaced.
            answer = await self._api.replace({**wanted, "metadata": {**answer["metadata"], "managedFields": None}})
        self._written[_key(wanted["kind"], wanted["metadata"]["name"])] = (
            _version(observed),
            answer,
            time.monotonic(),
        )
        return True

    def current(self, kind: str, name: str, observed: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return the object as the API server has it, as far as is known."""
        answer: Mapping[str, Any] | None = self._now(_key(kind, name), _version(observed), observed)
        return answer

    async def put_status(
        self, source: str, uid: str, version: str, observed: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> bool:
        """Apply a status if it differs; return whether it was written. One that is gone is passed over."""
        if not self.needs_status(source, version, observed, wanted):
            return False
        kind, namespace, name = source.split("/")
        document = {
            "apiVersion": API_VERSION,
            "kind": kind,
            # With the uid, a status never lands on an object that was made anew under the same name.
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "status": dict(wanted),
        }
        try:
            await self._apply(document, "status", "status")
        except ApiError as error:
            if error.code in (404, 409):
                return False
            raise
        if self._recorder is not None:
            self._recorder.record(source, uid, self._now(source, version, observed), wanted)
        self._written[source] = (version, wanted, time.monotonic())
        return True

    def needs_status(self, source: str, version: str, observed: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
        """Tell whether a status has to be written."""
        return not same_status(self._now(source, version, observed), wanted)

    async def annotate(self, kind: str, namespace: str, name: str, uid: str, annotations: dict[str, str]) -> None:
        """Set annotations of an object that exists. Raises ApiError."""
        metadata = {"name": name, "namespace": namespace, "uid": uid, "annotations": annotations}
        await self._apply({"apiVersion": "v1", "kind": kind, "metadata": metadata}, "", "annotation")

    def forget(self, alive: set[str]) -> None:
        """Drop what is remembered of objects that no longer exist."""
        for key in [key for key in self._written if key not in alive and key.count("/") == 2]:
            del self._written[key]

    async def _apply(self, document: dict[str, Any], subresource: str, part: str) -> dict[str, Any]:
        if not self._may_write():
            raise NotLeadingError
        answer = await self._api.apply(document, subresource=subresource)
        self._metrics.writes.labels(document["kind"], part).inc()
        return answer

    def _now(self, key: str, version: Any, observed: Any) -> Any:
        """Return what the API server has, as far as is known: our own write while the watch shows what was before."""
        before, answer, at = self._written.get(key, (None, None, float("-inf")))
        return answer if before == version and time.monotonic() - at < _TRUST else observed


def same_status(observed: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Tell whether a status is as wanted; a field that the schema filled in with nothing counts as absent."""
    has = observed or {}
    return all(has.get(key) == value for key, value in wanted.items()) and not any(
        value for key, value in has.items() if key not in wanted
    )


def _key(kind: str, name: str) -> str:
    return f"{kind}/{name}"


def _version(observed: Mapping[str, Any] | None) -> str | None:
    return observed["metadata"].get("resourceVersion") if observed else None
