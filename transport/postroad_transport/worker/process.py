"""The worker: store, queue and listeners over one served configuration."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import web

from postroad_transport.auth.ban_store import open_bans
from postroad_transport.auth.sources import Sources
from postroad_transport.config.files import ConfigError, load
from postroad_transport.delivery.queue import DeliveryQueue
from postroad_transport.message import Content, Envelope
from postroad_transport.routing.table import RoutingTable
from postroad_transport.smtp.listener import Listeners
from postroad_transport.smtp.serving import Serving, prepare
from postroad_transport.spool.sqlite import SqliteStore
from postroad_transport.telemetry.aggregate import Family, snapshot
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics
from postroad_transport.tls.crl_store import CrlStore
from postroad_transport.tls.direct_trust import trust_contexts
from postroad_transport.tls.staple_store import StapleStore, subjects
from postroad_transport.tls.tickets import read_ticket_secret, share_tickets
from postroad_transport.worker.control import application
from postroad_transport.worker.hops import Resolvers, client_identities, hop_factory, read_credentials
from postroad_transport.worker.settings import WorkerSettings

#: Seconds that a worker takes to stop when its supervisor is gone: the next one wants its spool and ports.
ORPHAN_GRACE = 2.0
#: Seconds between two writes of the event log.
EVENT_FLUSH = 0.2

#: Allocations before each generation is looked at for cycles, of which mail on its way makes hardly any.
GC_THRESHOLDS = (20_000, 20, 20)


class Worker:
    """One worker. Make it with :meth:`start`; it serves until :meth:`drain`."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        store: SqliteStore,
        queue: DeliveryQueue,
        listeners: Listeners,
        metrics: Metrics,
        events: EventLog,
        resolvers: Resolvers,
        crls: CrlStore,
    ) -> None:
        self._settings = settings
        self._store = store
        self._queue = queue
        self._listeners = listeners
        self._metrics = metrics
        self._events = events
        self._resolvers = resolvers
        self._crls = crls
        self._staples = StapleStore(settings.state_dir / "ocsp", metrics=metrics, events=events)
        self._sources = Sources()
        self._bans = open_bans(settings.state_dir, events)
        self._hash = ""

    @classmethod
    async def start(cls, settings: WorkerSettings, events: EventLog) -> Worker:
        """Open the spool, take up what is queued, and listen.

        Raises
        ------
        ConfigError
            The served configuration cannot be loaded.
        SpoolError
            The spool shard cannot be opened.
        OSError
            A port cannot be bound.
        """
        metrics = Metrics()
        resolvers = Resolvers()
        crls = CrlStore(settings.state_dir / "crl", metrics=metrics, events=events)
        config, _ = load(settings.served_dir)
        store = await SqliteStore.open(settings.shard, adopt=settings.adopt, metrics=metrics, events=events)
        try:
            queue = DeliveryQueue(
                store,
                RoutingTable(config),
                hop_factory(
                    config,
                    read_credentials(config, settings.served_dir),
                    state_dir=settings.state_dir,
                    addresses=settings.addresses,
                    resolvers=resolvers,
                    metrics=metrics,
                    server_trust=trust_contexts(config.direct_trust, settings.served_dir),
                    crls=crls,
                    identities=client_identities(config, settings.served_dir, time.time()),
                ),
                metrics=metrics,
                events=events,
                hostname=config.hostname,
                postmaster=config.postmaster,
            )
            worker = cls(
                settings,
                store=store,
                queue=queue,
                listeners=Listeners(settings.addresses),
                metrics=metrics,
                events=events,
                resolvers=resolvers,
                crls=crls,
            )
            await worker._begin()
        except BaseException:
            await store.close()
            raise
        return worker

    async def _begin(self) -> None:
        if error := await self.reload(trial=False):
            raise ConfigError(error)
        await self._queue.recover()

    # What the control endpoints ask for

    def status(self) -> dict[str, Any]:
        """Return who this is, what it serves, and where it listens."""
        return {
            "index": self._settings.index,
            "pid": os.getpid(),
            "hash": self._hash,
            "listeners": [
                {"connectors": bound.connectors, "address": bound.address, "port": bound.port, "tls": bound.tls}
                for bound in self._listeners.bound()
            ],
            "queued": len(self._queue),
        }

    def metrics(self) -> list[Family]:
        """Return the metrics, the queue's gauges brought up to date."""
        self._queue.measure()
        return snapshot(self._metrics.registry)

    async def reload(self, *, trial: bool) -> str:
        """Build the new configuration beside the old one, then swap; on trial, build only.

        Returns
        -------
        str
            Why it cannot be served; empty when it can. In the first case nothing has changed.
        """
        directory = self._settings.config_dir if trial else self._settings.served_dir
        try:
            config, digest = await asyncio.to_thread(load, directory)
            serving: Serving = await asyncio.to_thread(
                prepare,
                config,
                directory,
                store=self._store,
                metrics=self._metrics,
                events=self._events,
                on_committed=self._committed,
                sources=self._sources,
                bans=self._bans,
                crls=self._crls,
                staples=self._staples,
            )
            stapled = await asyncio.to_thread(subjects, config, directory)
            await self._staples.fetch_ahead(stapled)
            routing = await asyncio.to_thread(RoutingTable, config)
            factory = hop_factory(
                config,
                read_credentials(config, directory),
                state_dir=self._settings.state_dir,
                addresses=self._settings.addresses,
                resolvers=self._resolvers,
                metrics=self._metrics,
                server_trust=trust_contexts(config.direct_trust, directory),
                crls=self._crls,
                identities=client_identities(config, directory, time.time()),
            )
            if trial:
                return ""
            share_tickets(serving.resuming(), read_ticket_secret(directory))
            await self._listeners.apply(serving)
        except (ConfigError, OSError) as error:
            self._metrics.reloads.labels("refused").inc()
            return str(error)
        self._queue.reload(routing, factory, hostname=config.hostname, postmaster=config.postmaster)
        self._staples.keep(stapled)
        self._hash = digest
        self._metrics.reloads.labels("ok").inc()
        self._metrics.reload_timestamp.set(time.time())
        self._metrics.config_info.clear()
        self._metrics.config_info.labels(digest).set(1)
        self._metrics.certificate_not_after.clear()
        own = config.direct_trust.identity
        for certificate in (*config.certificates, *((own,) if own else ())):
            self._metrics.certificate_not_after.labels(certificate.name, certificate.thumbprint).set(
                certificate.not_after
            )
        return ""

    async def queue_list(self, filters: dict[str, str]) -> list[Any]:
        """Return queued messages, oldest first."""
        found: list[Any] = await self._queue.admin.list(
            destination=filters.get("destination", ""),
            sender=filters.get("sender"),
            recipient=filters.get("recipient", ""),
            state=filters.get("state", ""),
            limit=int(filters.get("limit", "100")),
        )
        return found

    async def queue_show(self, message_id: str) -> Any:
        """Return one message with its headers. Raises KeyError."""
        return await self._queue.admin.show(message_id, headers=True)

    async def queue_change(
        self, action: str, *, message_id: str = "", destination: str = "", notify: bool = False
    ) -> int:
        """Retry, hold, release or delete; return how many messages that touched. Raises KeyError."""
        verbs: dict[str, Callable[..., Awaitable[int]]] = {
            "retry": self._queue.admin.retry,
            "hold": self._queue.admin.hold,
            "release": self._queue.admin.release,
            "delete": partial(self._queue.admin.delete, notice=notify),
        }
        everything = not message_id and not destination
        return await verbs[action](message_id=message_id, destination=destination, everything=everything)

    # Life

    def _committed(self, envelope: Envelope, content: Content) -> None:
        self._queue.enqueue(envelope, content)

    async def flush_events(self) -> None:
        """Write the event log at intervals, until cancelled."""
        while True:
            await asyncio.sleep(EVENT_FLUSH)
            self._events.flush()

    async def drain(self, grace: float) -> None:
        """Stop accepting, finish what is under way within `grace` seconds, leave the rest in the spool."""
        started = time.monotonic()
        await self._listeners.drain(grace)
        await self._queue.drain(max(1.0, grace - (time.monotonic() - started)))
        await self._sources.close()
        await self._crls.close()
        await self._staples.close()
        if self._bans is not None:
            await asyncio.to_thread(self._bans.close)
        await self._store.close()
        self._events.emit("worker.drained")
        self._events.flush()


async def run(settings: WorkerSettings) -> None:
    """Serve until SIGTERM, or until the supervisor is gone.

    Raises
    ------
    ConfigError, SpoolError, OSError
        See :meth:`Worker.start`.
    """
    events = EventLog(sys.stdout.fileno(), worker=settings.index)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    _, supervisor = await loop.connect_read_pipe(lambda: _Supervisor(stop), sys.stdin)
    worker = await Worker.start(settings, events)
    # What the start has made stays: no collection need walk through it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    flusher = asyncio.create_task(worker.flush_events())
    runner = web.AppRunner(application(worker), access_log=None)
    await runner.setup()
    settings.control.unlink(missing_ok=True)
    await web.UnixSite(runner, str(settings.control)).start()
    settings.control.chmod(0o600)
    await stop.wait()
    await worker.drain(ORPHAN_GRACE if supervisor.gone else settings.drain_timeout)
    flusher.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await flusher
    await runner.cleanup()


class _Supervisor(asyncio.Protocol):
    """Sees the end of the pipe from the supervisor."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self.gone = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._stop.set()
