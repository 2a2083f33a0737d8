"""Tasks that work off entries: as many as there is work, and reused, since a task for each message costs more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from postroad_transport.delivery.scheduler import Entry

_IDLE_RUNNERS = 64
"""Tasks kept waiting for work."""


class RunnerPool:
    """Runs `handle` on the entries that `take` gives.

    Parameters
    ----------
    take
        Gives the next entry that may start now, or None.
    handle
        Works one off; must not raise.
    most
        Entries worked on at once.
    """

    def __init__(
        self, take: Callable[[], Entry | None], handle: Callable[[Entry], Awaitable[None]], most: int
    ) -> None:
        self._take = take
        self._handle = handle
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._busy = 0
        self._idle: list[asyncio.Future[Entry]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._quiet = asyncio.Event()

    def dispatch(self) -> None:
        """Start what may start."""
        while self._busy < self._most and not self._stopped:
            entry = self._take()
            if entry is None:
                return
            self._busy += 1
            if self._idle:
                self._idle.pop().set_result(entry)
            else:
                self.spawn(self._run(entry))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside; it ends with the pool at the latest."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self, seconds: float) -> int:
        """Start nothing more; give what runs `seconds` to end; return how many were cut off."""
        self._stopped = True
        self._quiet.clear()
        if self._busy:
            try:
                async with asyncio.timeout(seconds):
                    await self._quiet.wait()
            except TimeoutError:
                pass
        cut = self._busy
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return cut

    async def _run(self, entry: Entry) -> None:
        while True:
            await self._handle(entry)
            following = None if self._stopped else self._take()
            if following is not None:
                entry = following
                self.dispatch()
                continue
            self._busy -= 1
            if not self._busy:
                self._quiet.set()
            if self._stopped or len(self._idle) >= _IDLE_RUNNERS:
                return
            idle = self._loop.create_future()
            self._idle.append(idle)
            entry = await idle
