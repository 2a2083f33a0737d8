"""Replies on their way out: collected, and written together when the input is used up (RFC 2920 section 3.2)."""

from __future__ import annotations

import asyncio
from typing import Any, cast


class ReplyWriter:
    """The part of :class:`asyncio.StreamWriter` that servers and handlers use, with one write per group."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._pending: list[bytes] = []
        self.closed = False
        """Set here, or by the connection when it is lost: nothing can be sent any more."""

    def write(self, data: bytes) -> None:
        """Add to the group; it leaves with :meth:`flush`."""
        self._pending.append(data)

    def flush(self) -> None:
        """Hand the group to the transport, in one write."""
        pending = self._pending
        if not pending:
            return
        if not self.closed:
            self.transport.write(pending[0] if len(pending) == 1 else b"".join(pending))
        pending.clear()

    async def drain(self) -> None:
        """Hand the group over. How much the transport may hold is the connection's business."""
        self.flush()

    def is_closing(self) -> bool:
        """Tell whether the connection is closed or closing."""
        return self.transport.is_closing()

    def close(self) -> None:
        """Send what is pending, then close."""
        if not self.closed:
            self.flush()
            self.closed = True
        self.transport.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Ask the transport."""
        return cast("Any", self.transport.get_extra_info(name, default))
