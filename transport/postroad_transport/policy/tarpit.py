"""How long a client waits for a reply that a guesser should not have at once. Pure: chance is passed in.

A failed login has its reply after the connector's tarpit (Exchange's ``TarpitInterval``). One that is turned away
unheard, since others come first or since its address is banned, learns nothing by it and would come again at once: so
it has its reply later, and those who came together have theirs at different times.
"""

from __future__ import annotations

TURNED_AWAY = 3.0
"""Times the tarpit that one waits who is turned away; at the default of 5 s, less than clients wait for a reply."""
SPREAD = 0.5
"""Part of that by which it is spread."""


def turned_away(tarpit: float, chance: float) -> float:
    """Return the seconds until one who is turned away hears of it.

    Parameters
    ----------
    tarpit
        Seconds until one hears of a failed login.
    chance
        A random number from [0, 1).
    """
    return TURNED_AWAY * tarpit * (1 + SPREAD * chance)
