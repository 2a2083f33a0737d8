"""Certificate revocation lists: fetched from distribution points, kept in memory and on disk, renewed in time.

A list is looked for only for certificates that lead to an authority that is trusted, so a stranger cannot make the
tier ask for anything. What is asked for is http or https, no redirect is followed, and size and time are limited.

A list is good until its ``nextUpdate``; it is fetched anew much earlier, in the background, so that a revocation is
seen within :data:`REFRESH` seconds and an outage is bridged by the list at hand. Workers share the lists on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from postroad_transport.config import Revocation, RevocationMode
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics
from postroad_transport.tls.disk_cache import DiskCache
from postroad_transport.tls.fetching import Fetcher, FetchError
from postroad_transport.tls.revocation import Crl, Status, counts, distribution_points, status

MAX_BYTES = 16 * 1024 * 1024
"""Size of the largest list that is taken."""
MAX_LISTS = 200
"""Lists kept; the one that was wanted longest ago goes first."""
RETRY = 10.0
"""Seconds after a failure in which nothing is fetched from the same place again."""
REFRESH = 3600.0
"""Age, in seconds, at which a list is fetched anew; sooner where three quarters of its time are over."""
UNUSED = 7 * 86_400.0
"""Seconds after which a list that nobody wanted is forgotten."""
_AT_ONCE = 256 * 1024

log = logging.getLogger("postroad.tls")


@dataclass(slots=True)
class _Held:
    issuer: x509.Certificate
    crl: Crl | None = None
    fetched: float = 0.0
    wanted: float = 0.0
    failed: float = 0.0
    task: asyncio.Task[None] | None = None

    def take(self, crl: Crl, fetched: float, now: float) -> None:
        """Replace the list. Raises FetchError where the new one is not the issuer's, not current, or older."""
        older = self.crl is not None and crl.last_update_utc < self.crl.last_update_utc
        if older or not counts(crl, self.issuer, now):
            raise FetchError("invalid")
        self.crl, self.fetched, self.failed = crl, fetched, 0.0

    def due(self) -> float:
        """Return when to fetch anew."""
        at = self.fetched + REFRESH
        if self.crl is not None and self.crl.next_update_utc is not None:
            at = min(at, self.fetched + 0.75 * (self.crl.next_update_utc.timestamp() - self.fetched))
        return max(at, self.failed + RETRY)


class CrlStore:
    """The lists of one worker.

    Parameters
    ----------
    directory
        Where lists are kept over restarts; None: nowhere.
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
        self._disk = DiskCache(directory, ".crl")
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._fetcher = Fetcher()
        self._refresher: asyncio.Task[None] | None = None
        self._added = asyncio.Event()
        self._turns = asyncio.Semaphore(4)

    async def lists(self, path: Sequence[x509.Certificate], revocation: Revocation) -> tuple[Crl, ...]:
        """Return the lists on the certificates of a valid `path`, as far as they can be had.

        Waits at most about :data:`~postroad_transport.tls.fetching.FETCH_SECONDS` for each place asked; never raises
        for what goes wrong there.
        """
        found = list(parse_crls(revocation.crls))
        if revocation.mode is RevocationMode.OFF or not revocation.fetch:
            return tuple(found)
        now = self._clock()
        for certificate, issuer in pairwise(path):
            if status(certificate, issuer, found, now) is not Status.UNKNOWN:
                continue
            for url in distribution_points(certificate):
                if not allowed(url, revocation.hosts):
                    continue
                crl = await self._get(url, issuer)
                if crl is not None and counts(crl, issuer, now):
                    found.append(crl)
                    break
        return tuple(found)

    async def close(self) -> None:
        """Stop renewing, close connections."""
        tasks = [held.task for held in self._held.values() if held.task is not None]
        tasks += [self._refresher] if self._refresher is not None else []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._refresher = None
        await self._fetcher.close()

    async def _get(self, url: str, issuer: x509.Certificate) -> Crl | None:
        now = self._clock()
        held = self._held.get(url)
        if held is None:
            self._make_room()
            held = self._held[url] = _Held(issuer)
            self._added.set()
        held.wanted, held.issuer = now, issuer
        if not _current(held.crl, now) and now >= held.failed + RETRY:
            if held.task is None:
                held.task = asyncio.create_task(self._renew(url, held))
            # A session that goes away takes nothing from the others that wait for the same list.
            await asyncio.shield(held.task)
        if self._refresher is None:
            self._refresher = asyncio.create_task(self._refresh())
        return held.crl

    async def _renew(self, url: str, held: _Held) -> None:
        """Take the list that another worker has fetched, else fetch it; keep the old one where that fails."""
        try:
            now = self._clock()
            kept = await asyncio.to_thread(self._disk.read, _name(url), max(held.fetched, now - REFRESH))
            if kept is not None:
                with contextlib.suppress(FetchError):
                    held.take(await _parse(kept[0]), kept[1], now)
                    if held.due() > now:
                        return
            async with self._turns:
                data = await self._fetcher.get(url, limit=MAX_BYTES)
            held.take(await _parse(data), now, now)
            await asyncio.to_thread(self._disk.write, _name(url), data)
            self._count("ok")
        except FetchError as error:
            self._failed(url, held, str(error))
        except Exception:
            log.exception("a revocation list cannot be taken")
            self._failed(url, held, "error")
        finally:
            held.task = None

    def _failed(self, url: str, held: _Held, reason: str) -> None:
        held.failed = self._clock()
        self._count(reason)
        if self._events is not None:
            self._events.emit("crl.failed", url=url, reason=reason)

    async def _refresh(self) -> None:
        """Renew lists before they are needed, until cancelled."""
        while True:
            self._added.clear()
            now = self._clock()
            self._held = {url: held for url, held in self._held.items() if held.task or held.wanted > now - UNUSED}
            for url, held in list(self._held.items()):
                if held.task is None and held.due() <= now:
                    held.task = asyncio.create_task(self._renew(url, held))
                    await asyncio.shield(held.task)
            next_due = min((held.due() for held in self._held.values()), default=now + REFRESH)
            with contextlib.suppress(TimeoutError):
                # Not wait_for: that of Python 3.11 loses a cancellation that comes together with the event.
                async with asyncio.timeout(max(1.0, next_due - self._clock())):
                    await self._added.wait()

    def _make_room(self) -> None:
        if len(self._held) >= MAX_LISTS:
            idle = [url for url, held in self._held.items() if held.task is None]
            if idle:
                del self._held[min(idle, key=lambda url: self._held[url].wanted)]

    def _count(self, result: str) -> None:
        if self._metrics is not None:
            self._metrics.crl_fetches.labels(result).inc()


def allowed(url: str, hosts: Sequence[str]) -> bool:
    """Tell whether a list may be fetched from there; no `hosts`: from anywhere."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return bool(host) and (not hosts or host in hosts)


@lru_cache(maxsize=32)
def parse_crls(text: str) -> tuple[Crl, ...]:
    """Return the lists in a PEM text.

    Raises
    ------
    ValueError
        One is damaged. What the compiler has let pass is not.
    """
    end = "-----END X509 CRL-----"
    blocks = [part[part.index("-----BEGIN") :] + end for part in text.split(end)[:-1]]
    return tuple(x509.load_pem_x509_crl(block.encode()) for block in blocks)


def _name(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _current(crl: Crl | None, now: float) -> bool:
    return crl is not None and crl.next_update_utc is not None and now < crl.next_update_utc.timestamp()


async def _parse(data: bytes) -> Crl:
    try:
        return await asyncio.to_thread(_load, data) if len(data) > _AT_ONCE else _load(data)
    except ValueError:
        raise FetchError("unreadable") from None


def _load(data: bytes) -> Crl:
    return x509.load_pem_x509_crl(data) if data.lstrip().startswith(b"-----BEGIN") else x509.load_der_x509_crl(data)
