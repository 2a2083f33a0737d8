"""Deadlines of a connection. A deadline moves by assignment; the loop's timer is armed again only when it fires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


def extend_for_progress(deadline: float, now: float, received: int, *, idle: float, minimum_rate: float) -> float:
    """Return the deadline of a sender of content that has just sent `received` bytes.

    Every byte buys 1 / `minimum_rate` seconds, up to `idle` seconds from `now`: a sender above that rate is
    never cut however long the message, one that drips below it is. Seconds, and bytes per second.
    """
    return min(now + idle, deadline + received / minimum_rate)


class DeadlineTimer:
    """Calls `expired` when the deadline has passed."""

    __slots__ = ("_armed", "_expired", "_handle", "_loop", "deadline", "limit")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._handle: asyncio.TimerHandle | None = None
        self._armed = 0.0
        self.deadline = 0.0
        self.limit = inf
        """A deadline that does not move, whatever the other does; loop time."""

    def start(self, seconds: float) -> None:
        """Set the deadline `seconds` from now, and see to it that the timer fires by then."""
        self.deadline = deadline = self._loop.time() + seconds
        if self._handle is None or min(deadline, self.limit) < self._armed:
            self.cancel()
            self._arm()

    def postpone(self, seconds: float) -> None:
        """Move the deadline to `seconds` from now: an assignment, on the path of every command."""
        self.deadline = self._loop.time() + seconds

    def cancel(self) -> None:
        """Stop."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        self._armed = min(self.deadline, self.limit)
        self._handle = self._loop.call_at(self._armed, self._fire)

    def _fire(self) -> None:
        self._handle = None
        if self._loop.time() < min(self.deadline, self.limit):
            self._arm()
        else:
            self._expired()
