"""Counts and times what directories and issuers are asked, and says once when one begins to fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable

from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.check_gate import OverloadedError
from postroad_transport.telemetry.metrics import Metrics

log = logging.getLogger("postroad.auth")


class Lookups:
    """What one kind of source is asked. `source` is a label value: ``ldap``, ``oauth2``, ``serviceAccounts``."""

    def __init__(self, source: str, metrics: Metrics | None = None) -> None:
        self._source = source
        self._metrics = metrics
        self._failing = False

    async def run(self, lookup: Awaitable[Account | None]) -> Account | None:
        """Await `lookup` and return what it returns. Raises what it raises."""
        begun = time.perf_counter()
        try:
            account = await lookup
        except OverloadedError:
            raise  # it was not asked
        except AuthUnavailableError as error:
            self._note("unavailable", begun)
            if not self._failing:
                log.warning("%s cannot tell who logs in: %s", self._source, error)
            self._failing = True
            raise
        self._note("ok" if account is not None else "refused", begun)
        if self._failing:
            log.info("%s answers again", self._source)
        self._failing = False
        return account

    def _note(self, result: str, begun: float) -> None:
        if self._metrics is not None:
            self._metrics.authentication_lookups.labels(self._source, result).inc()
            self._metrics.authentication_lookup_seconds.labels(self._source).observe(time.perf_counter() - begun)
