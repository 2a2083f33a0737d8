"""The thread that a shard is used from."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator

import pytest

from postroad_transport.spool.thread import SpoolThread


@pytest.fixture
async def thread() -> AsyncIterator[SpoolThread]:
    made = SpoolThread()
    yield made
    made.stop()


async def test_functions_run_one_after_the_other_and_each_tells_how_it_ended(thread: SpoolThread) -> None:
    seen: list[int] = []
    calls = [thread.call(seen.append, number) for number in range(5)]
    with pytest.raises(ZeroDivisionError):
        await asyncio.gather(*calls, thread.call(divmod, 1, 0))
    assert seen == [0, 1, 2, 3, 4]
    assert await thread.call(divmod, 7, 2) == (3, 1)


async def test_what_was_handed_in_is_not_kept_until_something_else_is(thread: SpoolThread) -> None:
    class Batch:
        pass

    batch = Batch()
    gone = weakref.ref(batch)
    await thread.call(id, batch)
    del batch
    async with asyncio.timeout(5):
        while gone() is not None:
            await asyncio.sleep(0.001)
