"""Replies on their way out: collected, and written together when the input is used up (RFC 2920 section 3.2)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

log = logging.getLogger("postroad.smtp")


class Outbox:
    """The replies of one event loop, sent together when all that came in has been worked off.

    Each reply that is sent wakes a client, which on a busy machine takes the CPU away at once: sent one by one, a
    server and its clients would take turns for every command.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: list[ReplyWriter] = []

    def add(self, writer: ReplyWriter) -> None:
        """Send what `writer` has collected at the end of this turn."""
        if not self._due:
            self._loop.call_soon(self._send)
        self._due.append(writer)

    def _send(self) -> None:
        due, self._due = self._due, []
        for writer in due:
            try:
                if not writer.transport.is_closing():
                    writer.flush()
            except Exception:
                # One connection's fault: the others' replies still leave.
                log.exception("a reply could not be sent")
                writer.closed = True
                writer.transport.abort()


class ReplyWriter:
    """The part of :class:`asyncio.StreamWriter` that servers and handlers use, with one write per group."""

    def __init__(self, transport: asyncio.Transport, outbox: Outbox | None = None) -> None:
        self.transport = transport
        self._outbox = outbox
        self._pending: list[bytes] = []
        self.closed = False
        """Set here, or by the connection when it is lost: nothing can be sent any more."""

    def write(self, data: bytes) -> None:
        """Add to the group; it leaves at the end of this turn where there is an outbox, else with :meth:`flush`."""
        if self._outbox is not None and not self._pending:
            self._outbox.add(self)
        self._pending.append(data)

    def flush(self) -> None:
        """Hand the group to the transport, in one write."""
        pending = self._pending
        if pending and not self.closed:
            self.transport.write(b"".join(pending))
        pending.clear()

    def flush_soon(self) -> None:
        """Hand the group to the transport at the end of this turn of the event loop, at once without an outbox."""
        if self._outbox is None:
            self.flush()

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
