"""The queue with a real store and real Maildirs: what is committed arrives, and survives a restart."""

import asyncio

import msgspec
import pytest

from postroad_transport.config import AcceptedDomain, Maildir, TierConfig
from postroad_transport.delivery.drop import DropHop
from postroad_transport.delivery.maildir import MaildirHop
from postroad_transport.delivery.queue import DeliveryQueue
from postroad_transport.message import Envelope, Recipient
from postroad_transport.routing.table import RoutingTable
from postroad_transport.spool.sqlite import SqliteStore
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics

CONFIG = TierConfig(
    tier="t",
    hostname="mx.test",
    accepted_domains=(AcceptedDomain(domain="here.test", source="s", deliver=Maildir(path="mail/{local}")),),
)


class Machine:
    """Everything that survives a restart is under one directory."""

    def __init__(self, path):
        self.path = path
        self.log = (path / "events").open("ab")

    async def start(self):
        metrics, events = Metrics(), EventLog(self.log.fileno())
        self.events = events
        self.store = await SqliteStore.open(self.path / "spool.sqlite", metrics=metrics, events=events)

        def hop(route):
            target = route.target
            return MaildirHop(target.path, self.path) if isinstance(target, Maildir) else DropHop()

        self.queue = DeliveryQueue(
            self.store, RoutingTable(CONFIG), hop, metrics=metrics, events=events, hostname="mx.test"
        )

    async def stop(self):
        await self.queue.drain(10)
        await self.store.close()
        self.events.flush()

    def steps(self):
        return [msgspec.json.decode(line) for line in (self.path / "events").read_bytes().splitlines()]


@pytest.fixture
async def machine(tmp_path):
    machine = Machine(tmp_path)
    await machine.start()
    yield machine
    machine.log.close()


def message(number, recipient="bob@here.test"):
    return Envelope(
        id=f"m{number}",
        received_at=1_700_000_000.0 + number,
        sender="ann@here.test",
        recipients=[Recipient(address=recipient)],
        size=17,
    )


async def test_committed_messages_arrive_once_and_leave_the_store(machine):
    for number in range(50):
        envelope, content = message(number), [b"Subject: x\r\n\r\n", b"y\r\n"]
        await machine.store.commit(envelope, content)
        machine.queue.enqueue(envelope, content)
    await machine.stop()
    # What was not started before the drain is there after the next start.
    await machine.start()
    await machine.queue.recover()
    while len(machine.queue):
        await _turn()
    await machine.stop()
    files = list((machine.path / "mail/bob/new").iterdir())
    assert len(files) == 50
    assert files[0].read_bytes().endswith(b"Subject: x\n\ny\n")
    assert len({step["id"] for step in machine.steps() if step["event"] == "SEND"}) == 50


async def test_a_message_committed_just_before_a_restart_is_delivered_after_it(machine):
    await machine.store.commit(message(1), [b"Subject: x\r\n\r\ny\r\n"])
    await machine.stop()
    await machine.start()
    assert await machine.queue.recover() == 1
    while len(machine.queue):
        await _turn()
    assert not await machine.store.scan()
    await machine.stop()
    assert len(list((machine.path / "mail/bob/new").iterdir())) == 1


async def test_a_failure_comes_back_as_a_notice_in_the_senders_maildir(machine):
    envelope, content = message(1, "eve@foreign.test"), [b"Subject: lost\r\n\r\ny\r\n"]
    await machine.store.commit(envelope, content)
    machine.queue.enqueue(envelope, content)
    while len(machine.queue):
        await _turn()
    assert not await machine.store.scan()
    await machine.stop()
    [notice] = (machine.path / "mail/ann/new").iterdir()
    text = notice.read_text()
    assert text.startswith("Return-Path: <>\n")
    assert "Status: 5.4.4" in text
    assert "Subject: lost" in text


async def _turn():
    await asyncio.sleep(0.001)
