"""The supervisor: N workers over one configuration directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import Metric

from postroad_transport.auth.ban_store import Ban, BanStore, open_bans
from postroad_transport.config import TierConfig
from postroad_transport.config.files import ConfigError, copy, load
from postroad_transport.policy.bans import account_subject, address_subject
from postroad_transport.supervisor.child import Child, WorkerUnreachableError
from postroad_transport.supervisor.ports import bound_ports, require_free
from postroad_transport.telemetry.aggregate import Family, add, exposed, only_growing, snapshot
from postroad_transport.telemetry.events import EventLog
from postroad_transport.worker.settings import WorkerSettings

#: Where in the state directory the configuration lies that is being served.
SERVED_DIRECTORY = "served"
#: Seconds before a worker that ended is started again: the first restart is at once, a crash loop is slow.
RESTART_DELAYS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
#: Seconds that a reload waits for a worker that is being started.
RESTART_PATIENCE = 15.0
#: Seconds of service after which a worker counts as healthy again.
HEALTHY_AFTER = 30.0


class SupervisorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one pod, or one `postroad run`, is told."""

    config_dir: Path
    state_dir: Path
    run_dir: Path
    """Where the Unix sockets are made; a short path (at most 80 characters)."""
    addresses: tuple[str, ...]
    workers: int = 2
    drain_timeout: float = 25.0


class ReloadRefusedError(Exception):
    """The new configuration cannot be served; the old one still is. The message says why."""


def shards(spool: Path, workers: int) -> list[tuple[Path, tuple[Path, ...]]]:
    """Give each worker its own shard, and share out those of a former, higher number of workers."""
    own = [spool / f"worker-{index}.sqlite" for index in range(workers)]
    orphans = sorted(path for path in spool.glob("worker-*.sqlite") if path not in own)
    return [(path, tuple(orphans[index::workers])) for index, path in enumerate(own)]


class Supervisor:
    """Starts, restarts, reloads and drains the workers, and adds up what they tell."""

    def __init__(self, settings: SupervisorSettings, *, log: int, events: EventLog) -> None:
        self.settings = settings
        self.config: TierConfig | None = None
        self.config_hash = ""
        self.last_error = ""
        self._log = log
        self._events = events
        self._children: dict[int, Child] = {}
        self._ended: list[Family] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False
        self._reload_lock = asyncio.Lock()
        self.registry = CollectorRegistry()
        self._up = Gauge("postroad_worker_up", "1 while a worker serves.", ["worker"], registry=self.registry)
        self._restarts = Counter(
            "postroad_worker_restarts",
            "Workers that ended unasked and were started again.",
            ["worker"],
            registry=self.registry,
        )
        self._reload_success = Gauge(
            "postroad_config_last_reload_success",
            "1 when the newest configuration is served by every worker, 0 when it was refused.",
            registry=self.registry,
        )
        self._bans: BanStore | None = None
        self._bans_active = Gauge(
            "postroad_bans_active",
            "Bans that stand; kind is address or account.",
            ["connector", "kind"],
            registry=self.registry,
        )

    @property
    def served_dir(self) -> Path:
        """The last good configuration, kept where a restarted worker finds it when a bad one came meanwhile."""
        return self.settings.state_dir / SERVED_DIRECTORY

    @property
    def children(self) -> list[Child]:
        """The workers that run now, by index."""
        return [self._children[index] for index in sorted(self._children)]

    async def start(self) -> None:
        """Start every worker and wait until all serve.

        Raises
        ------
        ConfigError
            There is nothing to serve.
        OSError
            A port is taken.
        WorkerUnreachableError
            A worker ended before it served (its reason is in the log and on standard error).
        """
        self.config, self.config_hash = load(self.settings.config_dir)
        await require_free(self.settings.addresses, bound_ports(self.config))
        copy(self.settings.config_dir, self.served_dir)
        self._bans = await asyncio.to_thread(open_bans, self.settings.state_dir, self._events, repair=True)
        spool = self.settings.state_dir / "spool"
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for index, (shard, adopt) in enumerate(shards(spool, self.settings.workers)):
            worker = WorkerSettings(
                index=index,
                addresses=self.settings.addresses,
                config_dir=self.settings.config_dir,
                served_dir=self.served_dir,
                state_dir=self.settings.state_dir,
                control=self.settings.run_dir / f"worker-{index}.sock",
                shard=shard,
                adopt=adopt,
                drain_timeout=self.settings.drain_timeout,
            )
            self._children[index] = await Child.start(worker, log=self._log)
        try:
            await asyncio.gather(*(child.wait_ready() for child in self.children))
        except WorkerUnreachableError:
            await self.stop()
            raise
        for index in self._children:
            self._up.labels(str(index)).set(1)
            self._keepers.append(asyncio.create_task(self._keep(index)))
        self._reload_success.set(1)

    async def _keep(self, index: int) -> None:
        """Start worker `index` again whenever it ends unasked."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            child = self._children[index]
            since = loop.time()
            status = await child.process.wait()
            if self._stopping:
                return
            self._up.labels(str(index)).set(0)
            self._restarts.labels(str(index)).inc()
            last, child.last_metrics = child.last_metrics, []
            self._ended = add([self._ended, only_growing(last)])
            failures = 0 if loop.time() - since > HEALTHY_AFTER else failures + 1
            delay = RESTART_DELAYS[min(failures, len(RESTART_DELAYS) - 1)]
            self._events.emit("worker.ended", worker=index, status=status, restart_in=delay)
            self._events.flush()
            await child.close()
            await asyncio.sleep(delay)
            self._children[index] = await Child.start(child.settings, log=self._log)
            with contextlib.suppress(WorkerUnreachableError):
                await self._children[index].wait_ready()
                self._up.labels(str(index)).set(1)

    async def reload(self) -> str:
        """Serve what now lies in the configuration directory; return its hash.

        A worker that fails to switch is named in :attr:`last_error`; it serves what it served.

        One worker tries the new configuration first without serving it; only if that works do all of them
        switch, so that a bad configuration never splits the tier.

        Raises
        ------
        ReloadRefusedError
            It cannot be served; nothing has changed.
        """
        async with self._reload_lock:
            try:
                config, digest = load(self.settings.config_dir)
                added = bound_ports(config) - (bound_ports(self.config) if self.config else set())
                await require_free(self.settings.addresses, added, patience=0.0)
                await self._reload_child(await self._ready_child(), "trial")
                copy(self.settings.config_dir, self.served_dir)
            except (ConfigError, WorkerUnreachableError, OSError) as error:
                self.refuse(str(error))
                raise ReloadRefusedError(self.last_error) from error
            results = await asyncio.gather(
                *(self._serve_child(child) for child in self.children), return_exceptions=True
            )
            failures = [str(result) for result in results if isinstance(result, BaseException)]
            self.config, self.config_hash, self.last_error = config, digest, "; ".join(failures)
            self._reload_success.set(not failures)
            self._events.emit("config.loaded", hash=digest, failures=failures or None)
            self._events.flush()
            return digest

    def refuse(self, reason: str) -> None:
        """Record that the newest configuration is not served; an empty reason takes that back."""
        self.last_error = reason
        self._reload_success.set(not reason)
        if reason:
            self._events.emit("config.refused", reason=reason)
            self._events.flush()

    async def _ready_child(self) -> Child:
        """Return a worker that serves; wait for one where all are being started again.

        Raises
        ------
        WorkerUnreachableError
            None serves after :data:`RESTART_PATIENCE`.
        """
        try:
            async with asyncio.timeout(RESTART_PATIENCE):
                while True:
                    for child in self.children:
                        if child.process.returncode is None:
                            with contextlib.suppress(WorkerUnreachableError):
                                await child.wait_ready()
                                return child
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise WorkerUnreachableError("no worker serves that could try the configuration") from None

    async def _serve_child(self, child: Child) -> None:
        """Have a worker switch. One that has ended is started again with what is served by then."""
        if child.process.returncode is not None:
            return
        async with asyncio.timeout(RESTART_PATIENCE):
            await child.wait_ready()
        await self._reload_child(child, "serve")

    @staticmethod
    async def _reload_child(child: Child, mode: str) -> None:
        answer = await child.call("POST", "/reload", mode=mode)
        if not answer["ok"]:
            raise ConfigError(answer["error"])

    async def collect(self) -> list[Metric]:
        """Return the tier's metrics."""
        await asyncio.gather(*(child.scrape() for child in self.children))
        self._bans_active.clear()
        for ban in await self.bans():
            self._bans_active.labels(ban.connector, ban.kind).inc()
        # Read in one go: a worker that ends meanwhile is either still a child or among the ended, never both.
        workers = [child.last_metrics for child in self.children]
        return exposed(add([snapshot(self.registry), self._ended, *workers]))

    async def bans(self) -> list[Ban]:
        """Return the bans that stand, the newest first."""
        if self._bans is None:
            return []
        return await asyncio.to_thread(self._bans.active, time.time())

    async def lift_bans(self, subject: str) -> int:
        """Lift the bans of an address, of its network or of an account (empty: all); return how many.

        Raises
        ------
        OSError
            The file of bans cannot be written.
        """
        if self._bans is None:
            return 0
        subjects = {subject, address_subject(subject), account_subject(subject)} if subject else set()
        lifted = await self._bans.lift(sorted(subjects), time.time())
        self._events.emit("auth.bans_lifted", subject=subject or None, lifted=lifted)
        self._events.flush()
        return lifted

    async def status(self) -> list[dict[str, Any]]:
        """Return each worker's own status; one that does not answer is ``{"index": n, "error": why}``."""

        async def ask(child: Child) -> dict[str, Any]:
            try:
                answer: dict[str, Any] = await child.call("GET", "/status")
            except (WorkerUnreachableError, LookupError) as error:
                return {"index": child.settings.index, "error": str(error)}
            return answer

        return list(await asyncio.gather(*(ask(child) for child in self.children)))

    async def stop(self) -> None:
        """Drain every worker, then end."""
        self._stopping = True
        for child in self.children:
            child.terminate()
        grace = self.settings.drain_timeout + 5
        waiting = [asyncio.create_task(child.process.wait()) for child in self.children]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=grace)
            if late:
                for child in self.children:
                    if child.process.returncode is None:
                        child.process.kill()
                await asyncio.wait(late)
        for keeper in self._keepers:
            keeper.cancel()
        for child in self.children:
            await child.close()
        if self._bans is not None:
            await asyncio.to_thread(self._bans.close)


#: Name of the control socket in the run directory.
CONTROL_SOCKET = "control.sock"


def short_run_dir(state_dir: Path) -> Path:
    """Return ``STATE/run`` where Unix socket names fit in it, else a private directory under the system's own."""
    candidate = state_dir.resolve() / "run"
    if len(str(candidate)) <= 80:
        return candidate
    return Path("/tmp") / f"postroad-{os.getpid()}"  # noqa: S108 (made with mode 0700 before use)
