"""One connector's automatic bans: what its sessions ask before a login, and tell after one."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum, auto
from math import inf

from postroad_transport.auth.ban_store import ACCOUNT, ADDRESS, BanStore
from postroad_transport.config import Bans
from postroad_transport.policy.bans import (
    account_subject,
    address_subject,
    is_allowed,
    is_banned,
    recent_failures,
)
from postroad_transport.policy.networks import parse_network
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics

#: Seconds between two notes that an account was used from an address.
NOTE_EVERY = 3600.0
_NOTED_ENTRIES = 10_000


class Standing(Enum):
    """What the failures of an address say about it."""

    CLEAN = auto()
    SUSPECT = auto()
    """It has failed lately: others' passwords are checked first."""
    BANNED = auto()


class ConnectorBans:
    """The bans of the connector `connector`.

    Parameters
    ----------
    store
        None: nothing is banned.
    """

    def __init__(
        self,
        connector: str,
        config: Bans,
        store: BanStore | None,
        *,
        metrics: Metrics,
        events: EventLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connector = connector
        self._config = config
        self._store = store if config.on else None
        self._allowed = tuple(map(parse_network, config.allow_ranges))
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._noted: dict[tuple[str, str], float] = {}

    def standing(self, ip: str) -> Standing:
        """Return how the address stands; it cannot log in while it is banned."""
        store = self._store
        if store is None:
            return Standing.CLEAN
        record = store.record(self._connector, ADDRESS, address_subject(ip))
        if not record.failures and not record.until:
            return Standing.CLEAN
        now = self._clock()
        # Asked last: a range may be allowed after the ban.
        if self._config.failures and is_banned(record, now) and not is_allowed(ip, self._allowed):
            return Standing.BANNED
        return Standing.SUSPECT if recent_failures(record, now, self._config.window) else Standing.CLEAN

    def is_known(self, ip: str) -> bool:
        """Tell whether somebody has logged in from the address lately."""
        store = self._store
        return store is not None and store.is_known(self._connector, address_subject(ip), self._clock())

    def closes(self, ip: str, account: str) -> bool:
        """Tell whether the account is closed to the address. An account that does not exist is treated alike."""
        store = self._store
        if store is None or not self._config.account_failures:
            return False
        subject, now = account_subject(account), self._clock()
        return (
            is_banned(store.record(self._connector, ACCOUNT, subject), now)
            and not is_allowed(ip, self._allowed)
            and not store.is_usual(self._connector, subject, address_subject(ip), now)
        )

    def refused(self, kind: str) -> None:
        """Count a login, or a connection, that a ban of this kind refused."""
        self._metrics.ban_refusals.labels(self._connector, kind).inc()

    async def failed(self, ip: str, account: str) -> None:
        """Count a failed login. When this returns, a ban that it began holds for every worker."""
        store, config = self._store, self._config
        if store is None or is_allowed(ip, self._allowed):
            return
        subjects = {ADDRESS: (address_subject(ip), config.failures)}
        if account:
            subjects[ACCOUNT] = account_subject(account), config.account_failures
        try:
            begun = await store.add_failure(self._connector, subjects, config, self._clock())
        except OSError as error:
            self._events.emit("auth.bans_unavailable", connector=self._connector, error=str(error))
            return
        for ban in begun:
            self._metrics.bans.labels(self._connector, ban.kind).inc()
            self._events.emit(
                "auth.banned", connector=self._connector, kind=ban.kind, subject=ban.subject, until=ban.until
            )

    async def succeeded(self, ip: str, account: str) -> None:
        """Note that the account is used from the address."""
        store = self._store
        if store is None:
            return
        now, key = self._clock(), (account_subject(account), address_subject(ip))
        if 0 <= now - self._noted.get(key, -inf) < NOTE_EVERY:
            return
        if len(self._noted) >= _NOTED_ENTRIES:
            self._noted.clear()
        self._noted[key] = now
        try:
            await store.add_success(self._connector, *key, now)
        except OSError as error:
            self._events.emit("auth.bans_unavailable", connector=self._connector, error=str(error))
