"""Verifying password hashes away from the event loop, in a fair order."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from postroad_transport.auth.check_gate import CheckGate
from postroad_transport.auth.fair_queue import ANYBODY, MAX_PENDING, FairQueue, Origin
from postroad_transport.auth.passwords import AuthUnavailableError, check_password
from postroad_transport.auth.recent import Recent
from postroad_transport.telemetry.metrics import Metrics

#: How long a password that was right is remembered, in seconds.
REMEMBER = 60.0
#: How many right passwords are remembered.
REMEMBER_ENTRIES = 10_000

_Question = tuple[str, str, str]


class PasswordVerifier:
    """Checks passwords in a few threads, joins equal questions, and remembers right answers for a while.

    The question is user, password and stored hash: a changed hash is a different one, so the memory survives a reload
    and never outlives a password.
    """

    def __init__(
        self,
        metrics: Metrics | None = None,
        *,
        threads: int | None = None,
        max_pending: int = MAX_PENDING,
        clock: Callable[[], float] = time.monotonic,
        check: Callable[[str, bytes], bool] = check_password,
    ) -> None:
        threads = threads or min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, "passwords")
        self._gate = CheckGate("htpasswd", FairQueue(threads, most=max_pending), metrics, clock=clock)
        self._check = check
        self._recent: Recent[bool] = Recent(REMEMBER_ENTRIES, clock=clock)
        self._pending: dict[_Question, asyncio.Task[bool]] = {}

    async def verify(self, username: str, password: str, encoded: str, origin: Origin = ANYBODY) -> bool:
        """Tell whether `password` matches the stored hash of `username`.

        Raises
        ------
        AuthUnavailableError
            Too many verifications wait already, or the hash cannot be checked now.
        """
        question = username, password, encoded
        if self._recent.get(*question):
            return True
        asking = self._pending.get(question)
        if asking is None:
            asking = self._pending[question] = asyncio.create_task(self._ask(question, origin))
            asking.add_done_callback(_retrieve)
        # Shielded: others may wait for the same answer when this session goes away.
        return await asyncio.shield(asking)

    async def close(self) -> None:
        """Stop the threads; what has not begun is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._gate.close()

    async def _ask(self, question: _Question, origin: Origin) -> bool:
        _, password, encoded = question
        secret = password.encode("utf-8", "surrogatepass")
        try:
            good = await self._gate.run(origin, lambda: self._in_thread(encoded, secret))
        finally:
            del self._pending[question]
        if good:
            self._recent.put(True, REMEMBER, *question)
        return good

    async def _in_thread(self, encoded: str, secret: bytes) -> bool:
        try:
            answer = self._pool.submit(self._check, encoded, secret)
        except RuntimeError as error:
            raise AuthUnavailableError("closed") from error
        return await asyncio.wrap_future(answer)


def _retrieve(asking: asyncio.Task[bool]) -> None:
    """Take note of a failure, should nobody wait for the answer any more."""
    if not asking.cancelled():
        asking.exception()
