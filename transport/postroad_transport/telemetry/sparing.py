"""Events that a client can cause by the thousand: a few of each kind are logged, the others counted."""

from __future__ import annotations

from typing import Any

from postroad_transport.telemetry.events import EventLog


class SparingLog:
    """Lets so many events of a kind through in each period.

    The first one of the next period says how many were left out (``left_out``). Kinds are few fixed words.

    Parameters
    ----------
    most
        Events of one kind in a period.
    period
        Seconds.
    """

    def __init__(self, *, most: int = 10, period: float = 60.0) -> None:
        self._most = most
        self._period = period
        self._counts: dict[tuple[str, str], tuple[float, int]] = {}

    def emit(self, log: EventLog, event: str, *, kind: str, now: float, **fields: Any) -> None:
        """Log one event, or count it. `now` is in seconds; `kind` is no field of the event."""
        begun, count = self._counts.get((event, kind), (now, 0))
        left_out = 0
        if now - begun >= self._period:
            left_out = max(0, count - self._most)
            begun, count = now, 0
        self._counts[event, kind] = (begun, count + 1)
        if count < self._most:
            log.emit(event, **fields, left_out=left_out or None)
