"""One attempt: content, hop, and what its outcomes mean for the message.

1. A failure is told before it is forgotten: the notice is durable before the recipient's state changes.
   A crash between the two repeats the attempt and the notice; it never loses either.
2. An exception in one message's path defers that message, and is an event. The queue goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from postroad_transport.delivery import retry
from postroad_transport.delivery.hop import Outcome, Result
from postroad_transport.delivery.hops import HopCache
from postroad_transport.delivery.ledger import Ledger, QueuedMessage
from postroad_transport.delivery.notices import NoticeKind, Report, wanted
from postroad_transport.delivery.notifier import Notifier
from postroad_transport.delivery.outcomes import Pair, destination_down, no_peer, success_kind
from postroad_transport.delivery.routes import UNROUTABLE
from postroad_transport.delivery.scheduler import Entry, EntryState
from postroad_transport.message import Content, RecipientState
from postroad_transport.routing.table import Route
from postroad_transport.spool.store import SpoolError

CRASH_RETRY = 900.0
"""Seconds that a message waits after an internal error."""


class Attempts:
    """Works off entries that the scheduler handed out.

    Parameters
    ----------
    ledger
        What is queued.
    hops
        The next hops.
    notifier
        Tells senders.
    uniform
        Random numbers from [0, 1), for jitter.
    """

    def __init__(self, ledger: Ledger, hops: HopCache, notifier: Notifier, uniform: Callable[[], float]) -> None:
        self._ledger = ledger
        self._scheduler = ledger.scheduler
        self._contents = ledger.contents
        self._tracking = ledger.tracking
        self._clock = ledger.clock
        self._hops = hops
        self._notifier = notifier
        self._uniform = uniform

    async def handle(self, entry: Entry) -> None:
        """Attempt delivery, or look at what is overdue. Never raises but for cancellation."""
        try:
            message = self._ledger.messages[entry.envelope.id]
            if message.deleted:
                await self._ledger.finish(message, entry)
            elif entry.attempting:
                await self._attempt(entry, message)
            else:
                await self._look_at_overdue(entry, message)
        except Exception as error:
            self._crashed(entry, error)

    async def _attempt(self, entry: Entry, message: QueuedMessage) -> None:
        envelope, route = entry.envelope, entry.destination.route
        content = self._contents.get(envelope.id)
        if content is not None:
            await self._apply(entry, message, await self._deliver(entry, route, content), content)
            return
        try:
            content = await self._contents.load(envelope.id, envelope.size)
        except KeyError:
            self._tracking.missing(envelope)
            message.deleted = True
            await self._ledger.finish(message, entry)
            return
        except SpoolError as error:
            unread = Outcome(Result.DEFERRED, f"451 4.3.0 Cannot read the message: {error}")
            await self._apply(entry, message, [unread] * len(entry.recipients), (), attempted=False)
            return
        try:
            await self._apply(entry, message, await self._deliver(entry, route, content), content)
        finally:
            self._contents.unload(envelope.size)

    async def _deliver(self, entry: Entry, route: Route, content: Content) -> Sequence[Outcome]:
        held = self._hops.acquire(route)
        try:
            outcomes = await held.hop.deliver(entry.envelope, entry.recipients, content)
        finally:
            self._hops.release(held, self._clock())
        if len(outcomes) != len(entry.recipients):
            raise RuntimeError(f"{len(outcomes)} outcomes for {len(entry.recipients)} recipients")
        return outcomes

    async def _apply(
        self,
        entry: Entry,
        message: QueuedMessage,
        outcomes: Sequence[Outcome],
        content: Content,
        *,
        attempted: bool = True,
    ) -> None:
        """Make the outcomes of one attempt true; without `attempted` they tell nothing of the destination."""
        now = self._clock()
        envelope, destination = entry.envelope, entry.destination
        attempted = attempted and destination.route is not UNROUTABLE
        pairs = list(zip(entry.recipients, outcomes, strict=True))
        for recipient, outcome in pairs:
            recipient.attempts += 1
            recipient.reply, recipient.remote = outcome.reply, outcome.remote
        if attempted:
            self._judge(entry, outcomes, now)
        delivered, failed, deferred = _sorted(pairs)
        if delivered:
            await self._delivered(entry, delivered, now, content)
        if message.deleted or not (failed or deferred):
            await self._ledger.finish(message, entry)
            return
        next_attempt: float | None = None
        in_line = attempted and no_peer(outcomes)
        if deferred:
            next_attempt = retry.next_attempt(
                destination.route.retry,
                attempts=max(recipient.attempts for recipient, _ in deferred),
                received_at=envelope.received_at,
                now=now,
                random=self._uniform(),
            )
            if next_attempt is not None and in_line:
                # Nothing was wrong with the message: it rejoins the line, and goes when the destination does.
                next_attempt = min(next_attempt, max(now, destination.backoff_until))
        expired = deferred if deferred and next_attempt is None else []
        if failed or expired:
            try:
                await self._fail(entry, failed, expired, now, content)
            except SpoolError:
                # Untold, hence not failed: try again when the store may have recovered.
                deferred, expired, next_attempt = [*failed, *deferred], [], now + retry.GRACE
        if expired or not deferred or next_attempt is None:
            await self._ledger.finish(message, entry)
        else:
            await self._defer(entry, message, deferred, next_attempt, content, in_line=in_line)

    def _judge(self, entry: Entry, outcomes: Sequence[Outcome], now: float) -> None:
        """Let the scheduler learn from an attempt."""
        if not destination_down(outcomes):
            self._scheduler.reached(entry, now)
        elif self._scheduler.unreachable(entry, now, reply=outcomes[0].reply, remote=outcomes[0].remote):
            destination = entry.destination
            policy = destination.route.retry
            pause = retry.backoff(policy, failures=destination.failures, random=self._uniform())
            self._scheduler.pause(destination, now, pause)

    async def _delivered(self, entry: Entry, delivered: list[Pair], now: float, content: Content) -> None:
        envelope, route = entry.envelope, entry.destination.route
        self._tracking.delivered(envelope, delivered, route, now)
        for recipient, _ in delivered:
            recipient.state = RecipientState.DELIVERED
        for recipient, outcome in delivered:
            if recipient.notify and (kind := success_kind(route.target, outcome)):
                report = Report(recipient, outcome.reply, outcome.remote)
                try:
                    await self._notifier.tell(kind, envelope, [report], content, now=now)
                except Exception as error:
                    self._tracking.error(envelope.id, "notice", error)

    async def _fail(
        self, entry: Entry, failed: list[Pair], expired: list[Pair], now: float, content: Content
    ) -> None:
        """Tell the sender, then mark the recipients. Raises SpoolError; then nothing is marked."""
        reports = [Report(recipient, outcome.reply, outcome.remote) for recipient, outcome in failed]
        reports += [Report(recipient, outcome.reply, outcome.remote, "5.4.7") for recipient, outcome in expired]
        await self._notifier.tell(NoticeKind.FAILURE, entry.envelope, reports, content, now=now)
        for recipient, _ in failed:
            recipient.state = RecipientState.FAILED
        for recipient, _ in expired:
            recipient.state = RecipientState.EXPIRED
        self._tracking.failed(entry.envelope, failed, entry.destination.route)
        self._tracking.expired(entry.envelope, expired, entry.destination.route)

    async def _defer(
        self,
        entry: Entry,
        message: QueuedMessage,
        deferred: list[Pair],
        next_attempt: float,
        content: Content,
        *,
        in_line: bool,
    ) -> None:
        now = self._clock()
        envelope, policy = entry.envelope, entry.destination.route.retry
        entry.recipients = [recipient for recipient, _ in deferred]
        for recipient in entry.recipients:
            recipient.next_attempt = next_attempt
        self._tracking.deferred(envelope, deferred, entry.destination.route, next_attempt)
        self._contents.drop(envelope.id)
        if retry.delay_due(policy, received_at=envelope.received_at, now=now):
            await self._tell_delay(entry, content, now)
        self._ledger.requeue(entry, message, 0.0 if in_line else next_attempt)
        await self._ledger.save(message)

    async def _tell_delay(self, entry: Entry, content: Content, now: float) -> None:
        envelope, policy = entry.envelope, entry.destination.route.retry
        pending = [r for r in entry.recipients if not r.delay_notified and wanted(r, NoticeKind.DELAY)]
        if not pending or not envelope.sender:
            return
        destination = entry.destination
        reports = [Report(r, r.reply or destination.reply, r.remote or destination.remote) for r in pending]
        try:
            await self._notifier.tell(
                NoticeKind.DELAY,
                envelope,
                reports,
                content,
                now=now,
                retry_until=retry.expires_at(policy, envelope.received_at),
            )
        except SpoolError as error:
            self._tracking.error(envelope.id, "notice", error)
            return
        for recipient in pending:
            recipient.delay_notified = True

    async def _look_at_overdue(self, entry: Entry, message: QueuedMessage) -> None:
        """Expire what waited too long without an attempt, or tell its sender of the delay."""
        now = self._clock()
        envelope, destination = entry.envelope, entry.destination
        policy = destination.route.retry
        if now >= retry.expires_at(policy, envelope.received_at):
            expired = [
                (r, Outcome(Result.DEFERRED, r.reply or destination.reply, r.remote or destination.remote))
                for r in entry.recipients
            ]
            try:
                await self._fail(entry, [], expired, now, await self._ledger.original(envelope))
            except SpoolError as error:
                self._tracking.error(envelope.id, "notice", error)
                self._ledger.requeue(entry, message, entry.next_attempt)
                return
            await self._ledger.finish(message, entry)
            return
        if retry.delay_due(policy, received_at=envelope.received_at, now=now):
            await self._tell_delay(entry, await self._ledger.original(envelope), now)
        self._ledger.requeue(entry, message, entry.next_attempt)
        await self._ledger.save(message)

    def _crashed(self, entry: Entry, error: Exception) -> None:
        """Put off what an internal error befell."""
        envelope = entry.envelope
        self._tracking.error(envelope.id, "deliver", error)
        if entry.state is not EntryState.RUNNING:
            return
        now = self._clock()
        next_attempt = now + CRASH_RETRY
        entry.recipients = [r for r in entry.recipients if r.state is RecipientState.QUEUED]
        for recipient in entry.recipients:
            recipient.reply, recipient.next_attempt = "451 4.3.0 Internal error", next_attempt
        message = self._ledger.messages.get(envelope.id)
        if message is not None:
            self._ledger.unsaved[envelope.id] = message
        if entry.recipients:
            deadline = next_attempt + retry.GRACE
            self._scheduler.requeue(entry, now, deadline=deadline, next_attempt=next_attempt)
        else:
            self._scheduler.done(entry, now)
            if message is not None:
                message.entries.remove(entry)


def _sorted(pairs: list[Pair]) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Return delivered, failed and deferred."""
    failed = [pair for pair in pairs if pair[1].result is Result.FAILED]
    deferred = [pair for pair in pairs if pair[1].result is Result.DEFERRED]
    if not failed and not deferred:
        return pairs, failed, deferred
    return [pair for pair in pairs if pair[1].result is Result.DELIVERED], failed, deferred
