"""The open sessions of a worker: what they are admitted by, counted by, and asked to stop by."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol

from postroad_transport.auth.ban_store import ADDRESS
from postroad_transport.auth.bans import Standing
from postroad_transport.smtp import replies
from postroad_transport.smtp.serving import PreparedConnector, Serving
from postroad_transport.smtp.writer import Outbox
from postroad_transport.telemetry.sparing import SparingLog
from postroad_transport.tls.failures import handshake_failure

BANNED = "banned"
"""Label value of a connection refused by a ban."""
REFUSALS_LOGGED = 600
"""Refused commands that are logged in a minute, by rule: each may be somebody's mail, so many."""


MAX_HELD = 1000
"""Connections of banned addresses that are kept waiting at a time."""


class Refusal(NamedTuple):
    """Why a connection gets no session."""

    reason: str
    """A label value."""
    reply: bytes
    delay: float = 0.0
    """Seconds to keep the client waiting for it."""


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
        self.outbox = Outbox(asyncio.get_running_loop())
        self.draining = False
        self._open: set[Stoppable] = set()
        self._by_connector: Counter[str] = Counter()
        self._by_source: Counter[tuple[str, str]] = Counter()
        self._emptied = asyncio.Event()
        self._failures = SparingLog()
        self._refusals = SparingLog(most=REFUSALS_LOGGED)
        self._held = 0

    def __len__(self) -> int:
        return len(self._open)

    def admission(self, connector: PreparedConnector, ip: str) -> Refusal | None:
        """Return why another session of `ip` cannot be had, None when it can."""
        limits = connector.config.limits
        name = connector.config.name
        if self.draining:
            return Refusal("shutting_down", replies.SHUTTING_DOWN)
        if limits.connections and self._by_connector[name] >= limits.connections:
            return Refusal("connections", replies.TOO_MANY_CONNECTIONS)
        if limits.connections_per_source and self._by_source[name, ip] >= limits.connections_per_source:
            return Refusal("connections_per_source", replies.TOO_MANY_FROM_SOURCE)
        if connector.is_for_logins_only and connector.bans.standing(ip) is Standing.BANNED:
            connector.bans.refused(ADDRESS)
            return Refusal(BANNED, replies.BANNED, self._hold(limits.tarpit))
        return None

    def _hold(self, tarpit: float) -> float:
        """Return for how long a banned client is kept waiting: it would come again at once, and that costs most."""
        if self._held >= MAX_HELD:
            return 0.0
        seconds = self.serving.turned_away(tarpit)
        self._held += 1
        asyncio.get_running_loop().call_later(seconds, self._let_go)
        return seconds

    def _let_go(self) -> None:
        self._held -= 1

    def reserve(self, connector: PreparedConnector, ip: str) -> Callable[[], None]:
        """Count a session in advance, while its TLS handshake goes on; return what takes that back, once."""
        key = connector.config.name, ip
        self._by_connector[key[0]] += 1
        self._by_source[key] += 1
        reserved = True

        def release() -> None:
            nonlocal reserved
            if reserved:
                reserved = False
                self._leave(*key)

        return release

    def tls_failed(self, connector: str, ip: str, error: BaseException | None) -> None:
        """Count a handshake that failed; log it, unless there have been many of its kind."""
        reason = handshake_failure(error)
        self.serving.metrics.tls_handshakes.labels("in", "", reason).inc()
        self._log("tls.failed", reason, connector=connector, client=ip, detail=getattr(error, "reason", None))

    def server_refused(self, connector: str, ip: str, reason: str, presented: str) -> None:
        """Count a server that direct trust does not let in, and log it likewise. `presented` is a thumbprint."""
        self.serving.metrics.direct_trust_handshakes.labels("in", "", reason).inc()
        self._log("direct_trust.refused", reason, connector=connector, client=ip, thumbprint=presented or None)

    def connection_refused(self, ip: str, port: int, reason: str) -> None:
        """Count a connection that is not greeted, and log it likewise; a ban is in the log already."""
        self.serving.metrics.sessions_refused.labels(reason).inc()
        if reason != BANNED:
            self._log("session.refused", reason, client=ip, port=port)

    def command_refused(self, rule: str, **fields: str | None) -> None:
        """Log a refusal by a rule, unless there have been very many by the same."""
        self._refusals.emit(
            self.serving.events, "command.refused", kind=rule, now=self.serving.clock(), rule=rule, **fields
        )

    def _log(self, event: str, reason: str, **fields: str | int | None) -> None:
        self._failures.emit(
            self.serving.events, event, kind=reason, now=self.serving.clock(), reason=reason, **fields
        )

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
        self._open.discard(session)
        self._leave(connector.config.name, ip)
        connector.sessions_open.dec()
        if not self._open:
            self._emptied.set()

    def _leave(self, name: str, ip: str) -> None:
        self._by_connector[name] -= 1
        self._by_source[name, ip] -= 1
        if not self._by_source[name, ip]:
            del self._by_source[name, ip]

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
