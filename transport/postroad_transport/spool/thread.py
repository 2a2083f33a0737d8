"""The thread that a shard is used from.

:class:`concurrent.futures.ThreadPoolExecutor` does the same at several times the cost: two futures, a condition and a
semaphore for each call, and a call for each batch of commits is many.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")

_Job = tuple[Callable[..., Any], tuple[Any, ...], Callable[[Any, BaseException | None], None]]


class SpoolThread:
    """Runs one function after the other, and tells the event loop it was made in how each ended."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        Thread(target=self._run, name="spool", daemon=True).start()

    def start(
        self, function: Callable[..., _T], *arguments: object, ended: Callable[[_T, BaseException | None], None]
    ) -> None:
        """Run `function`; `ended` is called on the loop, with the result or with the exception."""
        self._jobs.put((function, arguments, ended))

    async def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Run `function` and return its result. Raises what it raises."""
        future: asyncio.Future[_T] = self._loop.create_future()

        def ended(result: _T, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.start(function, *arguments, ended=ended)
        return await future

    def stop(self) -> None:
        """End once everything handed in has been run."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._do(*job)
            del job  # or the last batch would be kept until the next one comes

    def _do(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        ended: Callable[[Any, BaseException | None], None],
    ) -> None:
        result, failure = None, None
        try:
            result = function(*arguments)
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(ended, result, failure)
