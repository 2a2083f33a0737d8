"""What authentication keeps over a reload: pools of connections, caches of keys and of answers.

A source is made for one configuration of it, and shared by all who are configured alike. Each :class:`Lease` is held
by what was built from one configuration; when the last of them that uses a source is gone (a session still keeps what
it began with), the source is closed. A configuration that was only tried leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

log = logging.getLogger("postroad.auth")


class Source(Protocol):
    """Something that holds connections or tasks."""

    async def close(self) -> None:
        """Let go of them. Whoever still asks gets AuthUnavailableError."""


S = TypeVar("S", bound=Source)


class Lease:
    """The sources that one configuration uses. They live at least as long as this object."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._keys: set[Hashable] = set()
        weakref.finalize(self, sources.release, self._keys).atexit = False

    def use(self, key: Hashable, make: Callable[[], S]) -> S:
        """Return the source made for `key`, made now if there is none.

        `key` says all that `make` depends on: the type's name and its whole configuration, with the names of secret
        files, which hold a digest of the content. `make` may run in any thread and must not connect.
        """
        return self._sources.acquire(key, make, self._keys)


class Sources:
    """Every source of a worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_running_loop()
        # Reentrant: a collection in the middle of `acquire` may end a lease in the same thread.
        self._lock = threading.RLock()
        self._made: dict[Hashable, tuple[Source, int]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._made)

    def lease(self) -> Lease:
        """Return a lease that uses nothing yet."""
        return Lease(self)

    def acquire(self, key: Hashable, make: Callable[[], S], held: set[Hashable]) -> S:
        """Return the source for `key` and count it as used by whoever holds `held`."""
        with self._lock:
            source, users = self._made.get(key) or (make(), 0)
            self._made[key] = source, users + (key not in held)
            held.add(key)
        return source  # type: ignore[return-value]  # the key names the type

    def release(self, keys: set[Hashable]) -> None:
        """Count one user less of each; close what nobody uses. May be called in any thread."""
        with self._lock:
            for key in keys:
                source, users = self._made[key]
                if users > 1:
                    self._made[key] = source, users - 1
                else:
                    del self._made[key]
                    if not self._loop.is_closed():
                        self._loop.call_soon_threadsafe(self._close, source)

    async def close(self) -> None:
        """Close every source."""
        with self._lock:
            sources = [source for source, _ in self._made.values()]
        for source in sources:
            self._close(source)
        await asyncio.gather(*self._closing)

    def _close(self, source: Source) -> None:
        task = self._loop.create_task(_closed(source))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _closed(source: Source) -> None:
    try:
        await source.close()
    except Exception:
        log.exception("closing %s failed", type(source).__name__)
