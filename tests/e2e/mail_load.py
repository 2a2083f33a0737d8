"""A client that sends many messages over many sessions and knows which of them were acknowledged."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class Load:
    """Recipients by what the server said: ``acknowledged`` got a 250 after the final dot."""

    acknowledged: set[str] = field(default_factory=set)
    attempted: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, count: int) -> None:
        """Wait until `count` messages are acknowledged."""
        while len(self.acknowledged) < count:
            self.changed.clear()
            await self.changed.wait()


async def send_all(port: int, recipients: list[str], load: Load, *, sessions: int = 20, size: int = 4096) -> None:
    """Send one message to each recipient; a session that breaks reconnects and sends its message again."""
    todo = list(reversed(recipients))
    body = (b"x" * 76 + b"\r\n") * (size // 78)

    async def session() -> None:
        while todo:
            recipient = todo.pop()
            while True:
                try:
                    await exchange(recipient)
                    break
                except (OSError, asyncio.IncompleteReadError):
                    streams.clear()
                    await asyncio.sleep(0.05)

    async def exchange(recipient: str) -> None:
        me = asyncio.current_task()
        if me not in streams:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await expect(reader, b"220")
            writer.write(b"EHLO load.example\r\n")
            await expect(reader, b"250")
            streams[me] = (reader, writer)
        reader, writer = streams[me]
        load.attempted.add(recipient)
        writer.write(b"MAIL FROM:<load@client.example>\r\nRCPT TO:<%s>\r\nDATA\r\n" % recipient.encode())
        await expect(reader, b"250")
        await expect(reader, b"250")
        await expect(reader, b"354")
        writer.write(b"From: load@client.example\r\nSubject: %s\r\n\r\n" % recipient.encode() + body + b".\r\n")
        await expect(reader, b"250")
        load.acknowledged.add(recipient)
        load.changed.set()

    streams: dict[asyncio.Task[None] | None, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
    await asyncio.gather(*(session() for _ in range(sessions)))
    for _, writer in streams.values():
        writer.close()


async def expect(reader: asyncio.StreamReader, code: bytes) -> None:
    """Read one reply; anything but `code` ends the session."""
    while True:
        line = await reader.readuntil(b"\r\n")
        if line[:3] != code:
            raise ConnectionResetError(line.decode())
        if line[3:4] == b" ":
            return
