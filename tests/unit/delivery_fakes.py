"""A store in memory, hops that answer as told, and a clock that the test drives."""

import asyncio
import heapq
import itertools
from collections import deque

import msgspec

from postroad_transport.config import Drop, RetryPolicy, SendConnector, SendLimits
from postroad_transport.delivery.hop import Outcome, Result
from postroad_transport.delivery.queue import DeliveryQueue
from postroad_transport.message import Envelope, Recipient
from postroad_transport.policy.reply import Reply
from postroad_transport.routing.table import Route, Unroutable
from postroad_transport.spool.store import SpoolError
from postroad_transport.telemetry.metrics import Metrics

START = 1_700_000_000.0
DELIVERED = Outcome(Result.DELIVERED, "250 2.0.0 ok", "mx[192.0.2.1]:25", "TLSv1.3")
BUSY = Outcome(Result.DEFERRED, "450 4.2.0 mailbox busy", "mx[192.0.2.1]:25")
REFUSED = Outcome(Result.FAILED, "550 5.1.1 no such user", "mx[192.0.2.1]:25")
DEAD = Outcome(Result.DEFERRED, "451 4.4.1 connection refused")


class MemoryStore:
    """Holds what it is given, encoded, as a durable store would; `journal` tells the order of what happened."""

    def __init__(self):
        self.envelopes = {}
        self.contents = {}
        self.journal = []
        self.broken = set()

    def _do(self, verb, message_id):
        if verb in self.broken:
            raise SpoolError(f"{verb} is broken")
        self.journal.append((verb, message_id))

    async def commit(self, envelope, content):
        self._do("commit", envelope.id)
        self.envelopes[envelope.id] = msgspec.json.encode(envelope)
        self.contents[envelope.id] = b"".join(content)

    def settle(self, message_id):
        self._do("settle", message_id)
        del self.envelopes[message_id], self.contents[message_id]

    async def update(self, envelope):
        self._do("update", envelope.id)
        self.envelopes[envelope.id] = msgspec.json.encode(envelope)

    async def content(self, message_id):
        if "content" in self.broken:
            raise SpoolError("content is broken")
        return self.contents[message_id]

    async def scan(self):
        return [msgspec.json.decode(raw, type=Envelope) for raw in self.envelopes.values()]

    async def get(self, message_id):
        return msgspec.json.decode(self.envelopes[message_id], type=Envelope)

    async def close(self):
        pass


class Clock:
    """Time stands still until the test moves it."""

    def __init__(self):
        self.now = START
        self._calls = []
        self._sequence = itertools.count()

    def __call__(self):
        return self.now

    def call_later(self, seconds, call):
        timer = _Timer(call)
        heapq.heappush(self._calls, (self.now + seconds, next(self._sequence), timer))
        return timer

    async def advance(self, seconds):
        end = self.now + seconds
        while self._calls and self._calls[0][0] <= end:
            moment, _, timer = heapq.heappop(self._calls)
            self.now = max(self.now, moment)
            timer.fire()
            await turns()
        self.now = end
        await turns()


class _Timer:
    def __init__(self, call):
        self._call = call

    def cancel(self):
        self._call = None

    def fire(self):
        if self._call is not None:
            self._call()


async def turns(count=12):
    """Let the event loop run until the engine has nothing left to do at this moment."""
    for _ in range(count):
        await asyncio.sleep(0)


class FakeHop:
    """Answers with what `script` gives: an outcome, a list of them, an exception, or `default`."""

    def __init__(self, default=DELIVERED):
        self.default = default
        self.script = deque()
        self.attempts = []
        self.running = self.most_running = self.closed = 0
        self.gate = None

    async def deliver(self, envelope, recipients, content):
        self.attempts.append((envelope.id, [r.address for r in recipients], b"".join(content)))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.running -= 1
        answer = self.script.popleft() if self.script else self.default
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, list) else [answer] * len(recipients)

    async def close(self):
        self.closed += 1


class Events:
    """Remembers what is emitted."""

    def __init__(self):
        self.records = []

    def emit(self, event, **fields):
        self.records.append({"event": event, **{k: v for k, v in fields.items() if v is not None}})

    def step(self, step):
        self.records.append(msgspec.to_builtins(step))

    def of(self, *names):
        return [record for record in self.records if record["event"] in names]


class Table:
    """Routes a domain to the destination ``fake:DOMAIN``, unless `routes` says otherwise."""

    def __init__(self, routes=None, *, policy=None, limits=None, suspend=False):
        self.suspend = suspend
        self.routes = routes or {}
        self.policy = policy or RetryPolicy()
        self.limits = limits or SendLimits()

    def route(self, domain):
        if domain == "nowhere.test":
            return Unroutable(Reply(550, "5.4.4", "No route"))
        if domain == "later.test":
            return Unroutable(Reply(451, "4.4.4", "No route yet"))
        return make_route(
            self.routes.get(domain, f"fake:{domain}"), policy=self.policy, limits=self.limits, suspend=self.suspend
        )


def make_route(destination, *, policy=None, limits=None, target=None, suspend=False):
    connector = SendConnector(
        name="out",
        source="SendConnector/test/out",
        address_spaces=(),
        routing=Drop(),
        fqdn="mx.test",
        limits=limits or SendLimits(),
        retry=policy or RetryPolicy(),
        suspend=suspend,
    )
    return Route("out", destination, target or Drop(), connector, connector.retry)


class Tier:
    """A delivery queue with everything around it faked."""

    def __init__(self, store=None, *, policy=None, limits=None, routes=None, clock=None, **options):
        self.store = store or MemoryStore()
        self.clock = clock or Clock()
        self.events = Events()
        self.metrics = Metrics()
        self.hops = {}
        self.table = Table(routes, policy=policy, limits=limits)
        self._notices = itertools.count(1)
        self._messages = itertools.count(1)
        self.queue = DeliveryQueue(
            self.store,
            self.table,
            self.hop_for,
            metrics=self.metrics,
            events=self.events,
            hostname="mx.test",
            clock=self.clock,
            call_later=self.clock.call_later,
            uniform=lambda: 0.0,
            new_id=lambda: f"notice{next(self._notices)}",
            **options,
        )
        self.admin = self.queue.admin

    def hop_for(self, route):
        return self.hop(route.destination.removeprefix("fake:"))

    def hop(self, domain):
        return self.hops.setdefault(domain, FakeHop())

    async def accept(self, *recipients, sender="ann@here.test", content=b"Subject: hi\r\n\r\nhello\r\n", **fields):
        """Commit a message and hand it to the queue; recipients are addresses or `Recipient` values."""
        envelope = Envelope(
            **{
                "id": f"m{next(self._messages)}",
                "received_at": self.clock.now,
                "sender": sender,
                "recipients": [r if isinstance(r, Recipient) else Recipient(address=r) for r in recipients],
                "size": len(content),
                **fields,
            }
        )
        await self.store.commit(envelope, [content])
        self.queue.enqueue(envelope, [content])
        return envelope.id

    async def send(self, *recipients, **fields):
        """Accept a message and let the queue work on it."""
        message_id = await self.accept(*recipients, **fields)
        await turns()
        return message_id

    def counted(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels)
