"""Passwords checked by a directory: search and bind, in a few threads, within a limited time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.breaker import Breaker
from postroad_transport.auth.check_gate import CheckGate
from postroad_transport.auth.client_tls import client_context
from postroad_transport.auth.fair_queue import ANYBODY, FairQueue, Origin
from postroad_transport.auth.ldap_session import Credentials, ServerFailedError, Session
from postroad_transport.auth.lookups import Lookups
from postroad_transport.auth.names import MAX_NAME
from postroad_transport.auth.recent import Recent
from postroad_transport.config.directories import Ldap, LdapServer
from postroad_transport.telemetry.metrics import Metrics

#: Checks that may wait for a thread or run.
MAX_PENDING = 128
#: Part of the time for which likely guesses may be asked, one at a time, and seconds of it that can be saved up.
SHARE = 0.25
BURST = 1.0
#: Seconds for which a password that was right is not asked for again.
REMEMBER = 30.0
REMEMBER_ENTRIES = 10_000
#: Seconds; a refusal takes a whole number of these, so that its time does not tell which step refused.
STEP = 0.25
#: Seconds after which an unused connection is not used again: firewalls forget it without a word.
IDLE = 120.0


class DirectorySession(Protocol):
    """What is needed of :class:`Session`, where it is described."""

    def check(self, username: str, password: str) -> Account | None:
        """Search and bind."""

    def abort(self) -> None:
        """Make a check end that waits."""

    def close(self) -> None:
        """Let go of the connections."""


class _Server:
    """One server of the directory, its health, and the sessions with it that nobody uses just now."""

    def __init__(self, open_session: Callable[[], DirectorySession]) -> None:
        self.open_session = open_session
        self.breaker = Breaker()
        self.idle: deque[tuple[float, DirectorySession]] = deque()


class _Check:
    """One check on its way. The loop may give it up while a thread works on it."""

    def __init__(self, username: str, password: str) -> None:
        self.username = username
        self.password = password
        self.given_up = False
        self._session: DirectorySession | None = None

    def use(self, session: DirectorySession) -> Account | None:
        self._session = session
        if self.given_up:
            raise ServerFailedError("the time is up")
        try:
            return session.check(self.username, self.password)
        finally:
            self._session = None

    def give_up(self) -> None:
        self.given_up = True
        if (session := self._session) is not None:
            session.abort()


class LdapSource:
    """Knows whether a password is right by asking a directory.

    Each server that fails is left alone for a while (:class:`Breaker`); with none left the answer is at once that
    nobody knows. No check takes longer than ``config.timeout``, whatever the servers do.
    """

    def __init__(
        self,
        config: Ldap,
        credentials: Credentials,
        metrics: Metrics | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        open_session: Callable[[LdapServer], DirectorySession] | None = None,
    ) -> None:
        """Take the directory, and whom to search as.

        Raises
        ------
        ValueError
            The CA bundle holds no certificates.
        """
        context = client_context(config.ca_bundle)
        opener = open_session or (lambda server: Session(config, server, credentials, context))
        self._config = config
        self._clock = clock
        self._lookups = Lookups("ldap", metrics)
        # A guess is sent away before the time is up: that is no fault of the directory.
        patience = config.timeout / 2
        queue = FairQueue(config.connections, most=MAX_PENDING, share=SHARE, burst=BURST, patience=patience)
        self._gate = CheckGate("ldap", queue, metrics, clock=clock)
        self._servers = [_Server(partial(opener, server)) for server in config.servers]
        self._threads = ThreadPoolExecutor(config.connections, "ldap")
        self._lock = threading.Lock()
        self._closed = False
        self._recent: Recent[Account] = Recent(REMEMBER_ENTRIES, clock=clock)

    async def verify(self, username: str, password: str, origin: Origin = ANYBODY, /) -> Account | None:
        """Return the account, None where user or password is wrong. Raises AuthUnavailableError."""
        if not password or not 0 < len(username) <= MAX_NAME:
            return None
        if (known := self._recent.get(username, password)) is not None:
            return known
        begun = self._clock()
        account = await self._lookups.run(self._ask(_Check(username, password), origin))
        if account is None:
            await asyncio.sleep(STEP - (self._clock() - begun) % STEP)
        else:
            self._recent.put(account, REMEMBER, username, password)
        return account

    async def close(self) -> None:
        """Close the idle connections; those in use close when their check is over."""
        self._closed = True
        self._gate.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._close_idle)

    async def _ask(self, check: _Check, origin: Origin) -> Account | None:
        try:
            async with asyncio.timeout(self._config.timeout):
                return await self._gate.run(origin, lambda: self._in_thread(check))
        except TimeoutError as error:
            check.give_up()
            raise AuthUnavailableError("the directory does not answer in time") from error
        except ServerFailedError as error:
            raise AuthUnavailableError(str(error)) from error

    async def _in_thread(self, check: _Check) -> Account | None:
        if self._closed:
            raise AuthUnavailableError("closed")
        return await asyncio.wrap_future(self._threads.submit(self._run, check))

    def _run(self, check: _Check) -> Account | None:
        begun = self._clock()
        failure = ServerFailedError("every server of the directory has failed lately")
        for server in self._servers:
            if check.given_up:
                break
            with self._lock:
                allowed = server.breaker.allows(self._clock())
            if not allowed:
                continue
            try:
                account = self._ask_server(server, check)
            except ServerFailedError as error:
                failure = error
                if check.given_up and self._clock() - begun < self._config.operation_timeout:
                    # The time went by in waiting for a thread: the server is not to blame.
                    break
                with self._lock:
                    server.breaker.failed(self._clock())
            else:
                with self._lock:
                    server.breaker.succeeded()
                return account
        raise failure

    def _ask_server(self, server: _Server, check: _Check) -> Account | None:
        while (session := self._take_idle(server)) is not None:
            # It may have been closed by the server meanwhile: that says nothing about the server.
            with contextlib.suppress(ServerFailedError):
                return self._use(server, session, check)
        return self._use(server, server.open_session(), check)

    def _use(self, server: _Server, session: DirectorySession, check: _Check) -> Account | None:
        try:
            account = check.use(session)
        except BaseException:
            session.close()
            raise
        server.idle.append((self._clock(), session))
        if self._closed:
            self._close_idle()
        return account

    def _take_idle(self, server: _Server) -> DirectorySession | None:
        while server.idle:
            try:
                since, session = server.idle.pop()
            except IndexError:
                return None
            if self._clock() - since < IDLE:
                return session
            session.close()
        return None

    def _close_idle(self) -> None:
        for server in self._servers:
            while server.idle:
                with contextlib.suppress(IndexError):
                    server.idle.pop()[1].close()
