"""Whose password is checked next. Pure: who asks and the time in, whose turn it is or who is sent away out.

Who guesses must not keep others waiting, nor take the CPUs that they need. So each time that a turn is given, two
kinds of checks are told apart:

- *Free* checks begin as soon as there is a slot. Every source has some: one without a right password for a stranger,
  more for an address that has logged in lately, and as many again as it was right lately.
- *Paced* checks are the rest: likely guesses. One runs at a time, and all of them together for a small share of the
  time; what they did not use is saved up, within limits. Who has no turn within the patience is sent away.

Order: free before paced; then sources that have logged in lately; then who has asked least, in the last minutes,
without being right; then who came first. When too many wait, the last in this order is sent away.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from operator import attrgetter
from typing import NamedTuple

#: Checks that may wait or run at once: at about 50 ms each, more would keep clients waiting for seconds.
MAX_PENDING = 64
#: Part of the time for which paced checks may run.
SHARE = 0.0625
#: Seconds of running that paced checks can save up.
BURST = 0.5
#: Seconds that a paced check waits at most; the first in order gets its turn within them.
PATIENCE = 10.0
#: Checks without a right password that are free to a source which has logged in lately.
FREE_IF_KNOWN = 5
#: Seconds after which what a source has asked counts half; and how many sources are counted.
HALVE_EVERY = 60.0
COUNTED_SOURCES = 10_000
#: What arithmetic may lose of a credit.
_TINY = 1e-9


class Origin(NamedTuple):
    """Who asks, as far as fairness goes."""

    source: str = ""
    """The client's address, or its network."""
    known: bool = False
    """It has logged in lately."""
    suspect: bool = False
    """It has failed lately."""


ANYBODY = Origin()


class SentAway(StrEnum):
    """Why there is no turn."""

    CROWDED = "crowded"
    """Too many wait."""
    PATIENCE = "patience"
    """It was not its turn in time."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One check that waits or runs."""

    number: int
    origin: Origin
    since: float
    order: tuple[bool, bool, int, int] = (False, False, 0, 0)
    """The smallest is next. Kept while it waits, since a flood makes the queue look at it all the time."""
    begun: float | None = None
    paced: bool = False
    """Whether it runs, or ran, as a paced one."""


class FairQueue:
    """The checks that wait or run. Times are seconds of any clock that does not go back.

    Parameters
    ----------
    slots
        Checks that may run at once.
    most
        Checks that may wait or run.
    share, burst, patience
        See ``SHARE``, ``BURST`` and ``PATIENCE``.
    """

    def __init__(
        self,
        slots: int,
        *,
        most: int = MAX_PENDING,
        share: float = SHARE,
        burst: float = BURST,
        patience: float = PATIENCE,
    ) -> None:
        self._slots = slots
        self._most = most
        self._share = share
        self._burst = burst
        self._patience = patience
        self._waiting: list[Ticket] = []
        self._running: set[Ticket] = set()
        self._paced: Ticket | None = None
        self._credit = burst
        self._credited_at: float | None = None
        self._wrong: Counter[str] = Counter()
        self._right: Counter[str] = Counter()
        self._halve_at: float | None = None
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def join(self, origin: Origin, now: float) -> tuple[Ticket, Ticket | None]:
        """Add a check; return its ticket, and the ticket, perhaps the same, that is sent away since too many wait."""
        self._fade(now)
        self._wrong[origin.source] += 1
        ticket = Ticket(next(self._numbers), origin, now)
        self._waiting.append(ticket)
        self._sort(origin.source)
        if len(self) <= self._most:
            return ticket, None
        last = max(self._waiting, key=_order)
        self._waiting.remove(last)
        if not _is_guess(last):  # a crowd of others like it does not make it one when it comes again
            self._take_back(last.origin)
            self._sort(last.origin.source)
        return ticket, last

    def next(self, now: float) -> Ticket | None:
        """Return the check that may begin now, which counts as begun; None: there is none."""
        if not self._waiting or len(self._running) >= self._slots:
            return None
        ticket = min(self._waiting, key=_order)
        if _is_guess(ticket):
            if self._paced is not None or self._credit_at(now) < -_TINY:
                return None
            ticket.paced, self._paced = True, ticket
        self._waiting.remove(ticket)
        self._running.add(ticket)
        ticket.begun = now
        return ticket

    def leave(self, ticket: Ticket, right: bool | None, now: float) -> None:
        """Take back a ticket: its check is over, was never begun, or is not in the queue any more.

        Parameters
        ----------
        right
            Whether the password was; None: nobody knows.
        """
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif ticket in self._running and ticket.begun is not None:
            self._running.remove(ticket)
            if ticket is self._paced:
                self._paced = None
                # A debt is worked off before those who wait lose patience, however long a check took.
                most = self._share * self._patience / 2
                self._credit = max(self._credit_at(now) - (now - ticket.begun), -most)
        else:
            return
        if right is not False:
            self._take_back(ticket.origin)
        if right:
            self._right[ticket.origin.source] += 1
        self._sort(ticket.origin.source)

    def impatient(self, now: float) -> list[Ticket]:
        """Return the checks that have waited too long, which are sent away; they do not count as asked."""
        gone = [ticket for ticket in self._waiting if now >= ticket.since + self._patience and _is_guess(ticket)]
        for ticket in gone:
            self._waiting.remove(ticket)
            self._take_back(ticket.origin)
            self._sort(ticket.origin.source)
        return gone

    def wait(self, now: float) -> float | None:
        """Return the seconds after which :meth:`next` or :meth:`impatient` may change by time alone; None: never."""
        guesses = [ticket.since for ticket in self._waiting if _is_guess(ticket)]
        if not guesses:
            return None
        times = [min(guesses) + self._patience - now]
        if self._paced is None and len(self._running) < self._slots:
            times.append(-self._credit_at(now) / self._share)
        return max(0.0, min(times))

    def _sort(self, source: str | None = None) -> None:
        """Put checks in their place: those of one source, whose other checks, since they came, count as well."""
        for ticket in self._waiting:
            origin = ticket.origin
            if source is None or origin.source == source:
                wrong, right = self._wrong[origin.source], self._right[origin.source]
                known = origin.known or right > 0
                free = FREE_IF_KNOWN if known else not origin.suspect
                ticket.order = wrong > free + right, not known, wrong, ticket.number

    def _take_back(self, origin: Origin) -> None:
        if self._wrong[origin.source] > 0:  # the count may have faded meanwhile
            self._wrong[origin.source] -= 1

    def _credit_at(self, now: float) -> float:
        if self._credited_at is not None:
            self._credit = min(self._burst, self._credit + (now - self._credited_at) * self._share)
        self._credited_at = now
        return self._credit

    def _fade(self, now: float) -> None:
        if self._halve_at is None:
            self._halve_at = now + HALVE_EVERY
        if now >= self._halve_at or max(len(self._wrong), len(self._right)) >= COUNTED_SOURCES:
            self._halve_at = now + HALVE_EVERY
            self._wrong = _halved(self._wrong)
            self._right = _halved(self._right)
            self._sort()


_order = attrgetter("order")


def _is_guess(ticket: Ticket) -> bool:
    return ticket.order[0]


def _halved(counts: Counter[str]) -> Counter[str]:
    return Counter({source: times // 2 for source, times in counts.items() if times > 1})
