"""A receiving tier in the test's own loop: real sockets, an in-memory store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from postroad_transport.auth.ban_store import BanStore
from postroad_transport.auth.sources import Sources
from postroad_transport.config import (
    AcceptedDomain,
    AddressSpace,
    Binding,
    Drop,
    Grant,
    Permission,
    Principal,
    ReceiveConnector,
    SendConnector,
    TierConfig,
)
from postroad_transport.message import Content, Envelope
from postroad_transport.smtp.listener import Listeners
from postroad_transport.smtp.serving import Serving, prepare
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """Run what is about TLS on both event loops: they do it differently."""
    if item.path.name in ("test_smtp_tls_auth.py", "test_smtp_anonymous_tls.py"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


class MemoryStore:
    """A store that keeps messages in a list, and can be made slow or broken."""

    def __init__(self) -> None:
        self.messages: list[tuple[Envelope, bytes]] = []
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self.error: Exception | None = None
        self.arrived = asyncio.Event()

    def submit(self, envelope: Envelope, content: Content) -> asyncio.Future[None]:
        return asyncio.ensure_future(self.commit(envelope, content))

    async def commit(self, envelope: Envelope, content: Content) -> None:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.messages.append((envelope, b"".join(content)))
        self.arrived.set()


class Line:
    """A client on a raw socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> str:
        """Return one reply; the lines of a multiline one are joined with newlines."""
        lines = []
        while True:
            line = (await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 5)).decode().removesuffix("\r\n")
            lines.append(line)
            if line[3:4] != "-":
                return "\n".join(lines)

    async def ask(self, command: bytes | str) -> str:
        await self.send((command.encode() if isinstance(command, str) else command) + b"\r\n")
        return await self.reply()

    async def script(self, *commands: str) -> list[str]:
        return [await self.ask(command) for command in commands]

    async def at_end(self) -> bool:
        """Tell whether the server closed, with nothing more to say."""
        return await asyncio.wait_for(self.reader.read(), 5) == b""

    async def start(self) -> None:
        """Read the greeting and greet."""
        await self.reply()
        await self.ask("EHLO client.example")

    async def begin(self) -> None:
        """Go as far as the 354."""
        await self.start()
        replies = await self.script("MAIL FROM:<a@client.example>", "RCPT TO:<b@example.com>", "DATA")
        assert [reply[:3] for reply in replies] == ["250", "250", "354"], replies

    def close(self) -> None:
        self.writer.close()


@dataclass
class Tier:
    """The tier under test."""

    listeners: Listeners
    serving: Serving
    store: MemoryStore
    metrics: Metrics
    committed: list[str]
    events_file: Path
    lines: list[Line] = field(default_factory=list)

    @property
    def ports(self) -> list[int]:
        return [bound.port for bound in self.listeners.bound()]

    async def connect(self, index: int = 0, **options: Any) -> Line:
        line = Line(*await asyncio.open_connection("127.0.0.1", self.ports[index], **options))
        self.lines.append(line)
        return line

    def count(self, name: str, **labels: str) -> float:
        """Return a metric summed over what `labels` leaves open."""
        total = 0.0
        for family in self.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total += sample.value
        return total

    def events(self) -> str:
        self.serving.events.flush()
        return self.events_file.read_text()


def anonymous(*permissions: Permission) -> tuple[Grant, ...]:
    return tuple(Grant(principal=Principal.ANONYMOUS, permission=permission) for permission in permissions)


INTERNET = anonymous(Permission.SUBMIT, Permission.ACCEPT_ANY_SENDER, Permission.ACCEPT_HEADERS_ROUTING)


def connector(**fields: Any) -> ReceiveConnector:
    defaults: dict[str, Any] = {
        "name": "internet",
        "source": "ReceiveConnector/mail/internet",
        "bindings": (Binding(port=0),),
        "remote_ip_ranges": ("0.0.0.0/0", "::/0"),
        "fqdn": "mail.example.com",
        "grants": INTERNET,
    }
    return ReceiveConnector(**{**defaults, **fields})


def tier_config(*connectors: ReceiveConnector, **fields: Any) -> TierConfig:
    defaults: dict[str, Any] = {
        "tier": "mail",
        "hostname": "mail.example.com",
        "receive_connectors": connectors or (connector(),),
        "accepted_domains": (AcceptedDomain(domain="example.com", source="AcceptedDomain/mail/example"),),
        "send_connectors": (
            SendConnector(
                name="out",
                source="SendConnector/mail/out",
                address_spaces=(AddressSpace(domain="*"),),
                routing=Drop(),
                fqdn="mail.example.com",
            ),
        ),
    }
    return TierConfig(**{**defaults, **fields})


MakeTier = Callable[..., Awaitable[Tier]]


@pytest.fixture
async def make_tier(tmp_path: Path) -> AsyncIterator[MakeTier]:
    """Start a tier from receive connectors; keyword arguments replace fields of the Serving."""
    made: list[Tier] = []
    sources = Sources()

    async def make(
        *connectors: ReceiveConnector,
        config: TierConfig | None = None,
        bans: BanStore | None = None,
        **replaced: Any,
    ) -> Tier:
        store, metrics, committed = MemoryStore(), Metrics(), []
        events_file = tmp_path / f"events{len(made)}.jsonl"
        events = EventLog(os.open(events_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        serving = prepare(
            config or tier_config(*connectors),
            tmp_path,
            store=store,
            metrics=metrics,
            events=events,
            sources=sources,
            bans=bans,
            on_committed=lambda envelope, content: committed.append(envelope.id),
        )
        serving = replace(serving, **replaced)
        listeners = Listeners(("127.0.0.1",), reuse_port=False)
        await listeners.apply(serving)
        tier = Tier(listeners, serving, store, metrics, committed, events_file)
        made.append(tier)
        return tier

    yield make
    for tier in made:
        for line in tier.lines:
            line.close()
        if tier.store.gate is not None:
            tier.store.gate.set()
        await tier.listeners.drain(0)
        os.close(tier.serving.events._fd)
    await sources.close()


@pytest.fixture
async def tier(make_tier: MakeTier) -> Tier:
    return await make_tier()
