"""When to try again, when to give up, when to say that it takes long. Pure: clock and randomness are arguments.

Times are seconds since the epoch, intervals seconds (RFC 5321 section 4.5.4.1; the policy's fields are those of
:class:`RetryPolicy`).

1. The n-th attempt is followed by the n-th step of the schedule; the last step repeats.
2. A step is stretched by up to a tenth, so that what failed together does not come back together.
3. No attempt is planned after the expiration; the step that would cross it is cut, so that there is one last
   try at that moment, and after that none.
"""

from __future__ import annotations

from postroad_transport.config import RetryPolicy

JITTER = 0.1
"""How much of a step may be added to it."""

FIRST_BACKOFF = 2.0
"""First pause of a destination that cannot be reached; it doubles up to the schedule's longest step."""

GRACE = 60.0
"""How long an attempt that is due may keep a deadline waiting: a last try comes before the expiry."""


def expires_at(policy: RetryPolicy, received_at: float) -> float:
    """Return the time after which no attempt starts."""
    return received_at + policy.expiration


def next_attempt(
    policy: RetryPolicy, *, attempts: int, received_at: float, now: float, random: float
) -> float | None:
    """Return when to try next, or None when the message expires now.

    Parameters
    ----------
    policy
        Schedule and expiration.
    attempts
        Attempts made so far, at least 1.
    received_at, now
        When the message was accepted, and the time of this decision.
    random
        From [0, 1): where in the jitter's range this one falls.
    """
    end = expires_at(policy, received_at)
    if now >= end:
        return None
    step = policy.schedule[min(attempts, len(policy.schedule)) - 1] if policy.schedule else FIRST_BACKOFF
    return min(now + step * (1.0 + JITTER * random), end)


def backoff(policy: RetryPolicy, *, failures: int, random: float) -> float:
    """Return how long a destination that failed `failures` times in a row (at least 1) is left alone."""
    longest = max(policy.schedule, default=FIRST_BACKOFF)
    # 2**32 seconds is past any schedule; the cap keeps the power from growing without end.
    pause = min(FIRST_BACKOFF * 2.0 ** min(failures - 1, 32), float(longest))
    return pause * (1.0 + JITTER * random)


def delay_due(policy: RetryPolicy, *, received_at: float, now: float) -> bool:
    """Return whether a sender who wants to know should be told by now that delivery takes long."""
    return policy.delay_notification > 0 and now >= received_at + policy.delay_notification


def deadline(policy: RetryPolicy, *, received_at: float, now: float, delay_pending: bool) -> float:
    """Return when a message must be looked at even if no attempt was made until then.

    That is when its delay notice is due (if one is pending), else when it expires; never at once, so that an
    attempt that is possible is made first.
    """
    end = expires_at(policy, received_at)
    moment = end
    if delay_pending and policy.delay_notification > 0:
        moment = min(end, received_at + policy.delay_notification)
    return max(moment, now) + GRACE
