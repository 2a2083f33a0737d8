"""Lets password checks begin when it is their turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from postroad_transport.auth.fair_queue import FairQueue, Origin, SentAway, Ticket
from postroad_transport.auth.passwords import AuthUnavailableError
from postroad_transport.telemetry.metrics import Metrics

T = TypeVar("T")


class OverloadedError(AuthUnavailableError):
    """Too many passwords wait to be checked, and others come first."""

    def __init__(self) -> None:
        super().__init__("too many logins are being checked")


class CheckGate:
    """A :class:`FairQueue` for the coroutines of one event loop.

    Parameters
    ----------
    source
        What checks the passwords: a label value of the metrics.
    clock
        Seconds, as the loop counts them.
    """

    def __init__(
        self,
        source: str,
        queue: FairQueue,
        metrics: Metrics | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._queue = queue
        self._metrics = metrics
        self._clock = clock
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._queue)

    async def run(self, origin: Origin, check: Callable[[], Awaitable[T]]) -> T:
        """Await `check` when it is its turn, and return what it returns: something true for a right password.

        Raises
        ------
        OverloadedError
            There is no turn.
        Exception
            What `check` raises: then nobody knows whether the password is right.
        """
        ticket, last = self._queue.join(origin, self._clock())
        if last is ticket:
            self._count(SentAway.CROWDED)
            raise OverloadedError
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        right: bool | None = None
        try:
            if last is not None:
                self._send_away(last, SentAway.CROWDED)
            self._advance()
            await turn
            answer = await check()
            right = bool(answer)
            return answer
        finally:
            self._turns.pop(ticket, None)
            self._queue.leave(ticket, right, self._clock())
            self._advance()

    def close(self) -> None:
        """Send away whoever waits."""
        for ticket in list(self._turns):
            self._queue.leave(ticket, None, self._clock())
            self._send_away(ticket, SentAway.CROWDED)

    def _advance(self) -> None:
        now = self._clock()
        for ticket in self._queue.impatient(now):
            self._send_away(ticket, SentAway.PATIENCE)
        while (begun := self._queue.next(now)) is not None:
            turn = self._turns.pop(begun)
            if turn.cancelled():  # its own coroutine has not come to know yet
                self._queue.leave(begun, None, now)
                continue
            turn.set_result(None)
            if self._metrics is not None:
                kind = "paced" if begun.paced else "free"
                self._metrics.password_wait_seconds.labels(self._source, kind).observe(now - begun.since)
        self._arm(now)

    def _arm(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        seconds = self._queue.wait(now)
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._advance)

    def _send_away(self, ticket: Ticket, why: SentAway) -> None:
        turn = self._turns.pop(ticket)
        if turn.done():
            return
        turn.set_exception(OverloadedError())
        self._count(why)

    def _count(self, why: SentAway) -> None:
        if self._metrics is not None:
            self._metrics.passwords_sent_away.labels(self._source, why).inc()
