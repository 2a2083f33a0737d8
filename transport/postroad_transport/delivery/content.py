"""Message content in memory: what was just committed is delivered from here, within bounds."""

from __future__ import annotations

import asyncio
from collections import deque

from postroad_transport.message import Content
from postroad_transport.spool.store import Store


class ContentCache:
    """Keeps the content of fresh messages, and reads the rest back from the store.

    Parameters
    ----------
    store
        Where content is read back from.
    limit
        Bytes kept for fresh messages, and, apart from those, bytes read back at the same time. One message
        larger than the limit is still read, alone.
    """

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._kept: dict[str, tuple[Content, int]] = {}
        self._kept_bytes = 0
        self._loaded_bytes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def kept_bytes(self) -> int:
        """Bytes kept for fresh messages."""
        return self._kept_bytes

    def keep(self, message_id: str, content: Content, size: int) -> None:
        """Keep `content` if there is room; it must not change any more."""
        if self._kept_bytes + size <= self._limit:
            self._kept[message_id] = (content, size)
            self._kept_bytes += size

    def get(self, message_id: str) -> Content | None:
        """Return what is kept."""
        kept = self._kept.get(message_id)
        return kept[0] if kept is not None else None

    def drop(self, message_id: str) -> None:
        """Keep it no longer."""
        kept = self._kept.pop(message_id, None)
        if kept is not None:
            self._kept_bytes -= kept[1]

    async def load(self, message_id: str, size: int) -> Content:
        """Read content back when there is room for it; :meth:`unload` must follow unless this raises.

        Raises
        ------
        KeyError
            The store has no such message.
        SpoolError
            The store failed for now.
        """
        while self._loaded_bytes and self._loaded_bytes + size > self._limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._loaded_bytes += size
        try:
            return (await self._store.content(message_id),)
        except BaseException:
            self.unload(size)
            raise

    def unload(self, size: int) -> None:
        """Tell that content that was read back is no longer in use."""
        self._loaded_bytes -= size
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)
