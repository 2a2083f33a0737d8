"""Automatic bans: what is counted, when a ban begins and ends."""

from __future__ import annotations

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from postroad_transport.config import Bans
from postroad_transport.policy.bans import (
    NOTHING,
    Record,
    account_subject,
    address_subject,
    after_failure,
    is_allowed,
    is_banned,
    recent_failures,
)
from postroad_transport.policy.networks import parse_network

BANS = Bans(failures=3, window=60.0, duration=600.0)


def failed(*times: float, limit: int = 3) -> Record:
    record = NOTHING
    for time in times:
        record = after_failure(record, time, limit, BANS)
    return record


def test_the_last_of_enough_failures_within_the_window_bans():
    record = failed(0.0, 30.0)
    assert not is_banned(record, 30.0)
    record = after_failure(record, 59.0, 3, BANS)
    assert [is_banned(record, now) for now in (59.0, 658.9, 659.0)] == [True, True, False]


def test_failures_further_apart_than_the_window_never_ban():
    assert not is_banned(failed(*(30.0 * n for n in range(100))), 2970.0)


def test_failures_during_a_ban_do_not_prolong_it_and_the_count_begins_anew_after():
    record = failed(0.0, 0.0, 0.0, 1.0, 599.0)
    assert not is_banned(record, 600.0)
    record = after_failure(after_failure(record, 600.0, 3, BANS), 601.0, 3, BANS)
    assert not is_banned(record, 601.0)
    assert is_banned(after_failure(record, 602.0, 3, BANS), 602.0)


def test_spellings_that_a_directory_takes_for_one_name_count_as_one_account():
    spellings = (
        "alice",
        "ALICE",
        " alice",
        "al ice ",
        "\uff41\uff4c\uff49\uff43\uff45",
        "al\u00adice",
        "ali\u200bce",
        "alice\t",
    )
    assert {account_subject(spelling) for spelling in spellings} == {"alice"}


def test_a_limit_of_zero_records_nothing():
    assert failed(0.0, 0.0, 0.0, limit=0) is NOTHING


def test_a_clock_that_is_set_back_ends_bans_and_counts_nothing_from_the_future():
    assert not is_banned(failed(1000.0, 1000.0, 1000.0), 500.0)
    assert not is_banned(after_failure(failed(1000.0, 1000.0), 500.0, 3, BANS), 500.0)


class OneSubject(RuleBasedStateMachine):
    """A subject that fails at times, against a model that remembers everything."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.record = NOTHING
        self.counted: list[float] = []
        self.banned_until = 0.0

    @rule(seconds=st.sampled_from([0.0, 1.0, 20.0, 59.0, 60.0, 599.0, 600.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def fail(self):
        self.record = after_failure(self.record, self.now, BANS.failures, BANS)
        if self.now < self.banned_until:
            return
        self.counted.append(self.now)
        if len([time for time in self.counted if time > self.now - BANS.window]) >= BANS.failures:
            self.banned_until = self.now + BANS.duration
            self.counted = []

    @precondition(lambda self: not is_banned(self.record, self.now))
    @precondition(lambda self: not recent_failures(self.record, self.now, BANS.window))
    @rule()
    def forget_what_says_nothing_any_more(self):
        self.record = NOTHING

    @invariant()
    def the_verdict_is_the_models(self):
        assert is_banned(self.record, self.now) == (self.now < self.banned_until)

    @invariant()
    def memory_is_bounded(self):
        assert len(self.record.failures) < BANS.failures


TestOneSubject = OneSubject.TestCase


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_an_ipv4_address_counts_as_itself_also_when_mapped(address):
    assert address_subject(str(address)) == address_subject(f"::ffff:{address}") == str(address)


@settings(deadline=None)
@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_an_ipv6_address_counts_as_its_64(address, host):
    if address.ipv4_mapped:
        return
    subject = address_subject(str(address))
    neighbour = ipaddress.IPv6Address(int(address) >> 64 << 64 | host)
    if not neighbour.ipv4_mapped:
        assert address_subject(str(neighbour)) == subject
    assert address in ipaddress.ip_network(subject)
    assert address_subject(f"{ipaddress.IPv6Address(int(address) ^ 1 << 64)}") != subject


@settings(deadline=None)
@given(st.text(max_size=400))
def test_an_account_counts_in_one_case_and_in_bounded_memory(name):
    subject = account_subject(name)
    assert len(subject) <= 128
    assert account_subject(subject) == subject


def test_long_account_names_stay_apart():
    assert account_subject("x" * 500 + "a") != account_subject("x" * 500 + "b")


def test_allowed_ranges_hold_both_families_and_mapped_addresses():
    ranges = tuple(map(parse_network, ("192.0.2.0/24", "2001:db8::/32")))
    allowed = ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8:1::1"]
    assert [is_allowed(ip, ranges) for ip in allowed] == [True] * 3
    assert not any(is_allowed(ip, ranges) for ip in ("192.0.3.7", "2001:db9::1", "unknown"))
