"""Hops kept per destination, and the hop for what has no route."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from postroad_transport.delivery.hop import Hop, Outcome, Result
from postroad_transport.message import Content, Envelope, Recipient
from postroad_transport.routing.table import Route, Unroutable

HopFactory = Callable[[Route], Hop]

IDLE_SECONDS = 60.0
"""How long an unused hop is kept."""


class UnroutableHop(Hop):
    """Answers for the domains that nothing covers.

    Parameters
    ----------
    resolve
        Routes a domain; asked at each attempt.
    """

    def __init__(self, resolve: Callable[[str], Route | Unroutable]) -> None:
        self._resolve = resolve

    async def deliver(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: Content
    ) -> Sequence[Outcome]:
        """Return the routing table's verdict for each recipient."""
        return [self._outcome(recipient.address.rpartition("@")[2]) for recipient in recipients]

    async def close(self) -> None:
        """Hold nothing, release nothing."""

    def _outcome(self, domain: str) -> Outcome:
        found = self._resolve(domain)
        if isinstance(found, Unroutable):
            result = Result.DEFERRED if found.reply.code < 500 else Result.FAILED
            return Outcome(result, found.reply.line)
        return Outcome(Result.DEFERRED, "451 4.4.4 The route has just changed")


@dataclass(slots=True, eq=False)
class Held:
    """A hop and who uses it."""

    hop: Hop
    route: Route
    users: int = 0
    last_used: float = 0.0
    retired: bool = False


class HopCache:
    """Makes hops on demand, one per destination, and closes them when idle or replaced.

    Parameters
    ----------
    factory
        Makes the hop for a route.
    """

    def __init__(self, factory: HopFactory) -> None:
        self._factory = factory
        self._held: dict[str, Held] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def acquire(self, route: Route) -> Held:
        """Return the hop for `route`; :meth:`release` must follow."""
        held = self._held.get(route.destination)
        if held is None or (held.route is not route and held.route != route):
            if held is not None:
                self._retire(held)
            held = self._held[route.destination] = Held(self._factory(route), route)
        held.users += 1
        return held

    def release(self, held: Held, now: float) -> None:
        """Tell that a delivery is over."""
        held.users -= 1
        held.last_used = now
        if held.retired and not held.users:
            self._close(held)

    def replace(self, factory: HopFactory) -> None:
        """Use another factory; hops made by the old one end with their last delivery."""
        self._factory = factory
        for held in self._held.values():
            self._retire(held)
        self._held.clear()

    def sweep(self, now: float) -> None:
        """Close what has been idle for long."""
        for key, held in list(self._held.items()):
            if not held.users and now >= held.last_used + IDLE_SECONDS:
                del self._held[key]
                self._close(held)

    async def close(self) -> None:
        """Close every hop and wait for it."""
        for held in self._held.values():
            self._close(held)
        self._held.clear()
        while self._closing:
            await asyncio.wait(self._closing)

    def _retire(self, held: Held) -> None:
        held.retired = True
        if not held.users:
            self._close(held)

    def _close(self, held: Held) -> None:
        task = asyncio.get_running_loop().create_task(_close_quietly(held.hop))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close_quietly(hop: Hop) -> None:
    # Nothing depends on how a hop that is let go of ends.
    with contextlib.suppress(Exception):
        await hop.close()
