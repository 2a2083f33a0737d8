"""When to stop asking a server that fails, and when to try it again."""

from __future__ import annotations

#: Failures in a row after which a server is left alone.
FAILURES = 3
#: Seconds for which it is left alone first; doubled each time it fails again, up to the last.
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 30.0


class Breaker:
    """Counts failures in a row. Has no clock: times are seconds of any clock that does not go back.

    While a pause lasts nobody asks. After it one asks, and only when that went well do the others.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._until = 0.0

    def allows(self, now: float) -> bool:
        """Tell whether to ask now. Whoever is told yes reports with :meth:`succeeded` or :meth:`failed`."""
        if self._failures < FAILURES:
            return True
        if now < self._until:
            return False
        # One goes ahead; should it never report, the next goes after as long again.
        self._until = now + self._pause
        return True

    def succeeded(self) -> None:
        """The server answered, be it with a refusal."""
        self._failures = 0
        self._pause = FIRST_PAUSE

    def failed(self, now: float) -> None:
        """The server did not answer, or said that it cannot."""
        self._failures += 1
        if self._failures > FAILURES:
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        if self._failures >= FAILURES:
            self._until = now + self._pause
