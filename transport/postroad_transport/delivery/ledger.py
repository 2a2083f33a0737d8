"""The ledger: what is queued, in memory and in the store, and by which routes.

1. Whatever is in here is in the store too.
2. A recipient's state changes in memory first and in the store right after; a message without recipients left
   to try is settled. What the store refuses is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from postroad_transport.delivery import retry
from postroad_transport.delivery.content import ContentCache
from postroad_transport.delivery.notices import NoticeKind, wanted
from postroad_transport.delivery.routes import RouteCache
from postroad_transport.delivery.scheduler import Entry, Scheduler, transactions
from postroad_transport.delivery.tracking import Tracking
from postroad_transport.message import Content, Envelope, Recipient, RecipientState
from postroad_transport.routing.table import Route
from postroad_transport.spool.store import SpoolError, Store

_QUEUED = RecipientState.QUEUED


@dataclass(slots=True, eq=False)
class QueuedMessage:
    """A message while it is queued."""

    envelope: Envelope
    entries: list[Entry] = field(default_factory=list)
    deleted: bool = False
    """To be settled without another attempt, as soon as no entry is running."""


class Ledger:
    """What is queued.

    Parameters
    ----------
    store
        Where the messages are durable.
    scheduler
        The order of what is queued.
    routes
        The routes served now.
    contents
        Content in memory.
    tracking
        Events and metrics.
    clock
        Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        routes: RouteCache,
        contents: ContentCache,
        tracking: Tracking,
        clock: Callable[[], float],
    ) -> None:
        self.scheduler = scheduler
        self.routes = routes
        self.contents = contents
        self.tracking = tracking
        self.clock = clock
        self.messages: dict[str, QueuedMessage] = {}
        self.unsaved: dict[str, QueuedMessage] = {}
        """Messages whose state the store does not have yet."""
        self._store = store

    def enter(self, envelope: Envelope, content: Content | None, *, fresh: bool) -> None:
        """Queue a message; `fresh`: it was just committed, with `content`. Never raises."""
        message = self.messages[envelope.id] = QueuedMessage(envelope)
        now = self.clock()
        try:
            self._plan(message, envelope.recipients, now, announce=fresh)
            if not message.entries:
                self.unsaved[envelope.id] = message
            elif content is not None and _may_start(message.entries, now):
                self.contents.keep(envelope.id, content, envelope.size)
        except Exception as error:
            # It stays in the store, and is looked at again at the next start.
            del self.messages[envelope.id]
            for entry in message.entries:
                self.scheduler.done(entry, self.clock())
            self.tracking.error(envelope.id, "enqueue", error)

    async def finish(self, message: QueuedMessage, entry: Entry) -> None:
        """Be done with an entry, and with its message when it was the last."""
        self.scheduler.done(entry, self.clock())
        if entry in message.entries:
            message.entries.remove(entry)
        await self.save(message)

    async def save(self, message: QueuedMessage) -> None:
        """Bring the store up to date; what it refuses is tried again later."""
        message_id = message.envelope.id
        try:
            if message.entries:
                if not message.deleted:
                    await self._store.update(message.envelope)
            else:
                self.messages.pop(message_id, None)
                self.contents.drop(message_id)
                self._store.settle(message_id)
        except Exception as error:
            self.unsaved[message_id] = message
            self.tracking.error(message_id, "save", error)

    async def save_again(self) -> None:
        """Bring up to date what the store refused before."""
        unsaved, self.unsaved = self.unsaved, {}
        for message in unsaved.values():
            await self.save(message)

    async def original(self, envelope: Envelope) -> Content:
        """Return a message's content for a notice; nothing where it cannot be read: a notice goes without."""
        content = self.contents.get(envelope.id)
        if content is not None:
            return content
        try:
            return (await self._store.content(envelope.id),)
        except (KeyError, SpoolError) as error:
            self.tracking.error(envelope.id, "content", error)
            return ()

    def requeue(self, entry: Entry, message: QueuedMessage, next_attempt: float) -> None:
        """Give a running entry back to the scheduler, by the routes that are served now."""
        now = self.clock()
        if message.deleted:
            self.scheduler.done(entry, now)
            message.entries.remove(entry)
        elif not self.reroute(entry, message, now):
            route = entry.destination.route
            deadline = self._deadline(entry.envelope, entry.recipients, route, now)
            self.scheduler.requeue(entry, now, deadline=deadline, next_attempt=next_attempt)

    def reroute(self, entry: Entry, message: QueuedMessage, now: float) -> bool:
        """Move an entry to where its recipients belong now; return whether that is elsewhere."""
        key = entry.destination.key
        moved = False
        for recipient in entry.recipients:
            route = self.routes.resolve(recipient)
            if route.destination != key:
                moved = True
            else:
                self.scheduler.destination(key, route, now)
        if moved:
            self.scheduler.done(entry, now)
            message.entries.remove(entry)
            for recipient in entry.recipients:
                recipient.next_attempt = 0.0
            self._plan(message, entry.recipients, now, announce=True)
        return moved

    def _plan(self, message: QueuedMessage, recipients: Sequence[Recipient], now: float, *, announce: bool) -> None:
        """Make the entries for those of `recipients` that are still to be tried."""
        groups: dict[tuple[Route, float], list[Recipient]] = {}
        if len(recipients) == 1 and recipients[0].state is _QUEUED:
            recipient = recipients[0]
            self._add(message, self.routes.resolve(recipient), recipients, recipient.next_attempt, now, announce)
            return
        for recipient in recipients:
            if recipient.state is _QUEUED:
                key = (self.routes.resolve(recipient), recipient.next_attempt)
                groups.setdefault(key, []).append(recipient)
        for (route, next_attempt), group in groups.items():
            for part in transactions(group):
                self._add(message, route, part, next_attempt, now, announce)

    def _add(
        self,
        message: QueuedMessage,
        route: Route,
        recipients: Sequence[Recipient],
        next_attempt: float,
        now: float,
        announce: bool,
    ) -> None:
        envelope = message.envelope
        if announce:
            self.tracking.routed(envelope, recipients, route)
        entry = self.scheduler.add(
            envelope,
            recipients,
            self.scheduler.destination(route.destination, route, now),
            now=now,
            deadline=self._deadline(envelope, recipients, route, now),
            next_attempt=next_attempt,
        )
        message.entries.append(entry)

    def _deadline(self, envelope: Envelope, recipients: Sequence[Recipient], route: Route, now: float) -> float:
        return retry.deadline(
            route.retry,
            received_at=envelope.received_at,
            now=now,
            delay_pending=_delay_pending(envelope, recipients),
        )


def _may_start(entries: Sequence[Entry], now: float) -> bool:
    # No `any`: a generator costs more than what is asked, here and below.
    for entry in entries:  # noqa: SIM110
        if entry.destination.is_open(now):
            return True
    return False


def _delay_pending(envelope: Envelope, recipients: Sequence[Recipient]) -> bool:
    if envelope.sender:
        for recipient in recipients:
            if not recipient.delay_notified and (not recipient.notify or wanted(recipient, NoticeKind.DELAY)):
                return True
    return False
