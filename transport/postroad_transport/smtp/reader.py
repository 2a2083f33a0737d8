"""A stream reader's face on a connection's input, for code written against asyncio streams."""

from __future__ import annotations

import asyncio

from postroad_transport.smtp.connection import Connection


class BufferReader:
    """The reading methods of :class:`asyncio.StreamReader`; the end of input raises Disconnected."""

    def __init__(self, connection: Connection, limit: int) -> None:
        self._connection = connection
        self._limit = limit

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """Read up to and with `separator`. Raises LimitOverrunError when it does not come."""
        source = self._connection._input
        while (found := source.find(separator)) < 0:
            if len(source) > self._limit:
                raise asyncio.LimitOverrunError("separator is not found, and the limit is exceeded", len(source))
            await self._connection._more_input()
        return source.take(found + len(separator))

    async def readline(self) -> bytes:
        """Read a line that ends with LF."""
        return await self.readuntil(b"\n")

    async def read(self, n: int = -1) -> bytes:
        """Read at least one byte and at most `n`."""
        source = self._connection._input
        while not len(source):
            await self._connection._more_input()
        return source.take(n if n >= 0 else None)

    async def readexactly(self, n: int) -> bytes:
        """Read `n` bytes."""
        source = self._connection._input
        while len(source) < n:
            await self._connection._more_input()
        return source.take(n)
