"""What an administrator does to the queue. Each verb returns plain data, and its effect is in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from postroad_transport.delivery import retry
from postroad_transport.delivery.ledger import Ledger, QueuedMessage
from postroad_transport.delivery.notices import NoticeKind, Report
from postroad_transport.delivery.notifier import Notifier
from postroad_transport.delivery.scheduler import Entry, EntryState
from postroad_transport.message import Recipient, RecipientState
from postroad_transport.telemetry.events import EventLog

DELETED = "554 5.3.0 Deleted by the administrator"

_CHUNK = 1000
"""Messages looked at between two turns of the event loop."""

_STATES = {
    EntryState.READY: "ready",
    EntryState.WAITING: "waiting",
    EntryState.RUNNING: "active",
    EntryState.HELD: "held",
    EntryState.DONE: "done",
}


class QueueAdmin:
    """The verbs of ``postroad queue``.

    Parameters
    ----------
    ledger
        What is queued.
    notifier
        Tells senders of deleted messages.
    events
        Where interventions are logged.
    dispatch
        Starts what an intervention made ready.
    """

    def __init__(self, ledger: Ledger, notifier: Notifier, events: EventLog, dispatch: Callable[[], None]) -> None:
        self._ledger = ledger
        self._scheduler = ledger.scheduler
        self._clock = ledger.clock
        self._notifier = notifier
        self._events = events
        self._dispatch = dispatch

    async def list(
        self,
        *,
        destination: str = "",
        sender: str | None = None,
        recipient: str = "",
        state: str = "",
        limit: int = 100,
    ) -> Any:
        """Return queued messages, oldest first where all are asked for.

        Parameters
        ----------
        destination
            Queue key, such as ``dns:example.com``.
        sender, recipient
            Whole addresses, without regard to case; `sender` ``""`` is the null sender.
        state
            ``ready``, ``waiting``, ``active``, ``held`` or ``suspended``.
        limit
            Most messages to return; 0 for all.

        Returns
        -------
        list of dict
            As :meth:`show`, without headers and finished recipients.
        """
        found = []
        for number, message in enumerate(_messages(self._ledger, destination), 1):
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
            if sender is not None and message.envelope.sender.lower() != sender.lower():
                continue
            rows = [
                row
                for row in self._rows(message)
                if (not destination or row["destination"] == destination)
                and (not state or row["state"] == state)
                and (not recipient or row["address"].lower() == recipient.lower())
            ]
            if rows:
                found.append({**self._summary(message), "recipients": rows})
                if len(found) == limit:
                    break
        return found

    async def show(self, message_id: str, *, headers: bool = False) -> dict[str, Any]:
        """Return one message. Raises KeyError when it is not queued.

        Returns
        -------
        dict
            ``id``, ``sender``, ``receivedAt``, ``age``, ``size``, ``held``, ``envelope`` (as stored),
            ``recipients`` (``address``, ``state``, ``destination``, ``attempts``, ``nextAttempt``, ``reply``,
            ``remote``) and, if asked for, ``headers`` (text).
        """
        message = self._ledger.messages[message_id]
        ended = [
            _row(recipient, "", str(recipient.state), recipient.reply, recipient.remote)
            for recipient in message.envelope.recipients
            if recipient.state is not RecipientState.QUEUED
        ]
        shown = {
            **self._summary(message),
            "envelope": msgspec.to_builtins(message.envelope),
            "recipients": [*self._rows(message), *ended],
        }
        if headers:
            content = b"".join(await self._ledger.original(message.envelope))
            shown["headers"] = content.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
        return shown

    async def retry(self, *, message_id: str = "", destination: str = "", everything: bool = False) -> int:
        """Try now what waits; return how many messages that touched. Raises KeyError for an unknown id."""
        chosen = self._choose(message_id, destination, everything)
        for message in chosen:
            for entry in _chosen_entries(message, destination):
                self._scheduler.retry(entry, self._clock())
        self._dispatch()
        return len(chosen)

    async def hold(self, *, message_id: str = "", destination: str = "", everything: bool = False) -> int:
        """Hold messages as a whole; what is under way ends first. Returns and raises as :meth:`retry`."""
        chosen = [m for m in self._choose(message_id, destination, everything) if not m.envelope.held]
        for message in chosen:
            message.envelope.held = True
            for entry in message.entries:
                self._scheduler.hold(entry, self._clock())
        await self._save(chosen, "queue.hold")
        return len(chosen)

    async def release(self, *, message_id: str = "", destination: str = "", everything: bool = False) -> int:
        """Let held messages go on, at once. Returns and raises as :meth:`retry`."""
        chosen = [m for m in self._choose(message_id, destination, everything) if m.envelope.held]
        for message in chosen:
            message.envelope.held = False
            for entry in message.entries:
                now = self._clock()
                deadline = retry.deadline(
                    entry.destination.route.retry,
                    received_at=message.envelope.received_at,
                    now=now,
                    delay_pending=False,
                )
                self._scheduler.release(entry, now, deadline=deadline)
        self._dispatch()
        await self._save(chosen, "queue.release")
        return len(chosen)

    async def delete(
        self, *, message_id: str = "", destination: str = "", everything: bool = False, notice: bool = False
    ) -> int:
        """Remove messages as a whole; what is under way ends first. Returns and raises as :meth:`retry`.

        With `notice` the senders are told, before the messages are removed.

        Raises
        ------
        SpoolError
            A notice could not be made durable; this message and those after it stay.
        """
        chosen = self._choose(message_id, destination, everything)
        for number, message in enumerate(chosen, 1):
            await self._delete(message, notice=notice)
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
        return len(chosen)

    async def _delete(self, message: QueuedMessage, *, notice: bool) -> None:
        envelope = message.envelope
        now = self._clock()
        idle = [entry for entry in message.entries if entry.state is not EntryState.RUNNING]
        doomed = [recipient for entry in idle for recipient in entry.recipients]
        if notice and doomed:
            # Held back meanwhile: what we say is deleted must not be delivered.
            held, envelope.held = envelope.held, True
            for entry in idle:
                self._scheduler.hold(entry, now)
            try:
                reports = [Report(recipient, DELETED) for recipient in doomed]
                original = await self._ledger.original(envelope)
                await self._notifier.tell(NoticeKind.FAILURE, envelope, reports, original, now=now)
            except BaseException:
                envelope.held = held
                for entry in idle:
                    self._scheduler.release(entry, now, deadline=entry.deadline)
                raise
        if doomed:
            addresses = [recipient.address for recipient in doomed]
            self._events.emit("FAIL", id=envelope.id, recipients=addresses, reply=DELETED)
        message.deleted = True
        # Looked at again: while the notice was committed, a reload may have moved the entries.
        for entry in tuple(message.entries):
            if entry.state is not EntryState.RUNNING:
                self._scheduler.done(entry, now)
                message.entries.remove(entry)
        await self._ledger.save(message)

    def _choose(self, message_id: str, destination: str, everything: bool) -> Sequence[QueuedMessage]:
        if message_id:
            return [self._ledger.messages[message_id]]
        if destination or everything:
            return _messages(self._ledger, destination)
        return []

    async def _save(self, messages: Sequence[QueuedMessage], event: str) -> None:
        for start in range(0, len(messages), _CHUNK):
            chunk = messages[start : start + _CHUNK]
            await asyncio.gather(*(self._ledger.save(message) for message in chunk))
            for message in chunk:
                self._events.emit(event, id=message.envelope.id)

    def _summary(self, message: QueuedMessage) -> dict[str, Any]:
        envelope = message.envelope
        return {
            "id": envelope.id,
            "sender": envelope.sender,
            "receivedAt": envelope.received_at,
            "age": max(0.0, self._clock() - envelope.received_at),
            "size": envelope.size,
            "held": envelope.held,
        }

    def _rows(self, message: QueuedMessage) -> Iterator[dict[str, Any]]:
        for entry in message.entries:
            destination = entry.destination
            for recipient in entry.recipients:
                yield _row(
                    recipient,
                    destination.key,
                    "suspended"
                    if destination.suspended and entry.state is EntryState.READY
                    else _STATES[entry.state],
                    recipient.reply or destination.reply,
                    recipient.remote or destination.remote,
                    max(entry.next_attempt, destination.backoff_until),
                )


def _messages(ledger: Ledger, destination: str) -> list[QueuedMessage]:
    """Return the messages for `destination`, or all."""
    if not destination:
        return list(ledger.messages.values())
    known = ledger.scheduler.destinations.get(destination)
    ids = {entry.envelope.id: None for entry in known.entries} if known is not None else {}
    return [ledger.messages[message_id] for message_id in ids if message_id in ledger.messages]


def _chosen_entries(message: QueuedMessage, destination: str) -> list[Entry]:
    return [entry for entry in message.entries if not destination or entry.destination.key == destination]


def _row(
    recipient: Recipient, destination: str, state: str, reply: str, remote: str, next_attempt: float = 0.0
) -> dict[str, Any]:
    return {
        "address": recipient.address,
        "state": state,
        "destination": destination,
        "attempts": recipient.attempts,
        "nextAttempt": next_attempt,
        "reply": reply,
        "remote": remote,
    }
