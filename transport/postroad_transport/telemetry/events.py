"""The event log: one JSON object a line, for each step of a message's life and each thing worth knowing.

Message steps are RECEIVE, ROUTE, SEND, DEFER, FAIL, DSN, EXPIRE and carry ``id``, the message's identifier
that also stands in its ``Received:`` header. Other events are lower-case words such as ``session.refused``.
Never put a password, a key or a SASL response in an event.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode

FLUSH_BYTES = 64 * 1024


class EventLog:
    """Buffers encoded lines and writes them to a file descriptor in whole lines.

    Encoding is a few microseconds; the write is postponed to :meth:`flush`, which the worker calls on a
    timer (and the buffer calls itself when it is full), so that the hot path never waits for the disk.
    """

    def __init__(self, fd: int, *, clock: Callable[[], float] = time.time, **constant: Any) -> None:
        self._fd = fd
        self._clock = clock
        self._constant = constant
        self._starts: dict[str, bytes] = {}
        self._buffer = bytearray()

    def emit(self, event: str, **fields: Any) -> None:
        """Add one event. Values must be JSON-encodable; `None` values are left out."""
        if None in fields.values():
            fields = {name: value for name, value in fields.items() if value is not None}
        start = self._starts.get(event)
        if start is None:
            start = self._starts[event] = _encode({"event": event, **self._constant})[1:-1]
        rest = b"," + _encode(fields)[1:] if fields else b"}"
        self._buffer += b'{"ts":%.6f,%b%b\n' % (self._clock(), start, rest)
        if len(self._buffer) >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered. A log that cannot be written never stops mail: the lines are dropped."""
        pending, self._buffer = memoryview(bytes(self._buffer)), bytearray()
        while pending:
            try:
                pending = pending[os.write(self._fd, pending) :]
            except OSError:
                return
