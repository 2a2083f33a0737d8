"""The one loop: wait, let a burst pass, look, compile, publish, ask the pods, write statuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from postroad_operator.compile import Reason, TierSettings, Verdict
from postroad_operator.handlers.ask import PodClient
from postroad_operator.handlers.audit import audit
from postroad_operator.handlers.cluster import Cluster, View
from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.handlers.refusals import Refusals, concerns_one
from postroad_operator.handlers.tiers import Compiler, Tier, belongs, generation_of
from postroad_operator.handlers.writer import NotLeadingError, Writer
from postroad_operator.publish import ApiError, KubernetesApi, Owner, config_map, object_name, secret
from postroad_operator.resources import labels
from postroad_operator.status import Pod, Serving, status_of

_log = logging.getLogger(__name__)


_FORBIDDEN = 403
#: Fields of a status that do not hang on the kind.
_COMMON = frozenset({"conditions", "observedGeneration"})


@dataclass(frozen=True, slots=True)
class Pace:
    """Times, in seconds."""

    quiet: float = 0.1
    """A burst of changes is over when nothing came for this long..."""
    longest: float = 1.0
    """...or when it has lasted this long."""
    first_look: float = 0.1
    """Between a publication and asking the pods; doubled each time until `idle`."""
    idle: float = 15.0
    """Between looks when nothing changes."""
    rolling: float = 30.0
    """How long after a publication a pod may be on its way."""
    audit: float = 300.0
    """Between lists that prove the indexes complete."""
    retry: float = 1.0
    """After an error; doubled each time until `idle`."""


@dataclass(slots=True)
class Reconciler:
    """Keeps every tier published and every status true, while this replica leads."""

    api: KubernetesApi
    cluster: Cluster
    compiler: Compiler
    writer: Writer
    pods: PodClient
    metrics: OperatorMetrics
    settings: TierSettings
    watch_namespace: str | None
    owner: Owner | None = None
    pace: Pace = field(default_factory=Pace)
    refusals: Refusals = field(default_factory=Refusals)
    _audited: float = float("-inf")
    _delay: float = 0.0

    async def run(self, leading: asyncio.Event) -> None:
        """Reconcile until `leading` is cleared."""
        self._audited = float("-inf")
        self._delay = self.pace.retry
        while leading.is_set():
            self.cluster.changed.clear()
            try:
                wait = await self.reconcile()
            except NotLeadingError:
                return
            except ApiError as error:
                _log.warning("%s; trying again", error)
                self.metrics.apply_errors.inc()
                self._audited = float("-inf") if error.code == 0 else self._audited
                wait = self._delay = min(self._delay * 2, self.pace.idle)
            else:
                self._delay = self.pace.retry
            await self._wait(wait)

    async def reconcile(self) -> float:
        """Put everything right once; return after how many seconds to look again. Raises ApiError."""
        if time.monotonic() - self._audited > self.pace.audit:
            try:
                if not await self._audit():
                    return self.pace.retry / 2
            except ApiError as error:
                view = self.cluster.view()
                for name in self.compiler.names(view):
                    await self._tell(name, view, error)
                raise
        view = self.cluster.view()
        errors: list[ApiError] = []
        waits = [self.pace.idle]
        for name in self.compiler.names(view):
            try:
                waits.append(await self._tier(name, view))
            except ApiError as error:
                errors.append(error)
                await self._tell(name, view, error)
        self.writer.forget(set(view.resources))
        self.compiler.issuers.forget(view.resources)
        waits.append(self.compiler.issuers.wait())
        waits.append(self.refusals.wait(view.resources.keys(), time.monotonic()))
        if errors:
            raise errors[0]
        return min(waits)

    async def _tier(self, name: str, view: View) -> float:
        tier = await self.compiler.compile(name, view)
        pods = _pods(name, view)
        if self._loses(tier, view):
            return 0.0 if await self._audit() else self.pace.retry / 2
        await self._publish(tier, view)
        await self._nudge(tier, pods)
        serving = await self._ask(tier, pods)
        await self._write_statuses(tier.compilation.verdicts, tier.fields, serving, view)
        if serving.complete:
            await self._prune(tier, view)
            return max(0.0, tier.look_again - time.time())
        if not pods:
            return self.pace.idle
        # Sooner after a publication, later when a pod has been behind for long.
        return min(self.pace.idle, max(self.pace.first_look, (time.monotonic() - tier.published_at) / 4))

    async def _audit(self) -> bool:
        complete = await audit(self.api, self.cluster, self.watch_namespace)
        self.metrics.watch_complete.set(complete)
        if complete:
            self._audited = time.monotonic()
        return complete

    def _loses(self, tier: Tier, view: View) -> bool:
        """Tell whether publishing would leave something out, and the indexes have not just been proved complete."""
        before = (view.own.get(("ConfigMap", object_name(tier.name))) or {}).get("metadata", {})
        served = (before.get("annotations") or {}).get(labels.RESOURCES, "0")
        now = len(tier.compilation.config.generations)
        recently = time.monotonic() - self._audited < self.pace.longest
        return served.isdecimal() and int(served) > now and not recently

    async def _publish(self, tier: Tier, view: View) -> None:
        namespace, name = self.settings.namespace, object_name(tier.name)
        before = self.writer.current("Secret", name, view.own.get(("Secret", name)))
        # Files come before the configuration that names them, and go after every pod has left the one before.
        files = secret(tier.compilation, namespace, self.owner, also=(before or {}).get("data"))
        wrote = await self.writer.put(view.own.get(("Secret", name)), files)
        document = config_map(tier.compilation, namespace, self.owner)
        wrote |= await self.writer.put(view.own.get(("ConfigMap", name)), document)
        if wrote or tier.published_at == float("-inf"):
            tier.published_at = time.monotonic()

    async def _prune(self, tier: Tier, view: View) -> None:
        name = object_name(tier.name)
        await self.writer.put(
            view.own.get(("Secret", name)), secret(tier.compilation, self.settings.namespace, self.owner)
        )

    async def _nudge(self, tier: Tier, pods: Iterable[Pod]) -> None:
        """Change each pod's annotation, so that its kubelet looks at the mounted volumes at once."""
        for pod in pods:
            if pod.config_hash != tier.hash:
                try:
                    await self.writer.annotate(
                        "Pod", pod.namespace, pod.name, pod.uid, {labels.CONFIG_HASH: tier.hash}
                    )
                except ApiError as error:
                    # A pod that is going is no reason to hold up the others; the kubelet looks every minute anyway.
                    _log.info("%s", error)
                    self.metrics.apply_errors.inc()

    async def _ask(self, tier: Tier, pods: Iterable[Pod]) -> Serving:
        ready = [pod for pod in pods if pod.ready]
        serving = Serving(
            tier.hash,
            await self.pods.ask(ready),
            rolling=time.monotonic() - tier.published_at < self.pace.rolling,
            not_ready=sum(not pod.ready for pod in pods),
        )
        current = sum(answer.hash == tier.hash for answer in serving.answers)
        self.metrics.pods.labels(tier.name, "true").set(current)
        self.metrics.pods.labels(tier.name, "false").set(len(serving.answers) - current)
        return serving

    async def _tell(self, name: str, view: View, error: ApiError) -> None:
        """Say in the statuses that the API server forbids what has to be done, and what waits for it."""
        if error.code != _FORBIDDEN:
            return
        why = f"the API server does not let the operator do it ({error}): give it its rights back"
        tier = self.compiler.known.get(name)
        known = {verdict.source: verdict for verdict in tier.compilation.verdicts} if tier else {}
        fields = dict(tier.fields) if tier else {}
        verdicts = []
        for source, watched in view.resources.items():
            if watched.parsed is None or not belongs(watched.parsed, name):
                continue
            generation, verdict = generation_of(watched.parsed), known.get(source)
            if verdict is not None and verdict.generation == generation:
                verdicts.append(verdict)
            elif watched.status.get("observedGeneration") != generation or verdict is not None:
                verdicts.append(Verdict(source, False, Reason.BLOCKED, why, (), generation))
                fields[source] = {key: watched.status[key] for key in watched.status.keys() - _COMMON}
        serving = replace(await self._ask(tier, _pods(name, view)), blocked=why) if tier else Serving("", blocked=why)
        with contextlib.suppress(ApiError):
            await self._write_statuses(verdicts, fields, serving, view)

    async def _write_statuses(
        self,
        verdicts: Iterable[Verdict],
        fields: Mapping[str, Mapping[str, Any]],
        serving: Serving,
        view: View,
    ) -> None:
        now = time.time()
        limit = asyncio.Semaphore(16)
        errors: list[ApiError | NotLeadingError] = []

        async def write(source: str, wanted: dict[str, object]) -> None:
            watched = view.resources[source]
            async with limit:
                try:
                    await self.writer.put_status(
                        source, watched.identity.uid, watched.version, watched.status, wanted
                    )
                except NotLeadingError as error:
                    errors.append(error)
                except ApiError as error:
                    if concerns_one(error):
                        self._refuse(source, watched.version, error)
                    else:
                        errors.append(error)
                else:
                    self.refusals.forget(source)

        async with asyncio.TaskGroup() as group:
            for verdict in verdicts:
                watched = view.resources.get(verdict.source)
                if watched is None:
                    continue
                shown = serving.shown(fields.get(verdict.source, {}))
                wanted = status_of(verdict, serving, shown, watched.status, now)
                self._measure(verdict.source, verdict.generation, wanted)
                if not self.writer.needs_status(verdict.source, watched.version, watched.status, wanted):
                    self.refusals.forget(verdict.source)
                elif self.refusals.due(verdict.source, watched.version, time.monotonic()):
                    group.create_task(write(verdict.source, wanted))
        if errors:
            raise errors[0]

    def _refuse(self, source: str, version: str, error: ApiError) -> None:
        self.metrics.apply_errors.inc()
        if self.refusals.note(source, version, time.monotonic()):
            _log.warning("%s; the others go on", error)

    def _measure(self, source: str, generation: int, status: dict[str, object]) -> None:
        conditions = status["conditions"]
        assert isinstance(conditions, list)  # noqa: S101 (for the type checker: status_of makes a list)
        if any(item["type"] == "Programmed" and item["status"] == "True" for item in conditions):
            seen = self.cluster.seen.pop((source, generation), None)
            if seen is not None:
                self.metrics.programmed_seconds.observe(time.monotonic() - seen)

    async def _wait(self, seconds: float) -> None:
        """Wait for a change, or for `seconds`; then until the burst is over."""
        try:
            async with asyncio.timeout(seconds):
                await self.cluster.changed.wait()
        except TimeoutError:
            return
        end = time.monotonic() + self.pace.longest
        while (left := end - time.monotonic()) > 0:
            self.cluster.changed.clear()
            try:
                async with asyncio.timeout(min(self.pace.quiet, left)):
                    await self.cluster.changed.wait()
            except TimeoutError:
                return


def _pods(tier: str, view: View) -> list[Pod]:
    return [pod for pod in view.pods if pod.tier == tier]
