"""OCSP responses on the tier's own certificates: fetched from their responders, kept, renewed, shown to clients.

Handshakes do not wait for them: a certificate without a response that can be shown is presented alone. A response is
shown until it ends, while the next is asked for from half of its time on; so a shorter outage is not noticed.
Workers share responses on disk, where they outlive a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from postroad_transport.config import TierConfig
from postroad_transport.config.files import SECRETS_DIRECTORY
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics
from postroad_transport.tls.disk_cache import DiskCache
from postroad_transport.tls.fetching import FETCH_SECONDS, Fetcher, FetchError
from postroad_transport.tls.ocsp import Staple, Subject, Unfit, judge, refresh_at, request, retry_at, subject

MAX_BYTES = 64 * 1024
"""Size of the largest response that is taken; it goes into handshakes."""
_AT_ONCE = 4
_LONGEST_SLEEP = 3600.0  # a clock that was set does not stop renewal for longer

log = logging.getLogger("postroad.tls")


@lru_cache(maxsize=1024)
def subject_in(chain: Path) -> Subject | None:
    """Return what the leaf of a PEM file can be asked about with; cached by path, as contexts are."""
    try:
        return subject(chain.read_bytes())
    except OSError:
        return None


def subjects(config: TierConfig, directory: Path) -> dict[str, Subject]:
    """Return what to ask about the certificates that a configuration presents, by the certificates' names."""
    found = {
        item.name: subject_in(directory / SECRETS_DIRECTORY / item.chain_file)
        for item in config.certificates
        if item.key_file
    }
    return {name: asked for name, asked in found.items() if asked is not None}


@dataclass(slots=True)
class _Held:
    name: str
    thumbprint: str
    subject: Subject
    staple: Staple | None = None
    due: float = 0.0
    failures: int = 0


def _held(name: str, asked: Subject) -> _Held:
    return _Held(name, hashlib.sha256(asked.certificate.public_bytes(Encoding.DER)).hexdigest(), asked)


class StapleStore:
    """The responses of one worker.

    Parameters
    ----------
    directory
        Where responses are kept over restarts; None: nowhere.
    clock
        Seconds since the epoch.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        metrics: Metrics | None = None,
        events: EventLog | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._disk = DiskCache(directory, ".ocsp")
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._fetcher = Fetcher()
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def staple(self, certificate: bytes) -> bytes | None:
        """Return the response to show with a certificate in DER; None: there is none."""
        held = self._held.get(hashlib.sha256(certificate).hexdigest())
        if held is None or held.staple is None or held.staple.until <= self._clock():
            return None
        return held.staple.der

    async def fetch_ahead(self, wanted: Mapping[str, Subject]) -> None:
        """Try to have responses on those of these certificates that demand one, before they are presented.

        Takes ``FETCH_SECONDS`` at most; clients refuse such a certificate without a response.
        """
        fresh = []
        for name, asked in wanted.items():
            held = _held(name, asked)
            if asked.must_staple and held.thumbprint not in self._held:
                fresh.append(self._held.setdefault(held.thumbprint, held))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FETCH_SECONDS):
                await asyncio.gather(*map(self._renew, fresh))

    def keep(self, wanted: Mapping[str, Subject]) -> None:
        """From now on have responses on these certificates, by their names, and on no other."""
        held = {}
        for name, asked in wanted.items():
            new = _held(name, asked)
            held[new.thumbprint] = self._held.get(new.thumbprint) or new
        self._held = held
        if self._metrics is not None:
            self._metrics.ocsp_staple_expiry.clear()
        for item in held.values():
            self._measure(item)
        self._changed.set()
        if held and self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop renewing, close connections."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._fetcher.close()

    async def _run(self) -> None:
        """Renew responses when they are due, until cancelled."""
        while True:
            self._changed.clear()
            now = self._clock()
            await asyncio.gather(*(self._renew(held) for held in list(self._held.values()) if held.due <= now))
            next_due = min((held.due for held in self._held.values()), default=now + _LONGEST_SLEEP)
            pause = min(max(0.0, next_due - self._clock()), _LONGEST_SLEEP)
            with contextlib.suppress(TimeoutError):
                # Not wait_for: that of Python 3.11 loses a cancellation that comes together with the event.
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _renew(self, held: _Held) -> None:
        """Take the response that another worker has fetched, else ask; keep the old one where that fails."""
        try:
            if await self._take_kept(held):
                return
            reason = "unreachable"
            async with self._turns:
                for url in held.subject.urls:
                    reason = await self._ask(held, url)
                    self._count(reason)
                    if reason in ("ok", Unfit.REVOKED):
                        break
        except Exception:
            log.exception("an OCSP response cannot be taken")
            reason = "error"
        if reason != "ok":
            held.failures += 1
            held.due = retry_at(held.failures, self._clock())
            if self._events is not None:
                self._events.emit("ocsp.failed", certificate=held.name, url=held.subject.urls[0], reason=reason)
        self._measure(held)

    async def _take_kept(self, held: _Held) -> bool:
        kept = await asyncio.to_thread(self._disk.read, held.thumbprint)
        now = self._clock()
        staple = judge(kept[0], held.subject, now) if kept else None
        if not isinstance(staple, Staple) or (held.staple is not None and staple.since <= held.staple.since):
            return False
        self._take(held, staple, now)
        return True

    async def _ask(self, held: _Held, url: str) -> str:
        """Ask one responder; return ``ok`` or what went wrong."""
        try:
            data = await self._fetcher.post(url, request(held.subject), "application/ocsp-request", limit=MAX_BYTES)
        except FetchError as error:
            return str(error)
        now = self._clock()
        staple = judge(data, held.subject, now)
        if isinstance(staple, Staple):
            self._take(held, staple, now)
            await asyncio.to_thread(self._disk.write, held.thumbprint, data)
            return "ok"
        if staple is Unfit.REVOKED:
            held.staple = None
            await asyncio.to_thread(self._disk.forget, held.thumbprint)
        return str(staple)

    def _take(self, held: _Held, staple: Staple, now: float) -> None:
        held.staple, held.failures, held.due = staple, 0, refresh_at(staple, now)
        self._measure(held)

    def _measure(self, held: _Held) -> None:
        # One that a reload has dropped meanwhile is told of no more.
        if self._metrics is not None and self._held.get(held.thumbprint) is held:
            until = held.staple.until if held.staple is not None else 0.0
            self._metrics.ocsp_staple_expiry.labels(held.name, held.thumbprint).set(until)

    def _count(self, result: str) -> None:
        if self._metrics is not None:
            self._metrics.ocsp_fetches.labels(result).inc()
