"""What deliveries leave behind: events with the message's id, and metrics."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from postroad_transport.delivery.hop import Result
from postroad_transport.delivery.outcomes import Pair, alike
from postroad_transport.delivery.scheduler import Destination, Scheduler
from postroad_transport.message import Envelope, Recipient
from postroad_transport.routing.table import Route
from postroad_transport.telemetry.events import EventLog, Routed, Sent
from postroad_transport.telemetry.metrics import Metrics

MAX_DESTINATIONS = 100
"""Destinations with gauges of their own, the largest first; the rest is ``other``."""


class _Connector:
    """The metrics of one connector, looked up once."""

    __slots__ = ("bytes_sent", "deliver_seconds", "delivered")

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.delivered = metrics.deliveries.labels(name, str(Result.DELIVERED))
        self.bytes_sent = metrics.bytes_sent.labels(name)
        self.deliver_seconds = metrics.deliver_seconds.labels(name)


class Tracking:
    """Counts and logs the steps ROUTE, SEND, DEFER, FAIL and EXPIRE."""

    def __init__(self, metrics: Metrics, events: EventLog) -> None:
        self._metrics = metrics
        self._emit = events.emit
        self._step = events.step
        self._connectors: dict[str, _Connector] = {}

    def routed(self, envelope: Envelope, recipients: Sequence[Recipient], route: Route) -> None:
        """Log where recipients will go."""
        self._step(
            Routed(
                id=envelope.id,
                recipients=[recipient.address for recipient in recipients],
                connector=route.connector,
                destination=route.destination,
            )
        )

    def delivered(self, envelope: Envelope, pairs: Sequence[Pair], route: Route, now: float) -> None:
        """Count and log successful deliveries of one transaction."""
        meters = self._connectors.get(route.connector)
        if meters is None:
            meters = self._connectors[route.connector] = _Connector(self._metrics, route.connector)
        seconds = max(0.0, now - envelope.received_at)
        meters.delivered.inc(len(pairs))
        meters.bytes_sent.inc(envelope.size)
        for _ in pairs:
            meters.deliver_seconds.observe(seconds)
        for outcome, addresses in alike(pairs):
            self._step(
                Sent(
                    id=envelope.id,
                    recipients=addresses,
                    connector=route.connector,
                    destination=route.destination,
                    remote=outcome.remote,
                    tls=outcome.tls,
                    converted=outcome.converted,
                    reply=outcome.reply,
                    size=envelope.size,
                    seconds=int(seconds * 1e6) / 1e6,
                )
            )

    def deferred(self, envelope: Envelope, pairs: Sequence[Pair], route: Route, next_attempt: float) -> None:
        """Count and log deferrals."""
        self._ended("DEFER", "deferred", envelope, pairs, route, next_attempt=round(next_attempt, 3))

    def failed(self, envelope: Envelope, pairs: Sequence[Pair], route: Route) -> None:
        """Count and log permanent failures."""
        self._ended("FAIL", "failed", envelope, pairs, route)

    def expired(self, envelope: Envelope, pairs: Sequence[Pair], route: Route) -> None:
        """Count and log expiries."""
        self._ended("EXPIRE", "expired", envelope, pairs, route)

    def _ended(
        self, event: str, result: str, envelope: Envelope, pairs: Sequence[Pair], route: Route, **more: float
    ) -> None:
        if not pairs:
            return
        self._metrics.deliveries.labels(route.connector, result).inc(len(pairs))
        for outcome, addresses in alike(pairs):
            self._emit(
                event,
                id=envelope.id,
                recipients=addresses,
                connector=route.connector,
                destination=route.destination,
                remote=outcome.remote or None,
                tls=outcome.tls or None,
                reply=outcome.reply,
                attempts=pairs[0][0].attempts,
                **more,
            )

    def missing(self, envelope: Envelope) -> None:
        """Log a message that the store knows no more: it was settled or removed behind our back."""
        self._emit("delivery.missing", id=envelope.id)

    def error(self, message_id: str, step: str, error: BaseException) -> None:
        """Log an internal error and where it arose."""
        frames = traceback.extract_tb(error.__traceback__)
        self._emit(
            "delivery.error",
            id=message_id or None,
            step=step,
            error=f"{type(error).__name__}: {error}",
            at=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None,
        )

    def measure(self, scheduler: Scheduler, now: float) -> None:
        """Set the queue's gauges, with bounded label values."""
        depth, age = self._metrics.queue_messages, self._metrics.queue_oldest_age
        depth.clear()
        age.clear()
        queues = sorted(
            ((_size(d), _age(scheduler, d, now), key) for key, d in scheduler.destinations.items() if d.entries),
            reverse=True,
        )
        for size, oldest, key in queues[:MAX_DESTINATIONS]:
            depth.labels(key).set(size)
            age.labels(key).set(oldest)
        if rest := queues[MAX_DESTINATIONS:]:
            depth.labels("other").set(sum(size for size, _, _ in rest))
            age.labels("other").set(max(oldest for _, oldest, _ in rest))


def _size(destination: Destination) -> int:
    return sum(len(entry.recipients) for entry in destination.entries)


def _age(scheduler: Scheduler, destination: Destination, now: float) -> float:
    oldest = scheduler.oldest(destination)
    return max(0.0, now - oldest) if oldest is not None else 0.0
