"""How long a batch waits for company: a pure decision, from how many commits there have been at once.

A transaction costs ten times what another message in it costs, and where messages come slower than the disk writes,
each would get one of its own. PostgreSQL's ``commit_delay`` is the same idea.
"""

from __future__ import annotations

GATHER = 0.002
"""Seconds that a batch waits at the most."""
ENOUGH = 8
"""Commits that are worth a transaction without waiting for more."""
WINDOW = 32
"""Batches after which what has not come again is forgotten."""


class Gathering:
    """How many commits to wait for: as many as have lately been outstanding at once, and never more than `ENOUGH`.

    So a client that is alone waits for nobody, and a few clients that wait for their replies wait for no others.
    """

    __slots__ = ("_batches", "_before", "_now")

    def __init__(self) -> None:
        self._batches = 0
        self._before = 1
        self._now = 1

    @property
    def enough(self) -> int:
        """The number of waiting commits that begins a batch at once."""
        return min(ENOUGH, max(self._before, self._now))

    def outstanding(self, commits: int) -> None:
        """Note how many commits wait or are being written."""
        self._now = max(self._now, commits)

    def batch_begins(self) -> None:
        """Count a batch."""
        self._batches += 1
        if self._batches == WINDOW:
            self._batches, self._before, self._now = 0, self._now, 1
