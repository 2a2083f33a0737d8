"""A next hop that does as it is told: proper SMTP or LMTP by default, any fault on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from postroad_transport.config import (
    AddressSpace,
    DnsRouting,
    Host,
    Lmtp,
    RetryPolicy,
    SendConnector,
    SendLimits,
    SmartHostRouting,
    SmtpHost,
)
from postroad_transport.delivery.smtp_hop import HopSettings, SmtpHop, make_hop
from postroad_transport.message import Envelope, Recipient
from postroad_transport.routing.table import Route
from postroad_transport.telemetry.metrics import Metrics

EXTENSIONS = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
CLOSE = "close"
HANG = "hang"
Answer = bytes | str


@dataclass
class Transaction:
    mail: str
    recipients: list[str] = field(default_factory=list)
    data: bytes = b""


@dataclass
class Peer:
    """``answers`` maps a verb (``CONNECT``, ``MAIL``, ..., ``.`` for the end of the message) to what to say
    instead of yes: bytes as they are, CLOSE, or HANG; a list is used up one by one, the last one stays."""

    extensions: Sequence[str] = EXTENSIONS
    lmtp: bool = False
    answers: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    taken: list[Transaction] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    tls_context: Any = None
    port: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_server(self._session, "127.0.0.1", 0, limit=2**24)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def _answer(self, key: str, default: bytes) -> Answer:
        answer = self.answers.get(key, default)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return answer

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open.add(writer)
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self.open.discard(writer)
            writer.transport.abort() if task.cancelling() else writer.close()

    async def _say(self, writer: asyncio.StreamWriter, key: str, default: bytes) -> bytes:
        answer = self._answer(key, default)
        if answer == CLOSE:
            raise ConnectionResetError
        if answer == HANG:
            await asyncio.sleep(3600)
        assert isinstance(answer, bytes)
        writer.write(answer)
        await writer.drain()
        return answer

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._say(writer, "CONNECT", b"220 peer.example ESMTP\r\n")
        now = Transaction("")
        while line := await reader.readline():
            text = line.decode().rstrip("\r\n")
            self.commands.append(text)
            verb = text.partition(" ")[0].upper()
            if verb in ("EHLO", "LHLO"):
                lines = ["peer.example", *self.extensions]
                offer = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
                await self._say(writer, verb, offer.encode())
            elif verb == "MAIL":
                if (await self._say(writer, verb, b"250 2.1.0 sender ok\r\n")).startswith(b"2"):
                    now = Transaction(text)
            elif verb == "RCPT":
                if not now.mail and not self.answers.get("RCPT"):
                    writer.write(b"503 5.5.1 need MAIL first\r\n")
                elif (await self._say(writer, verb, b"250 2.1.5 recipient ok\r\n")).startswith(b"2"):
                    now.recipients.append(text)
            elif verb == "DATA":
                default = b"354 go on\r\n" if now.recipients else b"554 5.5.1 no valid recipients\r\n"
                if (await self._say(writer, verb, default)).startswith(b"354"):
                    data = bytearray()
                    while (line := await reader.readline()) != b".\r\n":
                        if not line:
                            return
                        data += line[1:] if line.startswith(b".") else line
                    now = await self._end(writer, now, bytes(data))
            elif verb == "BDAT":
                data = bytes(await reader.readexactly(int(text.split()[1])))
                now = await self._end(writer, now, data)
            elif verb in ("STARTTLS", "X-ANONYMOUSTLS"):
                if (await self._say(writer, verb, b"220 2.0.0 go\r\n")).startswith(b"220") and self.tls_context:
                    await writer.start_tls(self.tls_context)
            elif verb == "AUTH":
                await self._say(writer, verb, b"235 2.7.0 welcome\r\n")
            elif verb == "QUIT":
                await self._say(writer, verb, b"221 2.0.0 bye\r\n")
                return
            else:
                await self._say(writer, verb, b"250 2.0.0 ok\r\n")

    async def _end(self, writer: asyncio.StreamWriter, now: Transaction, data: bytes) -> Transaction:
        now.data = data
        positive = False
        for _ in range(len(now.recipients) if self.lmtp else 1):
            positive |= (await self._say(writer, ".", b"250 2.0.0 taken\r\n")).startswith(b"2")
        if positive:
            self.taken.append(now)
        return Transaction("")


def limits(**fields: Any) -> SendLimits:
    return SendLimits(**{"connect_timeout": 0.5, "command_timeout": 0.5, "data_timeout": 0.5, **fields})


def connector(routing: Any, **fields: Any) -> SendConnector:
    return SendConnector(
        **{
            "name": "out",
            "source": "SendConnector/mail/out",
            "address_spaces": (AddressSpace(domain="*"),),
            "routing": routing,
            "fqdn": "tier.example",
            "limits": limits(),
            **fields,
        }
    )


def settings(**fields: Any) -> HopSettings:
    def no_resolver(servers: tuple[str, ...]) -> Any:
        raise AssertionError("no DNS in this test")

    defaults = {
        "hostname": "tier.example",
        "resolver": no_resolver,
        "metrics": Metrics(),
        "read_secret": lambda name: b"",
    }
    return HopSettings(**{**defaults, **fields})


def hop_to(*ports: int, given: HopSettings | None = None, lmtp: bool = False, **fields: Any) -> SmtpHop:
    """A hop to ports of 127.0.0.1, through a send connector made of `fields`."""
    routing: Any
    if lmtp:
        routing = Lmtp(host="127.0.0.1", port=ports[0])
    else:
        routing = SmartHostRouting(hosts=tuple(Host(host="127.0.0.1", port=port) for port in ports))
    out = connector(routing, **fields)
    return make_hop(Route("out", "smarthost:out", routing, out, RetryPolicy()), given or settings())


def direct_hop(port: int) -> SmtpHop:
    target = SmtpHost(host="127.0.0.1", port=port)
    return make_hop(
        Route("smtp", f"smtp:127.0.0.1:{port}", target, None, RetryPolicy()), settings(hostname="tier.example")
    )


def dns_hop(domain: str, port: int, given: HopSettings, resolvers: tuple[str, ...] = (), **fields: Any) -> SmtpHop:
    routing = DnsRouting(port=port, resolvers=resolvers)
    out = connector(routing, **fields)
    return make_hop(Route("out", f"dns:{domain}", routing, out, RetryPolicy()), given)


def envelope(*recipients: str | Recipient, **fields: Any) -> Envelope:
    made = [Recipient(address=r) if isinstance(r, str) else r for r in recipients or ("r@d.example",)]
    return Envelope(**{"id": "m1", "received_at": 0.0, "sender": "s@o.example", "recipients": made, **fields})


MESSAGE = b"Subject: test\r\n\r\nhello\r\n"


async def deliver(hop: SmtpHop, *recipients: str | Recipient, content: Any = (MESSAGE,), **fields: Any) -> list[Any]:
    message = envelope(*recipients, **fields)
    return list(await hop.deliver(message, message.recipients, content))
