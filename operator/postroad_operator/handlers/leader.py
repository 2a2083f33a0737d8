"""One writer among the replicas, by a Lease (coordination.k8s.io/v1), with the rules of client-go's election."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from postroad_operator.publish import ApiError, KubernetesApi
from postroad_operator.resources.labels import MANAGED_BY

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Times:
    """Times of the election, in seconds, all from one: how long a holder may be silent."""

    duration: float = 12.0

    @property
    def retry(self) -> float:
        """Between attempts to take or to keep the Lease."""
        return self.duration / 6

    @property
    def deadline(self) -> float:
        """Without a renewal for this long the holder stops writing: sooner than anyone can take over."""
        return self.duration * 2 / 3

    @property
    def dead(self) -> float:
        """Without any sight of the Lease, which somebody should renew or take, the watch is dead."""
        return self.duration * 15 / 4


class Move(Enum):
    """What to do about the Lease now."""

    CREATE = auto()
    TAKE = auto()
    RENEW = auto()
    WAIT = auto()


@dataclass(frozen=True, slots=True)
class Sighting:
    """The Lease's version, and when (monotonic) this replica first saw it: clocks of others are not trusted."""

    version: str
    at: float


def decide(lease: Mapping[str, Any] | None, identity: str, sighting: Sighting | None, now: float) -> Move:
    """Return what a replica does. `now` is monotonic, as is the time in `sighting`."""
    if lease is None:
        return Move.CREATE
    spec = lease.get("spec") or {}
    holder = spec.get("holderIdentity")
    if holder == identity:
        return Move.RENEW
    if not holder:
        return Move.TAKE
    if sighting is None or sighting.version != lease["metadata"]["resourceVersion"]:
        return Move.WAIT
    return Move.TAKE if now - sighting.at > float(spec.get("leaseDurationSeconds") or Times().duration) else Move.WAIT


class Election:
    """Takes and keeps the Lease. ``changed`` is called whenever leadership comes or goes."""

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        name: str,
        identity: str,
        changed: Callable[[bool], None],
        times: Times,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._changed = changed
        self._times = times
        self._sighting: Sighting | None = None
        self._renewed = float("-inf")
        self._leading = False

    @property
    def leading(self) -> bool:
        """Whether this replica may write at this moment."""
        return self._leading and time.monotonic() - self._renewed < self._times.deadline

    async def run(self) -> None:
        """Try for ever; give the Lease back when cancelled."""
        try:
            while True:
                try:
                    self._set(await self._step())
                except ApiError as error:
                    if error.code != 409:
                        _log.warning("the Lease cannot be used: %s", error)
                    if time.monotonic() - self._renewed >= self._times.deadline:
                        self._set(False)
                await asyncio.sleep(self._times.retry)
        finally:
            if self._leading:
                with contextlib.suppress(ApiError, asyncio.CancelledError):
                    await asyncio.shield(self._release())

    async def _step(self) -> bool:
        lease = await self._api.get("Lease", self._namespace, self._name)
        now = time.monotonic()
        move = decide(lease, self._identity, self._sighting, now)
        if lease is not None and (
            self._sighting is None or self._sighting.version != lease["metadata"]["resourceVersion"]
        ):
            self._sighting = Sighting(lease["metadata"]["resourceVersion"], now)
        if move is Move.WAIT:
            return False
        if lease is None:
            await self._api.create(self._document({}, self._identity, 0))
        else:
            transitions = int((lease.get("spec") or {}).get("leaseTransitions") or 0)
            await self._api.replace(self._document(lease, self._identity, transitions + (move is Move.TAKE)))
        self._renewed = now
        return True

    async def _release(self) -> None:
        lease = await self._api.get("Lease", self._namespace, self._name)
        if lease is not None and (lease.get("spec") or {}).get("holderIdentity") == self._identity:
            transitions = int(lease["spec"].get("leaseTransitions") or 0)
            await self._api.replace(self._document(lease, "", transitions))

    def _document(self, lease: Mapping[str, Any], holder: str, transitions: int) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = lease.get("spec") or {}
        kept = holder and before.get("holderIdentity") == holder
        metadata = dict(lease.get("metadata") or {})
        metadata.pop("managedFields", None)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"labels": MANAGED_BY, **metadata, "name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": math.ceil(self._times.duration),
                "acquireTime": before.get("acquireTime", now) if kept else now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }

    def _set(self, leading: bool) -> None:
        if leading != self._leading:
            self._leading = leading
            _log.info("leader" if leading else "standby")
            self._changed(leading)
