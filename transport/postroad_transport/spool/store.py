"""The spool's interface: a few verbs, any store.

A store is durable: when :meth:`Store.commit` returns or the future of :meth:`Store.submit` has a result, the message
survives ``kill -9`` and power loss. It is used from one event loop; concurrent calls are grouped into one transaction
where that is cheaper.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import Protocol

from postroad_transport.message import Content, Envelope


class SpoolError(Exception):
    """The store failed for now; nothing was kept. The client gets 451."""


class SpoolFullError(SpoolError):
    """There is no room; nothing was kept. The client gets 452."""


class Store(Protocol):
    """Durable storage of queued messages."""

    def submit(self, envelope: Envelope, content: Content) -> Future[None]:
        """Begin to store a message durably; the future ends, well or not, within a bounded time.

        Cancelling the future takes the message back. The chunks of `content` must not change before it ends.

        Raises
        ------
        SpoolFullError, SpoolError
            See :meth:`commit`; here or from the future.
        """

    async def commit(self, envelope: Envelope, content: Content) -> None:
        """Store a message durably.

        Raises
        ------
        SpoolFullError
            No room on the disk.
        SpoolError
            Any other failure. In both cases nothing of the message is kept.
        """

    def settle(self, message_id: str) -> None:
        """Forget a message: every recipient is delivered or failed. It may ride on a later transaction."""

    async def update(self, envelope: Envelope) -> None:
        """Replace the stored envelope (deferral, hold, partial delivery); content stays."""

    async def content(self, message_id: str) -> bytes:
        """Return the whole content. Raises KeyError when there is no such message."""

    async def scan(self) -> Sequence[Envelope]:
        """Return every stored envelope, oldest first: recovery at start, and the queue listing."""

    async def get(self, message_id: str) -> Envelope:
        """Return one envelope. Raises KeyError when there is no such message."""

    async def close(self) -> None:
        """Finish what was handed in, then release the store."""
