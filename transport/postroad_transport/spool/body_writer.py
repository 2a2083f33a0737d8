"""Group writing of bodies: contents gather while those before them are being written, and share the next flush.

On a thread of its own, so that small messages do not wait for large ones. Everything here runs on the event loop but
:meth:`Shard.write_bodies`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

from postroad_transport.message import Content
from postroad_transport.spool.batch import Commit
from postroad_transport.spool.group import GroupWriter
from postroad_transport.spool.shard import Shard
from postroad_transport.spool.store import SpoolError
from postroad_transport.spool.thread import SpoolThread
from postroad_transport.spool.trouble import Trouble

BATCH_CONTENTS = 512
BATCH_BYTES = 8 * 1024 * 1024
"""Contents, and bytes of them, from which on no more share a flush."""


class BodyWriter:
    """Writes contents to files, then hands their commits to `writer`.

    Parameters
    ----------
    stall
        Seconds after which a batch that is still being written fails the commits in it and behind it.
    """

    def __init__(self, shard: Shard, writer: GroupWriter, *, trouble: Trouble, stall: float) -> None:
        self._shard = shard
        self._writer = writer
        self._trouble = trouble
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._thread = SpoolThread()
        self._waiting: deque[tuple[Commit, Content]] = deque()
        self._stalled = False
        self._idle = asyncio.Event()
        self._idle.set()

    def commit(self, operation: Commit, content: Content) -> None:
        """Add a commit whose content goes to a file; its future tells the end.

        Raises
        ------
        SpoolError
            The disk stalls.
        """
        if self._stalled:
            raise SpoolError("the spool's disk stalls")
        self._waiting.append((operation, content))
        if self._idle.is_set():
            self._idle.clear()
            # Not at once: what else becomes ready in this turn of the loop belongs to the same batch.
            self._loop.call_soon(self._start)

    async def close(self) -> None:
        """Wait until everything handed in has been tried, then end the thread."""
        await self._idle.wait()
        self._thread.stop()

    def _start(self) -> None:
        commits: list[Commit] = []
        contents: list[Content] = []
        size = 0
        while self._waiting and len(commits) < BATCH_CONTENTS and size < BATCH_BYTES:
            commit, content = self._waiting.popleft()
            if not commit.future.done():  # its caller went away before it was begun
                commits.append(commit)
                contents.append(content)
                size += commit.size
        if not commits:
            self._idle.set()
            return
        stall_timer = self._loop.call_later(self._stall, self._give_up, commits)
        self._thread.start(
            self._shard.write_bodies, commits, contents, ended=partial(self._finish, commits, stall_timer)
        )

    def _finish(
        self,
        commits: Sequence[Commit],
        stall_timer: asyncio.Handle,
        failures: Mapping[Commit, SpoolError],
        error: BaseException | None,
    ) -> None:
        stall_timer.cancel()
        self._stalled = False
        if error is not None:
            failures = dict.fromkeys(commits, SpoolError(f"{type(error).__name__}: {error}"))
        self._trouble.record(failures.values())
        for commit in commits:
            if commit in failures and not commit.future.done():
                commit.future.set_exception(failures[commit])
            if commit.place is not None:  # where nobody waits for it any more, this removes it again
                self._writer.commit(commit)
        self._start()

    def _give_up(self, commits: Sequence[Commit]) -> None:
        self._stalled = True
        error = SpoolError("the spool's disk stalls")
        self._trouble.fail("stalled", error)
        for commit in (*commits, *(commit for commit, _ in self._waiting)):
            if not commit.future.done():
                commit.future.set_exception(error)
