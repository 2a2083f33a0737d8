"""Which message goes to which destination next. Pure: the clock is an argument, and there is no I/O.

The rules
1. A destination holds its entries in order of arrival; destinations that can work take turns, one entry each.
2. A destination starts with a window of ``INITIAL_WINDOW`` concurrent transactions; each success widens it by
   one up to its limit, an unreachable next hop halves it.
3. A destination that cannot be reached is left alone as a whole; then one entry probes it, and its success opens
   the gates. So ten thousand messages for a dead host cost one attempt a pause.
4. An entry that was deferred by its own fault waits for its own time, and holds nobody up.
5. A destination whose send connector is suspended is not tried at all.
6. Every entry has a deadline, at which it is handed out as overdue even if its destination never worked.

Every operation costs O(log n) at most, whatever is queued. Entries that leave a queue early (held, deleted,
re-routed) are left in the heaps and skipped, and the heaps are rebuilt when half of them is such remains.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from math import inf

from postroad_transport.config import SendLimits
from postroad_transport.message import Envelope, Recipient
from postroad_transport.routing.table import Route

INITIAL_WINDOW = 5
"""Concurrent transactions a new destination starts with."""

MAX_RECIPIENTS = 100
"""Recipients in one transaction: what every receiver must take (RFC 5321 section 4.5.3.1.8)."""

DEFAULT_CONNECTIONS = SendLimits().connections
"""Concurrent transactions where no send connector sets ``limits.connections``."""

UNLIMITED = 10_000
"""The limit where ``limits.connections`` is 0: the scheduler's capacity is what counts then."""

IDLE_DESTINATION = 60.0
"""Seconds after which what was learnt about an empty destination is forgotten."""

SUSPENDED = "451 4.3.2 The send connector is suspended"
"""Why what waits for a suspended destination was not delivered."""

_HEAP_SLACK = 1024


class EntryState(IntEnum):
    """Where an entry stands."""

    READY = 0
    WAITING = 1
    RUNNING = 2
    """Handed out, for an attempt or as overdue."""
    HELD = 3
    DONE = 4


# Bound once: to ask an enumeration for a member takes CPython 3.11 as long as five other attributes.
READY, WAITING, RUNNING, HELD, DONE = EntryState


@dataclass(slots=True, eq=False)
class Entry:
    """Some recipients of one message that have a destination in common: one transaction."""

    envelope: Envelope
    recipients: Sequence[Recipient]
    destination: Destination
    deadline: float
    state: EntryState = READY
    next_attempt: float = 0.0
    started: float = 0.0
    attempting: bool = False
    """Running, and counted in its destination's window."""


@dataclass(slots=True, eq=False)
class Destination:
    """One next hop, what waits for it and how it behaves. Times are seconds since the epoch."""

    key: str
    route: Route
    limit: int = DEFAULT_CONNECTIONS
    interval: float = 0.0
    """Least seconds between two transactions (1 / rate); 0: no limit."""
    window: int = INITIAL_WINDOW
    suspended: bool = False
    entries: set[Entry] = field(default_factory=set)
    ready: deque[Entry] = field(default_factory=deque)
    arrivals: list[tuple[float, int, Entry]] = field(default_factory=list)
    ready_count: int = 0
    running: int = 0
    failures: int = 0
    """Failures to reach it in a row."""
    backoff_since: float = 0.0
    backoff_until: float = 0.0
    paced_until: float = 0.0
    in_turn: bool = False
    idle_since: float = 0.0
    reply: str = ""
    remote: str = ""
    """Why it could not be reached."""

    def is_open(self, now: float) -> bool:
        """Return whether anything may be tried now."""
        return not self.suspended and now >= self.backoff_until

    def can_work(self, now: float) -> bool:
        """Return whether an entry may be handed out now."""
        window = self.window if not self.failures else 1
        return self.ready_count > 0 and self.running < window and now >= self.paced_until and self.is_open(now)

    def follow(self, route: Route) -> None:
        """Take over what `route` says."""
        self.route = route
        self.limit, self.interval = _limits(route)
        self.window = min(self.window, self.limit)
        connector = route.send_connector
        self.suspended = connector is not None and connector.suspend
        if self.suspended:
            self.reply, self.remote = SUSPENDED, ""
        elif self.reply == SUSPENDED:
            self.reply = ""


class Scheduler:
    """The queue's order. See the rules at the top of the module.

    Parameters
    ----------
    capacity
        Transactions at once, over all destinations.
    """

    def __init__(self, *, capacity: int = 200) -> None:
        self.capacity = capacity
        self.running = 0
        self.count = 0
        """Entries of any state."""
        self.destinations: dict[str, Destination] = {}
        self._turns: deque[Destination] = deque()
        self._timers: list[tuple[float, int, Entry | Destination]] = []
        self._sequence = itertools.count()

    # Entering and leaving

    def destination(self, key: str, route: Route, now: float) -> Destination:
        """Return the destination `key`, made or brought up to date with `route`."""
        destination = self.destinations.get(key)
        if destination is None:
            destination = self.destinations[key] = Destination(key, route, idle_since=now)
            destination.follow(route)
        elif destination.route is not route:
            if destination.route != route:
                # What could not be reached by the old route may be by the new one.
                destination.backoff_since = destination.backoff_until = 0.0
            destination.follow(route)
            self._offer(destination, now)
        return destination

    def add(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        destination: Destination,
        *,
        now: float,
        deadline: float,
        next_attempt: float = 0.0,
    ) -> Entry:
        """Queue recipients of one message: held if the envelope is, ready, or waiting until `next_attempt`."""
        entry = Entry(envelope, recipients, destination, deadline, RUNNING)
        self.count += 1
        destination.entries.add(entry)
        if len(destination.arrivals) > 2 * len(destination.entries) + _HEAP_SLACK:
            _prune_arrivals(destination)
        heapq.heappush(destination.arrivals, (envelope.received_at, next(self._sequence), entry))
        self._place(entry, next_attempt, now)
        return entry

    def done(self, entry: Entry, now: float) -> None:
        """Forget an entry, whatever its state."""
        if entry.state is DONE:
            return
        self._leave(entry, now)
        entry.state = DONE
        destination = entry.destination
        destination.entries.discard(entry)
        if not destination.entries:
            destination.arrivals.clear()
            destination.idle_since = now
        self.count -= 1

    # Attempts

    def take(self, now: float) -> Entry | None:
        """Hand out the next entry to attempt, or None when nothing may start now."""
        turns = self._turns
        while turns and self.running < self.capacity:
            destination = turns.popleft()
            if not destination.can_work(now):
                destination.in_turn = False
                continue
            ready = destination.ready
            entry = ready.popleft()
            while entry.state is not READY:
                entry = ready.popleft()
            destination.ready_count -= 1
            if not destination.ready_count:
                ready.clear()
            entry.state = RUNNING
            entry.attempting = True
            entry.started = now
            destination.running += 1
            self.running += 1
            if destination.interval:
                destination.paced_until = now + destination.interval
                if destination.ready_count:
                    self._timer(destination.paced_until, destination)
            destination.in_turn = destination.can_work(now)
            if destination.in_turn:
                turns.append(destination)
            return entry
        return None

    def reached(self, entry: Entry, now: float) -> None:
        """Tell that the next hop answered this attempt, whatever it said."""
        destination = entry.destination
        destination.failures = 0
        destination.backoff_until = 0.0
        if destination.window < destination.limit:
            destination.window += 1
        self._offer(destination, now)

    def unreachable(self, entry: Entry, now: float, *, reply: str, remote: str = "") -> bool:
        """Tell that the next hop could not be reached; return whether the caller must :meth:`pause` it.

        Attempts that were under way when the pause began tell nothing new.
        """
        destination = entry.destination
        destination.reply, destination.remote = reply, remote
        if destination.failures and entry.started <= destination.backoff_since:
            return False
        destination.failures += 1
        destination.window = max(1, destination.window // 2)
        return True

    def pause(self, destination: Destination, now: float, seconds: float) -> None:
        """Start nothing towards `destination` for so many seconds."""
        destination.backoff_since = now
        destination.backoff_until = now + seconds
        self._timer(destination.backoff_until, destination)

    def requeue(self, entry: Entry, now: float, *, deadline: float, next_attempt: float = 0.0) -> None:
        """Give back a running entry: to wait until `next_attempt`, or at the end of its destination's line."""
        self._leave(entry, now)
        entry.deadline = deadline
        self._place(entry, next_attempt, now)

    # Time

    def advance(self, now: float) -> list[Entry]:
        """Make ready what is due; return the entries whose deadline passed, handed out (RUNNING)."""
        overdue = []
        timers = self._timers
        while timers and timers[0][0] <= now:
            moment, _, subject = heapq.heappop(timers)
            if isinstance(subject, Destination):
                self._offer(subject, now)
            elif subject.state is WAITING and subject.next_attempt <= now:
                self._place(subject, 0.0, now, timed=True)
            elif moment == subject.deadline and subject.state in (READY, WAITING):
                self._leave(subject, now)
                subject.state = RUNNING
                overdue.append(subject)
        return overdue

    def wake_at(self) -> float:
        """Return when :meth:`advance` has work next; infinity when never. May be early, never late."""
        return self._timers[0][0] if self._timers else inf

    def forget_idle(self, now: float) -> None:
        """Forget empty destinations that have nothing left to remember."""
        for destination in list(self.destinations.values()):
            since = max(destination.idle_since, destination.backoff_until)
            if not destination.entries and now >= since + IDLE_DESTINATION:
                del self.destinations[destination.key]

    # Intervention

    def hold(self, entry: Entry, now: float) -> None:
        """Stop an entry that is not running; a running one is held when it comes back with its envelope held."""
        if entry.state in (READY, WAITING):
            self._leave(entry, now)
            entry.state = HELD

    def release(self, entry: Entry, now: float, *, deadline: float) -> None:
        """Let a held entry go on, now."""
        if entry.state is HELD:
            entry.deadline = deadline
            self._place(entry, 0.0, now)

    def retry(self, entry: Entry, now: float) -> None:
        """Make a waiting entry ready, and its destination try at once."""
        if entry.state is WAITING:
            self._place(entry, 0.0, now, timed=True)
        entry.destination.backoff_since = entry.destination.backoff_until = 0.0
        self._offer(entry.destination, now)

    # Looking

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, by destination; the queue must not change meanwhile."""
        for destination in self.destinations.values():
            yield from destination.entries

    def oldest(self, destination: Destination) -> float | None:
        """Return when the oldest message queued for `destination` was received."""
        arrivals = destination.arrivals
        while arrivals and arrivals[0][2].state is DONE:
            heapq.heappop(arrivals)
        return arrivals[0][0] if arrivals else None

    # Inside

    def _place(self, entry: Entry, next_attempt: float, now: float, *, timed: bool = False) -> None:
        """Put an entry that is in no line into its own; `timed`: its deadline has its timer already."""
        if entry.envelope.held:
            entry.state = HELD
            return
        entry.next_attempt = next_attempt
        if not timed:
            self._timer(entry.deadline, entry)
        if next_attempt > now:
            entry.state = WAITING
            self._timer(next_attempt, entry)
            return
        entry.state = READY
        destination = entry.destination
        destination.ready.append(entry)
        destination.ready_count += 1
        self._offer(destination, now)

    def _leave(self, entry: Entry, now: float) -> None:
        """Take an entry out of the counts of its present state."""
        destination = entry.destination
        if entry.state is READY:
            destination.ready_count -= 1
            if not destination.ready_count:
                destination.ready.clear()
        elif entry.attempting:
            entry.attempting = False
            destination.running -= 1
            self.running -= 1
            self._offer(destination, now)

    def _offer(self, destination: Destination, now: float) -> None:
        """Let a destination take turns if it can work; otherwise see to it that its time comes."""
        if destination.in_turn or not destination.ready_count:
            return
        if destination.can_work(now):
            destination.in_turn = True
            self._turns.append(destination)
        elif destination.interval and now < destination.paced_until:
            self._timer(destination.paced_until, destination)

    def _timer(self, moment: float, subject: Entry | Destination) -> None:
        timers = self._timers
        heapq.heappush(timers, (moment, next(self._sequence), subject))
        if len(timers) > 4 * (self.count + len(self.destinations)) + _HEAP_SLACK:
            self._timers = list(_live_timers(timers))
            heapq.heapify(self._timers)


def transactions(recipients: Sequence[Recipient]) -> Iterator[Sequence[Recipient]]:
    """Split recipients into transactions of at most ``MAX_RECIPIENTS``."""
    for start in range(0, len(recipients), MAX_RECIPIENTS):
        yield recipients[start : start + MAX_RECIPIENTS]


def _limits(route: Route) -> tuple[int, float]:
    """Return concurrent transactions and the interval between them."""
    connector = route.send_connector
    if connector is None:
        return DEFAULT_CONNECTIONS, 0.0
    rate = connector.limits.rate
    return connector.limits.connections or UNLIMITED, 1.0 / rate if rate > 0 else 0.0


def _prune_arrivals(destination: Destination) -> None:
    destination.arrivals = [item for item in destination.arrivals if item[2].state is not DONE]
    heapq.heapify(destination.arrivals)


def _live_timers(
    timers: Iterable[tuple[float, int, Entry | Destination]],
) -> Iterator[tuple[float, int, Entry | Destination]]:
    """Yield the timers that still mean something, one of a kind."""
    seen: set[tuple[float, int]] = set()
    for item in timers:
        moment, _, subject = item
        live = (
            moment in (subject.backoff_until, subject.paced_until)
            if isinstance(subject, Destination)
            else subject.state is not DONE and moment in (subject.deadline, subject.next_attempt)
        )
        if live and (moment, id(subject)) not in seen:
            seen.add((moment, id(subject)))
            yield item
