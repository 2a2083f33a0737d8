"""Small decisions of a hop, with the clock passed in: which hosts were dead lately, when the next message may go."""

from __future__ import annotations

from collections.abc import Iterable

from postroad_transport.delivery.smtp_client import Endpoint


class DeadHosts:
    """Remembers for a while which endpoints could not be reached, so that each message need not find out anew.

    A dead endpoint is not left out, only tried after all others.

    Parameters
    ----------
    memory
        Seconds.
    """

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._until: dict[Endpoint, float] = {}

    def died(self, endpoint: Endpoint, now: float) -> None:
        """Note a failure."""
        self._until = {known: until for known, until in self._until.items() if until > now}
        self._until[endpoint] = now + self._memory

    def answered(self, endpoint: Endpoint) -> None:
        """Forget a failure."""
        if self._until:
            self._until.pop(endpoint, None)

    def order(self, endpoints: Iterable[Endpoint], now: float) -> list[Endpoint]:
        """Return `endpoints`, those that live first, otherwise as they stood."""
        return sorted(endpoints, key=lambda endpoint: self._until.get(endpoint, 0.0) > now)


class Pacer:
    """Spaces messages evenly.

    Parameters
    ----------
    rate
        Messages a second; 0: no limit.
    """

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate if rate > 0 else 0.0
        self._next = 0.0

    def reserve(self, now: float) -> float:
        """Take the next place; return the seconds to wait for it."""
        if not self._interval:
            return 0.0
        start = max(now, self._next)
        self._next = start + self._interval
        return start - now
