"""The event log: one JSON object a line, for each step of a message's life and each thing worth knowing.

Message steps are RECEIVE, ROUTE, SEND, DEFER, FAIL, DSN, EXPIRE and carry ``id``, the message's identifier
that also stands in its ``Received:`` header. Other events are lower-case words such as ``session.refused``.
Never put a password, a key or a SASL response in an event.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

log = logging.getLogger("postroad.events")

_encoder = msgspec.json.Encoder()
_encode = _encoder.encode
_encode_lines = _encoder.encode_lines

FLUSH_EVENTS = 256


class Step(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="event"):
    """A step that every message takes, in a form that costs less than :meth:`EventLog.emit`.

    Defaults are left out.
    """

    id: str
    recipients: list[str]
    connector: str
    ts: float = 0.0
    worker: int | None = None


class Received(Step, tag="RECEIVE"):
    """A message was taken from a client. `size` is in bytes, with the headers that were added."""

    client: str
    helo: str
    sender: str
    size: int
    tls: str | None = None
    account: str = ""
    message_id: str | None = None
    stripped: tuple[str, ...] = ()


class Routed(Step, tag="ROUTE"):
    """It is known where recipients go."""

    destination: str


class Sent(Step, tag="SEND"):
    """Recipients were delivered, with one reply. `seconds` since the message was received.

    `converted` is the BODY (RFC 6152) that the message was converted to for a peer that takes no more.
    """

    destination: str
    reply: str
    size: int
    seconds: float
    remote: str = ""
    tls: str = ""
    converted: str = ""


class EventLog:
    """Buffers events and writes them to a file descriptor in whole lines.

    The write, and the encoding of steps, is postponed to :meth:`flush`, which the worker calls on a timer (and the
    log itself when many wait), so that the hot path never waits for the disk.
    """

    def __init__(self, fd: int, *, worker: int | None = None, clock: Callable[[], float] = time.time) -> None:
        self._fd = fd
        self._clock = clock
        self._worker = worker
        self._starts: dict[str, bytes] = {}
        self._waiting: list[Step | msgspec.Raw] = []

    def emit(self, event: str, **fields: Any) -> None:
        """Add one event. Values must be JSON-encodable; `None` values are left out."""
        if None in fields.values():
            fields = {name: value for name, value in fields.items() if value is not None}
        start = self._starts.get(event)
        if start is None:
            constant = {} if self._worker is None else {"worker": self._worker}
            start = self._starts[event] = _encode({"event": event, **constant})[1:-1]
        rest = b"," + _encode(fields)[1:] if fields else b"}"
        self._add(msgspec.Raw(b'{"ts":%.6f,%b%b' % (self._clock(), start, rest)))

    def step(self, step: Step) -> None:
        """Add a step; it must not change any more."""
        step.ts = int(self._clock() * 1e6) / 1e6
        step.worker = self._worker
        self._add(step)

    def _add(self, line: Step | msgspec.Raw) -> None:
        self._waiting.append(line)
        if len(self._waiting) >= FLUSH_EVENTS:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered. A log that cannot be written never stops mail: the lines are dropped."""
        waiting, self._waiting = self._waiting, []
        pending = memoryview(_lines(waiting))
        while pending:
            try:
                pending = pending[os.write(self._fd, pending) :]
            except OSError:
                return


def _lines(events: list[Step | msgspec.Raw]) -> bytes:
    try:
        return _encode_lines(events)
    except (ValueError, TypeError):
        if len(events) == 1:
            log.exception("an event cannot be encoded")
            return b""
        # It takes no other along, nor the session in which the log is flushed.
        return b"".join(_lines([event]) for event in events)
