"""Makes notices durable and queues them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from postroad_transport.delivery.notices import NoticeKind, Report, compose, wanted
from postroad_transport.message import Content, Envelope
from postroad_transport.spool.store import Store
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics


def new_message_id() -> str:
    """Return an identifier nobody can guess."""
    return uuid.uuid4().hex


class Notifier:
    """Tells senders what became of their messages.

    Parameters
    ----------
    store
        Where notices are committed.
    enqueue
        Takes a committed notice into the queue.
    metrics, events
        Where notices are counted and logged (``DSN``).
    hostname
        Reporting MTA.
    postmaster
        Address in From; empty: ``postmaster@hostname``.
    new_id
        Makes identifiers for notices.
    """

    def __init__(
        self,
        store: Store,
        enqueue: Callable[[Envelope, Content], None],
        *,
        metrics: Metrics,
        events: EventLog,
        hostname: str,
        postmaster: str = "",
        new_id: Callable[[], str] = new_message_id,
    ) -> None:
        self._store = store
        self._enqueue = enqueue
        self._metrics = metrics
        self._events = events
        self._new_id = new_id
        self.identify(hostname, postmaster)

    def identify(self, hostname: str, postmaster: str) -> None:
        """Speak in these names from now on; see the parameters of the class."""
        self._hostname = hostname
        self._postmaster = postmaster or f"postmaster@{hostname}"

    async def tell(
        self,
        kind: NoticeKind,
        envelope: Envelope,
        reports: Sequence[Report],
        original: Content,
        *,
        now: float,
        retry_until: float | None = None,
    ) -> None:
        """Commit and queue the notice, if anybody is to be told; when this returns it cannot be lost.

        Raises
        ------
        SpoolError
            The notice could not be made durable.
        """
        if not envelope.sender:
            if kind is NoticeKind.FAILURE and any(wanted(report.recipient, kind) for report in reports):
                self._events.emit("DSN", id=envelope.id, action="dropped", reason="the sender is null")
            return
        composed = compose(
            kind,
            envelope,
            reports,
            original,
            notice_id=self._new_id(),
            now=now,
            hostname=self._hostname,
            postmaster=self._postmaster,
            retry_until=retry_until,
        )
        if composed is None:
            return
        notice, content = composed
        await self._store.commit(notice, content)
        self._metrics.notices.labels(kind).inc()
        self._events.emit("DSN", id=envelope.id, notice=notice.id, kind=kind, recipient=envelope.sender)
        self._enqueue(notice, content)
