"""The open sessions of a worker: what they are admitted by, counted by, and asked to stop by."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Protocol

from postroad_transport.auth.ban_store import ADDRESS
from postroad_transport.auth.bans import Standing
from postroad_transport.smtp import replies
from postroad_transport.smtp.serving import PreparedConnector, Serving

BANNED = "banned"
"""Label value of a connection refused by a ban."""


class Stoppable(Protocol):
    """A session."""

    def shutdown(self) -> None:
        """Stop at the next command boundary."""

    def abort(self) -> None:
        """Stop now."""


class Sessions:
    """Every open session, and the :class:`Serving` that new ones begin with."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.draining = False
        self._open: set[Stoppable] = set()
        self._by_connector: Counter[str] = Counter()
        self._by_source: Counter[tuple[str, str]] = Counter()
        self._emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def admission(self, connector: PreparedConnector, ip: str) -> tuple[str, bytes] | None:
        """Return (reason, reply) when another session of `ip` cannot be had, None when it can."""
        limits = connector.config.limits
        name = connector.config.name
        if self.draining:
            return "shutting_down", replies.SHUTTING_DOWN
        if limits.connections and self._by_connector[name] >= limits.connections:
            return "connections", replies.TOO_MANY_CONNECTIONS
        if limits.connections_per_source and self._by_source[name, ip] >= limits.connections_per_source:
            return "connections_per_source", replies.TOO_MANY_FROM_SOURCE
        if connector.is_for_logins_only and connector.bans.standing(ip) is Standing.BANNED:
            connector.bans.refused(ADDRESS)
            return BANNED, replies.BANNED
        return None

    def add(self, session: Stoppable, connector: PreparedConnector, ip: str) -> None:
        """Count a session in."""
        name = connector.config.name
        self._open.add(session)
        self._by_connector[name] += 1
        self._by_source[name, ip] += 1
        connector.sessions.inc()
        connector.sessions_open.inc()

    def remove(self, session: Stoppable, connector: PreparedConnector, ip: str) -> None:
        """Count it out."""
        name = connector.config.name
        self._open.discard(session)
        self._by_connector[name] -= 1
        self._by_source[name, ip] -= 1
        if not self._by_source[name, ip]:
            del self._by_source[name, ip]
        connector.sessions_open.dec()
        if not self._open:
            self._emptied.set()

    async def drain(self, grace: float) -> int:
        """Ask every session to stop, wait up to `grace` seconds, then abort the rest and return their number.

        A session stops at its next command boundary; a transaction that has begun is finished first.
        """
        self.draining = True
        for session in list(self._open):
            session.shutdown()
        if self._open:
            self._emptied.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), grace)
        rest = list(self._open)
        for session in rest:
            session.abort()
        return len(rest)
