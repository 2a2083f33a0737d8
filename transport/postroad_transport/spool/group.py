"""Group commit: operations gather while the batch before them is being written.

A batch is one transaction and one flush, on a thread of its own; its end is told to the event loop once. Under load
batches grow by themselves, helped by a short wait (:mod:`.gathering`), and an idle store commits at once. Everything
here runs on the event loop but :meth:`Shard.apply`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from postroad_transport.spool.batch import Batch, Commit, Operation, Settle, Update
from postroad_transport.spool.gathering import GATHER, Gathering
from postroad_transport.spool.shard import Shard
from postroad_transport.spool.store import SpoolError
from postroad_transport.spool.thread import SpoolThread
from postroad_transport.spool.trouble import Trouble
from postroad_transport.telemetry.metrics import Metrics

LINGER = 0.05
"""Seconds that a settlement waits for a commit to ride on."""
RETRY = 1.0
"""Seconds until settlements that failed are tried again."""
BATCH_OPERATIONS = 512
BATCH_BYTES = 8 * 1024 * 1024

_T = TypeVar("_T")


class GroupWriter:
    """Writes operations to one shard in batches.

    Parameters
    ----------
    stall
        Seconds after which a batch that is still being written fails the operations in it and behind it. What it
        commits in the end is removed again, since its client was told 451.
    """

    def __init__(self, shard: Shard, *, metrics: Metrics, trouble: Trouble, stall: float) -> None:
        self._shard = shard
        self._metrics = metrics
        self._trouble = trouble
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._thread = SpoolThread()
        self._commits: deque[Commit] = deque()
        self._updates: deque[Update] = deque()
        self._settles: deque[Settle] = deque()
        self._running: Batch | None = None
        self._scheduled: asyncio.Handle | None = None
        self._urgent = False
        self._waits = False
        self._gathering = Gathering()
        self._stalled = False
        self._idle: asyncio.Future[None] | None = None
        self._closed = False

    async def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Run a method of the shard on its thread. Raises what it raises, and SpoolError after the end."""
        if self._closed:
            raise SpoolError("the spool is closed")
        return await self._thread.call(function, *arguments)

    def future(self) -> asyncio.Future[None]:
        """Return a future for a new operation. Raises SpoolError while the disk stalls, and after the end."""
        if self._closed:
            raise SpoolError("the spool is closed")
        if self._stalled:
            raise SpoolError("the spool's disk stalls")
        return self._loop.create_future()

    def commit(self, operation: Commit) -> None:
        """Add a commit; its future tells the end."""
        if self._stalled and not operation.future.done():
            operation.future.set_exception(SpoolError("the spool's disk stalls"))
        self._commits.append(operation)
        running = self._running
        self._gathering.outstanding(len(self._commits) + (len(running.commits) if running is not None else 0))
        self._schedule_now()

    def update(self, operation: Update) -> None:
        """Add an update; its future tells the end."""
        self._updates.append(operation)
        self._schedule_now()

    def settle(self, operation: Settle) -> None:
        """Add a settlement, which waits up to `LINGER` for company and is repeated until it succeeds."""
        self._settles.append(operation)
        if not self._closed and self._running is None and self._scheduled is None:
            self._scheduled = self._loop.call_later(LINGER, self._start)

    async def close(self, finish: Callable[[], None]) -> None:
        """Wait until everything handed in has been tried; run `finish` on the thread, then end it."""
        if self._running is not None or self._commits or self._updates or self._settles:
            self._idle = self._loop.create_future()
            if self._running is None:
                self._schedule_now()
            await self._idle
        self._closed = True
        try:
            await self._thread.call(finish)
        finally:
            self._thread.stop()

    def _schedule_now(self) -> None:
        if self._running is not None:
            return
        gather = len(self._commits) < self._gathering.enough and not self._updates and self._idle is None
        if self._urgent and (gather or not self._waits):
            return
        if self._scheduled is not None:
            self._scheduled.cancel()
        self._urgent, self._waits = True, gather
        # Not at once: what else becomes ready in this turn of the loop belongs to the same batch.
        self._scheduled = self._loop.call_later(GATHER, self._start) if gather else self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._scheduled, self._urgent = None, False
        batch = self._take()
        if not batch:
            self._continue(batch_failed=False)
            return
        self._gathering.batch_begins()
        self._running = batch
        stall_timer = self._loop.call_later(self._stall, self._give_up)
        self._thread.start(self._shard.apply, batch, ended=partial(self._finish, batch, stall_timer))

    def _take(self) -> Batch:
        batch = Batch()
        size = 0
        while self._commits and len(batch.commits) < BATCH_OPERATIONS and size < BATCH_BYTES:
            commit = self._commits.popleft()
            if commit.future.done():  # its caller went away before it was begun
                self._abandon(commit)
                continue
            size += len(commit.content or b"")
            batch.commits.append(commit)
        for _ in range(min(len(self._updates), BATCH_OPERATIONS)):
            batch.updates.append(self._updates.popleft())
        for _ in range(min(len(self._settles), BATCH_OPERATIONS)):
            batch.settles.append(self._settles.popleft())
        return batch

    def _finish(
        self,
        batch: Batch,
        stall_timer: asyncio.Handle,
        failures: Mapping[Operation, SpoolError],
        error: BaseException | None,
    ) -> None:
        stall_timer.cancel()
        self._running = None
        self._stalled = False
        failures = (
            failures
            if error is None
            else {operation: SpoolError(f"{type(error).__name__}: {error}") for operation in batch.operations()}
        )
        self._record(batch, failures)
        for operation in batch.awaited():
            failure = failures.get(operation)
            wanted = not operation.future.done()
            if failure is None and wanted:
                operation.future.set_result(None)
            elif failure is not None and wanted:
                operation.future.set_exception(failure)
            if isinstance(operation, Commit) and (operation.place if failure is not None else not wanted):
                self._abandon(operation)
        self._settles.extendleft(settle for settle in batch.settles if settle in failures)
        if self._shard.checkpoint_due:
            # Beside the answers to this batch, which SQLite's own checkpoint, within COMMIT, would hold back.
            self._thread.start(self._shard.checkpoint, ended=lambda *_: None)
        self._continue(batch_failed=bool(failures))

    def _continue(self, *, batch_failed: bool) -> None:
        if self._commits or self._updates:
            self._schedule_now()
        elif self._idle is not None and (batch_failed or not self._settles):
            if not self._idle.done():
                self._idle.set_result(None)
        elif self._idle is not None:
            self._schedule_now()
        elif self._settles and self._scheduled is None:
            self._scheduled = self._loop.call_later(RETRY if batch_failed else LINGER, self._start)

    def _give_up(self) -> None:
        self._stalled = True
        running = self._running or Batch()
        error = SpoolError("the spool's disk stalls")
        self._trouble.fail("stalled", error)
        for operation in (*running.awaited(), *Batch([*self._commits], [*self._updates]).awaited()):
            if not operation.future.done():
                operation.future.set_exception(error)
        self._updates.clear()

    def _abandon(self, commit: Commit) -> None:
        """Remove what may have been stored of a message that nobody waits for any more."""
        self._settles.append(Settle(commit.seq, commit.place))

    def _record(self, batch: Batch, failures: Mapping[Operation, SpoolError]) -> None:
        if len(failures) < len(batch):
            self._metrics.spool_commits.inc()
            self._metrics.spool_batch.observe(len(batch) - len(failures))
        self._trouble.record(failures.values())
