"""When to try again, when to give up (RFC 5321 section 4.5.4.1)."""

from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.config import RetryPolicy
from postroad_transport.delivery.retry import (
    FIRST_BACKOFF,
    JITTER,
    backoff,
    deadline,
    delay_due,
    expires_at,
    next_attempt,
)

START = 1_700_000_000.0
policies = st.builds(
    RetryPolicy,
    schedule=st.lists(st.integers(1, 86_400), min_size=1, max_size=8).map(tuple),
    expiration=st.integers(60, 700_000),
    delay_notification=st.integers(0, 100_000),
)
ages = st.floats(0, 800_000)
fractions = st.floats(0, 1, exclude_max=True)


@given(policies, st.integers(1, 50), ages, fractions)
def test_next_attempt_is_later_within_jitter_and_never_beyond_expiration(policy, attempts, age, fraction):
    now = START + age
    moment = next_attempt(policy, attempts=attempts, received_at=START, now=now, random=fraction)
    end = expires_at(policy, START)
    if moment is None:
        assert now >= end
        return
    step = policy.schedule[min(attempts, len(policy.schedule)) - 1]
    assert now < moment <= end
    assert moment <= now + step * (1 + JITTER)
    assert moment == end or moment >= now + step


@given(policies, st.integers(1, 50), ages, fractions, fractions)
def test_more_randomness_never_means_earlier(policy, attempts, age, one, other):
    low, high = sorted((one, other))
    first, second = (
        next_attempt(policy, attempts=attempts, received_at=START, now=START + age, random=r) for r in (low, high)
    )
    assert (first is None) == (second is None)
    assert first is None or first <= second


@given(policies, fractions)
def test_following_the_schedule_ends_with_one_last_try_at_the_expiration(policy, fraction):
    now, tries = START, []
    for attempt in range(1, 2000):
        moment = next_attempt(policy, attempts=attempt, received_at=START, now=now, random=fraction)
        if moment is None:
            assert tries[-1] == expires_at(policy, START)
            break
        assert moment > now
        tries.append(now := moment)
    else:
        # A short schedule and a long life: still under way, and still in order.
        assert tries == sorted(tries)


def test_the_schedule_is_followed_and_its_last_step_repeats():
    policy = RetryPolicy(schedule=(60, 300), expiration=100_000)
    steps = [next_attempt(policy, attempts=n, received_at=START, now=START, random=0.0) - START for n in (1, 2, 3, 9)]
    assert steps == [60, 300, 300, 300]


@given(policies, st.integers(1, 5000), fractions)
def test_backoff_is_bounded_by_the_longest_step(policy, failures, fraction):
    longest = max(policy.schedule)
    pause = backoff(policy, failures=failures, random=fraction)
    assert 0 < pause <= longest * (1 + JITTER)
    assert pause >= min(FIRST_BACKOFF, longest)


@given(policies, st.integers(1, 100))
def test_backoff_never_shrinks_while_failures_go_on(policy, failures):
    assert backoff(policy, failures=failures, random=0.0) <= backoff(policy, failures=failures + 1, random=0.0)


@given(policies, ages, st.booleans())
def test_deadline_lies_ahead_and_not_before_what_it_is_for(policy, age, pending):
    now = START + age
    moment = deadline(policy, received_at=START, now=now, delay_pending=pending)
    assert moment > now
    if not pending or not policy.delay_notification:
        assert moment > expires_at(policy, START)
    elif moment <= expires_at(policy, START):
        assert delay_due(policy, received_at=START, now=moment)


def test_no_delay_notice_is_due_when_the_policy_turns_them_off():
    policy = RetryPolicy(delay_notification=0)
    assert not delay_due(policy, received_at=START, now=START + 10**9)


def test_delay_notice_is_due_from_its_age_on():
    policy = RetryPolicy(delay_notification=100)
    assert not delay_due(policy, received_at=START, now=START + 99)
    assert delay_due(policy, received_at=START, now=START + 100)
