"""The delivery queue: the edge where the scheduler's decisions become deliveries.

It wires the parts and keeps time: the ledger (what is queued), the scheduler (what comes next), the runners
(who does it), the attempts (what comes of it). What has just been committed is delivered from memory; the route
is looked up in the table served now, at every attempt.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from postroad_transport.delivery.admin import QueueAdmin
from postroad_transport.delivery.attempt import Attempts
from postroad_transport.delivery.content import ContentCache
from postroad_transport.delivery.hop import Hop
from postroad_transport.delivery.hops import HopCache, HopFactory, UnroutableHop
from postroad_transport.delivery.ledger import Ledger
from postroad_transport.delivery.notifier import Notifier, new_message_id
from postroad_transport.delivery.routes import UNROUTABLE, RouteCache
from postroad_transport.delivery.runners import RunnerPool
from postroad_transport.delivery.scheduler import Entry, EntryState, Scheduler
from postroad_transport.delivery.tracking import Tracking
from postroad_transport.message import Content, Envelope
from postroad_transport.routing.table import Route, RoutingTable
from postroad_transport.spool.store import Store
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics

CACHE_BYTES = 64 * 1024 * 1024
"""Content kept in memory for fresh messages."""

CAPACITY = 200
"""Transactions at once, over all destinations."""

MAINTENANCE = 30.0
"""Seconds between looks at idle hops and at what the store refused."""

_OVERDUE_RUNNERS = 16
_CHUNK = 500
"""Messages between two turns of the event loop."""


class TimerHandle(Protocol):
    """What a timer gives back."""

    def cancel(self) -> None:
        """Forget the call."""


CallLater = Callable[[float, Callable[[], None]], TimerHandle]


class DeliveryQueue:
    """Takes committed messages and brings them to their next hops. Made inside a running event loop.

    Parameters
    ----------
    store
        Where the messages are durable.
    routing
        The routes served now.
    hop_factory
        Makes the hop for a route.
    metrics, events
        Where deliveries are counted and logged.
    hostname, postmaster
        Who notices come from; see :class:`Notifier`.
    cache_bytes, capacity
        Bounds on memory and on concurrent transactions.
    clock, call_later, uniform, new_id
        Time (seconds since the epoch), timers (default: the running loop's), random numbers from [0, 1) and
        identifiers of notices; tests bring their own.

    Attributes
    ----------
    admin : QueueAdmin
        The verbs of ``postroad queue``.
    """

    def __init__(
        self,
        store: Store,
        routing: RoutingTable,
        hop_factory: HopFactory,
        *,
        metrics: Metrics,
        events: EventLog,
        hostname: str,
        postmaster: str = "",
        cache_bytes: int = CACHE_BYTES,
        capacity: int = CAPACITY,
        clock: Callable[[], float] = time.time,
        call_later: CallLater | None = None,
        uniform: Callable[[], float] = random.random,
        new_id: Callable[[], str] = new_message_id,
    ) -> None:
        self._store = store
        self._clock = clock
        self._events = events
        self._tracking = Tracking(metrics, events)
        self._scheduler = Scheduler(capacity=capacity)
        self._routes = RouteCache(routing, lambda error: self._tracking.error("", "route", error))
        self._ledger = Ledger(
            store, self._scheduler, self._routes, ContentCache(store, cache_bytes), self._tracking, clock
        )
        self._notifier = Notifier(
            store,
            self.enqueue,
            metrics=metrics,
            events=events,
            hostname=hostname,
            postmaster=postmaster,
            new_id=new_id,
        )
        self._hop_factory = hop_factory
        self._hops = HopCache(self._make_hop)
        self._attempts = Attempts(self._ledger, self._hops, self._notifier, uniform)
        self._runners = RunnerPool(self._take, self._work, capacity + _OVERDUE_RUNNERS)
        self._overdue: deque[Entry] = deque()
        self._call_later: CallLater = call_later or asyncio.get_running_loop().call_later
        self._timer: TimerHandle | None = None
        self._timer_at = 0.0
        self._maintenance_at = clock() + MAINTENANCE
        self._draining = False
        self.admin = QueueAdmin(self._ledger, self._notifier, events, self.dispatch)

    def __len__(self) -> int:
        """Return how many messages are queued."""
        return len(self._ledger.messages)

    def enqueue(self, envelope: Envelope, content: Content) -> None:
        """Take a message that was just committed. `content` must not change any more. Never raises."""
        self._ledger.enter(envelope, content, fresh=True)
        self.dispatch()

    async def recover(self) -> int:
        """Queue what the store holds and we do not; return how many messages. Raises SpoolError."""
        count = 0
        for envelope in await self._store.scan():
            if envelope.id in self._ledger.messages:
                continue
            self._ledger.enter(envelope, None, fresh=False)
            count += 1
            if count % _CHUNK == 0:
                self.dispatch()
                await asyncio.sleep(0)
        self.dispatch()
        return count

    def dispatch(self) -> None:
        """Start what may start, and see to it that time goes on."""
        self._runners.dispatch()
        self._arm()

    def reload(
        self, routing: RoutingTable, hop_factory: HopFactory, *, hostname: str = "", postmaster: str = ""
    ) -> None:
        """Serve other routes from now on, for what is queued as well; deliveries under way end as they began.

        An empty `hostname` leaves both names that notices come from as they are.
        """
        if hostname:
            self._notifier.identify(hostname, postmaster)
        self._hop_factory = hop_factory
        self._routes.replace(routing)
        self._hops.replace(self._make_hop)
        self._runners.spawn(self._reroute())

    def measure(self) -> None:
        """Bring the queue's gauges up to date; called when metrics are read."""
        self._tracking.measure(self._scheduler, self._clock())

    async def drain(self, seconds: float) -> None:
        """Start nothing more, give what runs `seconds` to end, then let go. What is left stays in the store."""
        self._draining = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        cut = await self._runners.stop(seconds)
        if cut:
            self._events.emit("delivery.cut", transactions=cut)
        await self._ledger.save_again()
        await self._hops.close()

    def _take(self) -> Entry | None:
        if self._overdue:
            return self._overdue.popleft()
        return self._scheduler.take(self._clock())

    async def _work(self, entry: Entry) -> None:
        await self._attempts.handle(entry)
        self._arm()

    def _make_hop(self, route: Route) -> Hop:
        return UnroutableHop(self._routes.lookup) if route is UNROUTABLE else self._hop_factory(route)

    async def _reroute(self) -> None:
        for number, entry in enumerate(list(self._scheduler.entries()), 1):
            message = self._ledger.messages.get(entry.envelope.id)
            if message is not None and entry.state not in (EntryState.RUNNING, EntryState.DONE):
                try:
                    self._ledger.reroute(entry, message, self._clock())
                except Exception as error:
                    self._tracking.error(entry.envelope.id, "route", error)
            if number % _CHUNK == 0:
                self.dispatch()
                await asyncio.sleep(0)
        self.dispatch()

    def _arm(self) -> None:
        """See to it that :meth:`_tick` is called in time."""
        if self._timer is not None:
            if self._scheduler.wake_at() >= self._timer_at:
                return
            self._timer.cancel()
        if self._draining:
            return
        self._timer_at = min(self._scheduler.wake_at(), self._maintenance_at)
        self._timer = self._call_later(max(0.0, self._timer_at - self._clock()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock()
        self._overdue.extend(self._scheduler.advance(now))
        if now >= self._maintenance_at:
            self._maintenance_at = now + MAINTENANCE
            self._hops.sweep(now)
            self._scheduler.forget_idle(now)
            if self._ledger.unsaved:
                self._runners.spawn(self._ledger.save_again())
        self.dispatch()
