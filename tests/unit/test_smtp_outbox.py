"""Replies of several sessions that leave together."""

from __future__ import annotations

import asyncio

from postroad_transport.smtp.writer import Outbox, ReplyWriter


class _Transport(asyncio.Transport):
    """Remembers what it is given, or breaks."""

    def __init__(self, *, broken: bool = False, closing: bool = False) -> None:
        super().__init__()
        self.broken, self.closing = broken, closing
        self.sent: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        if self.broken:
            raise RuntimeError("broken")
        self.sent.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted = True


async def test_replies_leave_at_the_end_of_the_turn_one_write_for_each_session():
    outbox = Outbox(asyncio.get_running_loop())
    transports = [_Transport(), _Transport()]
    writers = [ReplyWriter(transport, outbox) for transport in transports]
    for reply in (b"250 one\r\n", b"250 two\r\n"):
        for writer in writers:
            writer.write(reply)
    assert [transport.sent for transport in transports] == [[], []]
    await asyncio.sleep(0)
    assert [transport.sent for transport in transports] == [[b"250 one\r\n250 two\r\n"]] * 2


async def test_a_connection_that_breaks_takes_no_other_ones_replies_along(caplog):
    outbox = Outbox(asyncio.get_running_loop())
    broken, closed, good = _Transport(broken=True), _Transport(closing=True), _Transport()
    for transport in (broken, closed, good):
        writer = ReplyWriter(transport, outbox)
        writer.write(b"250 ok\r\n")
    await asyncio.sleep(0)
    assert good.sent == [b"250 ok\r\n"]
    assert closed.sent == []
    assert broken.aborted
    assert "could not be sent" in caplog.text


async def test_a_reply_that_must_leave_now_takes_those_before_it_along():
    outbox = Outbox(asyncio.get_running_loop())
    transport = _Transport()
    writer = ReplyWriter(transport, outbox)
    writer.write(b"250 ok\r\n")
    writer.write(b"220 go ahead\r\n")
    writer.flush()
    await asyncio.sleep(0)
    assert transport.sent == [b"250 ok\r\n220 go ahead\r\n"]
