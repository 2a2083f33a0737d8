"""A pipelined dialogue gets the replies of one that waits, however the network cuts it and whenever it ends."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from conftest import Tier, connector

from postroad_transport.config import ReceiveLimits
from postroad_transport.message import Content, Envelope
from postroad_transport.smtp.connection import HIGH_WATER
from postroad_transport.smtp.reception import Reception
from postroad_transport.smtp.replies import SHUTTING_DOWN
from postroad_transport.smtp.sessions import Sessions

BEGIN = (b"MAIL FROM:<a@client.example>\r\n", b"RCPT TO:<b@example.com>\r\n")
TEXT = b"Subject: a\r\n\r\nMAIL FROM:<x@client.example>\r\nRSET\r\n..\r\n.\r\n"
CHUNK = b"Subject: b\r\n\r\nNOOP\r\nRSET\r\nQUIT\r\n"
STEPS = (
    (*BEGIN, b"DATA\r\n", TEXT),
    (*BEGIN, b"DATA\r\n", TEXT),
    (*BEGIN, b"BDAT %d LAST\r\n%b" % (len(CHUNK), CHUNK)),
    (*BEGIN, b"BDAT %d\r\n%b" % (len(CHUNK), CHUNK), b"BDAT 5 LAST\r\nend\r\n", b"RSET\r\n"),
    (*BEGIN, b"DATA\r\n", b"Subject: " + b"x" * 5000 + b"\r\n\r\n.\r\n"),
    (b"BDAT 6 LAST\r\nRSET\r\n",),
    (BEGIN[0], b"RCPT TO:<b@elsewhere.example>\r\n", b"DATA\r\n", b"RSET\r\n"),
    (b"NOOP\r\n",),
    (b"STARTTLS x\r\n",),
    (b"EHLO again.example\r\n",),
    (b"bogus\r\n",),
    (b"QUIT\r\n",),
)
ROUNDS = 60


class Wire:
    """A transport that the test is the network of. With `rng`, its client does not always read at once."""

    def __init__(self, protocol: Reception, rng: random.Random | None = None) -> None:
        self.protocol = protocol
        self.rng = rng
        self.written = b""
        self.closing = False
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 4711) if name == "peername" else default

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.written += data
        if self.rng is not None and self.rng.random() < 0.2:
            self.protocol.pause_writing()
            asyncio.get_running_loop().call_later(0, self.protocol.resume_writing)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def replies(self) -> str:
        return re.sub(r"queued as \w+", "queued as ID", self.written.decode())


class SlowStore:
    """Stores in the next turn of the loop; with `rng`, some turns later."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self.rng = rng
        self.contents: list[bytes] = []

    def submit(self, envelope: Envelope, content: Content) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._store(content))

    async def _store(self, content: Content) -> None:
        await turns(self.rng.randrange(6) if self.rng else 0)
        self.contents.append(b"".join(content).partition(b"\r\nSubject: ")[2])


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def session(tier: Tier, store: SlowStore) -> Wire:
    protocol = Reception(Sessions(replace(tier.serving, store=store)), 0)
    wire = Wire(protocol, store.rng)
    protocol.connection_made(wire)  # type: ignore[arg-type]  # a stand-in for the transport
    return wire


async def finish(wire: Wire) -> str:
    """End the input; return all replies."""
    if not wire.closing:
        wire.protocol.eof_received()
    handler = wire.protocol._handler_coroutine
    assert handler is not None
    await asyncio.wait((handler,), timeout=5)
    assert handler.done()
    await turns(2)
    await turns(8)  # of what is still being stored
    assert wire.protocol.transport is None
    return wire.replies()


async def one_by_one(tier: Tier, commands: list[bytes]) -> tuple[str, list[bytes]]:
    store = SlowStore()
    wire = session(tier, store)
    for command in (b"", *commands):
        if not wire.closing:
            wire.protocol.data_received(command)
        await turns(8)
    return await finish(wire), store.contents


async def at_random(
    tier: Tier, rng: random.Random, dialogue: bytes, cut: Callable[[Wire], None] | None = None
) -> tuple[str, list[bytes]]:
    """Send `dialogue` in random pieces; `cut` does something to the session at a random point."""
    store = SlowStore(rng)
    wire = session(tier, store)
    await turns(rng.randrange(3))
    longest = rng.choice((8, 40, 400, 4000, 100_000))
    cut_at = rng.randint(0, len(dialogue))
    while dialogue and not wire.closing:
        if cut is not None and len(dialogue) <= cut_at:
            cut(wire)
            cut = None
        elif not wire.reading or rng.random() < 0.4:
            await asyncio.sleep(0)
        else:
            size = rng.randint(1, longest)
            wire.protocol.data_received(dialogue[:size])
            dialogue = dialogue[size:]
    await turns(rng.randrange(4))
    return await finish(wire), store.contents


@pytest.mark.parametrize("seed", range(4))
async def test_replies_do_not_depend_on_how_the_input_comes_nor_on_when_it_ends(make_tier, seed):
    tier = await make_tier(connector(limits=ReceiveLimits(errors=0)))
    rng = random.Random(seed)
    for number in range(ROUNDS):
        commands = [b"EHLO client.example\r\n"]
        for _ in range(rng.randint(1, 6)):
            commands += rng.choice(STEPS)
        if rng.random() < 0.5:
            commands = commands[: rng.randint(1, len(commands))]
            commands[-1] = commands[-1][: rng.randint(0, len(commands[-1]))]
        expected = await one_by_one(tier, commands)
        assert await at_random(tier, rng, b"".join(commands)) == expected, (number, commands)


def lose(wire: Wire) -> None:
    wire.closing = True
    wire.protocol.connection_lost(ConnectionResetError())


@pytest.mark.parametrize("cut", [lose, lambda wire: wire.protocol.shutdown()], ids=["lost", "shutdown"])
async def test_session_that_is_cut_off_has_answered_and_stored_a_beginning_of_what_came(make_tier, cut):
    tier = await make_tier(connector(limits=ReceiveLimits(errors=0)))
    rng = random.Random(1)
    for number in range(ROUNDS):
        commands = [b"EHLO client.example\r\n"]
        for _ in range(rng.randint(1, 6)):
            commands += rng.choice(STEPS)
        expected, stored = await one_by_one(tier, commands)
        replies, contents = await at_random(tier, rng, b"".join(commands), cut)
        told = replies.removesuffix(SHUTTING_DOWN.decode())
        assert expected.startswith(told), (number, commands)
        assert contents == stored[: len(contents)], (number, commands)
        if cut is not lose:
            assert len(contents) == replies.count("queued as"), (number, commands)


async def test_what_is_pipelined_behind_many_messages_is_not_read_ahead_without_bound(tier):
    wire = session(tier, store := SlowStore())
    wire.protocol.data_received(b"EHLO client.example\r\n")
    piece = b"".join((*BEGIN, b"DATA\r\n", TEXT, *BEGIN, b"BDAT %d LAST\r\n%b" % (len(CHUNK), CHUNK))) * 500
    while len(store.contents) < 1000:
        if wire.reading:
            wire.protocol.data_received(piece)
        assert len(wire.protocol._input) <= HIGH_WATER + 2 * len(piece)
        await asyncio.sleep(0)
    wire.close()
    await finish(wire)


async def test_chunk_that_comes_while_replies_wait_to_be_read_wakes_the_session(tier):
    wire = session(tier, store := SlowStore())
    wire.protocol.data_received(b"EHLO client.example\r\n" + b"".join(BEGIN))
    await turns(3)
    wire.protocol.data_received(b"BDAT 5 LAST\r\n")
    wire.protocol.pause_writing()
    await turns(2)
    wire.protocol.data_received(b"end\r\n")
    wire.protocol.resume_writing()
    await turns(5)
    assert "queued as ID" in wire.replies()
    assert len(store.contents) == 1
    await finish(wire)
