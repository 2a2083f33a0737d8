"""Who is checked next, how much of the time guesses may take, and that nobody waits for ever."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad_transport.auth.fair_queue import (
    BURST,
    COUNTED_SOURCES,
    FREE_IF_KNOWN,
    HALVE_EVERY,
    PATIENCE,
    SHARE,
    FairQueue,
    Origin,
    Ticket,
)

STRANGER = Origin("stranger")
GUESSER = Origin("guesser", suspect=True)
HOME = Origin("home", known=True)
CHECK = 0.05
"""Seconds that a check takes."""


class Desk:
    """Runs what the queue lets begin, each check for so many seconds, on a clock of its own."""

    def __init__(self, slots: int = 2, **limits: float) -> None:
        self.queue = FairQueue(slots, **limits)  # type: ignore[arg-type]  # of several types
        self.now = 0.0
        self.running: list[tuple[float, Ticket, bool]] = []
        self.right: dict[Ticket, bool] = {}
        self.begun: list[Ticket] = []
        self.away: list[Ticket] = []
        self.paced: list[tuple[float, float]] = []

    def join(self, origin: Origin, right: bool = False) -> Ticket:
        ticket, last = self.queue.join(origin, self.now)
        self.right[ticket] = right
        if last is not None:
            self.away.append(last)
        self._begin()
        return ticket

    def _begin(self) -> None:
        self.away += self.queue.impatient(self.now)
        while (ticket := self.queue.next(self.now)) is not None:
            self.begun.append(ticket)
            self.running.append((self.now + CHECK, ticket, self.right[ticket]))
            if ticket.paced:
                self.paced.append((self.now, self.now + CHECK))

    def run(self, seconds: float) -> None:
        """Let the clock go on."""
        end = self.now + seconds
        while True:
            wait = self.queue.wait(self.now)
            times = [over for over, _, _ in self.running]
            if wait is not None:
                times.append(self.now + max(wait, 1e-6))
            if not times or min(times) > end:
                break
            self.now = max(self.now, min(times))
            for item in [item for item in self.running if item[0] <= self.now]:
                self.running.remove(item)
                self.queue.leave(item[1], item[2], self.now)
            self._begin()
        self.now = end

    def order(self) -> list[str]:
        return [ticket.origin.source for ticket in self.begun]


def test_a_strangers_first_check_begins_at_once_while_guessers_queue():
    desk = Desk()
    for _ in range(40):
        desk.join(GUESSER)
    desk.run(1)
    ticket = desk.join(STRANGER)
    assert ticket.begun == desk.now
    assert not ticket.paced


def test_who_logged_in_before_may_mistype_a_few_times_without_being_paced():
    desk = Desk()
    for _ in range(FREE_IF_KNOWN):
        for _ in range(20):
            desk.join(GUESSER)
        ticket = desk.join(Origin("home", known=True, suspect=True))
        assert not ticket.paced
        desk.run(CHECK)
        assert ticket.begun is not None
    for _ in range(20):
        desk.join(HOME)
    desk.run(CHECK)
    assert desk.begun[-1].paced


def test_a_stranger_who_mistypes_once_is_checked_again_before_those_who_guess_on_and_soon():
    desk = Desk()
    for number in range(1000):
        if number == 500:
            desk.join(STRANGER)
        if number == 600:
            again = desk.join(STRANGER, right=True)
        desk.join(Origin(f"guesser {number % 20}", suspect=True))
        desk.run(0.05)
    assert again.begun is not None
    assert again.begun - again.since <= CHECK / SHARE + CHECK


def test_of_two_wrong_passwords_at_once_without_an_attack_neither_waits():
    desk = Desk()
    for _ in range(3):
        assert desk.join(STRANGER).begun == desk.now
        desk.run(2)


def test_an_office_with_right_passwords_behind_one_address_is_not_paced():
    desk = Desk(slots=4)
    assert desk.join(STRANGER, right=True).begun == 0
    desk.run(1)
    for _ in range(50):
        tickets = [desk.join(STRANGER, right=True) for _ in range(4)]
        desk.run(0.1)
        assert all(not ticket.paced for ticket in tickets)
    assert desk.away == []


def test_guesses_run_one_at_a_time_and_leave_the_other_slots():
    desk = Desk(slots=3, burst=100)
    for _ in range(50):
        desk.join(GUESSER)
        desk.run(0.01)
        assert len(desk.running) <= 1


def test_when_too_many_wait_the_last_in_order_is_sent_away():
    desk = Desk(slots=1, most=3)
    desk.join(STRANGER)
    guesses = [desk.join(GUESSER) for _ in range(2)]
    assert desk.join(Origin("guesser", suspect=True)) in desk.away
    newcomer = desk.join(Origin("newcomer"))
    assert desk.away[-1] is guesses[1]
    desk.run(1)
    assert desk.order() == ["stranger", "newcomer", "guesser"]
    assert newcomer not in desk.away


def test_who_waited_in_vain_is_no_further_behind_than_before():
    queue = FairQueue(1)
    running, _ = queue.join(STRANGER, 0)
    assert queue.next(0) is running
    vain, _ = queue.join(GUESSER, 0)
    assert queue.impatient(PATIENCE - 0.01) == []
    assert queue.impatient(PATIENCE) == [vain]
    other, _ = queue.join(Origin("other", suspect=True), PATIENCE)
    again, _ = queue.join(GUESSER, PATIENCE)
    queue.leave(other, None, PATIENCE)
    queue.join(Origin("other", suspect=True), PATIENCE)
    queue.leave(running, False, PATIENCE)
    assert queue.next(PATIENCE) is again


def test_a_stranger_sent_away_by_a_crowd_of_strangers_is_no_guesser_when_it_comes_again():
    queue = FairQueue(1, most=3)
    crowd = [queue.join(Origin(f"stranger {number}"), 0)[0] for number in range(3)]
    sent, away = queue.join(STRANGER, 0)
    assert away is sent
    queue.leave(sent, None, 0)
    for ticket in crowd:
        queue.leave(ticket, False, CHECK)
    again, _ = queue.join(STRANGER, CHECK)
    assert queue.next(CHECK) is again
    assert not again.paced


def test_a_check_that_nobody_can_decide_counts_neither_as_right_nor_as_wrong():
    queue = FairQueue(1)
    for number in range(20):
        ticket, _ = queue.join(STRANGER, number)
        assert queue.next(number) is ticket
        assert not ticket.paced
        queue.leave(ticket, None, number + CHECK)


def test_a_ticket_that_is_given_up_leaves_the_queue_and_once_more_does_nothing():
    queue = FairQueue(1)
    running, _ = queue.join(STRANGER, 0)
    assert queue.next(0) is running
    waiting, _ = queue.join(GUESSER, 0)
    for _ in range(2):
        queue.leave(waiting, None, 1)
        queue.leave(running, None, 1)
    assert len(queue) == 0
    assert queue.next(1) is None
    assert queue.wait(1) is None


def test_wrong_passwords_are_forgotten_in_time():
    desk = Desk()
    for _ in range(10):
        desk.join(STRANGER)
        desk.run(5)
    assert desk.begun[-1].paced
    for _ in range(5):
        desk.join(Origin("other"), right=True)
        desk.run(HALVE_EVERY)
    assert not desk.join(STRANGER).paced


def test_sources_are_counted_up_to_a_bound():
    queue = FairQueue(1)
    for number in range(COUNTED_SOURCES + 10):
        ticket, _ = queue.join(Origin(f"{number}"), 0)
        queue.next(0)
        queue.leave(ticket, bool(number % 2), 0)
    assert len(queue._wrong) <= COUNTED_SOURCES
    assert len(queue._right) <= COUNTED_SOURCES


def test_one_very_long_check_does_not_keep_those_after_it_waiting_beyond_their_patience():
    queue = FairQueue(2)
    long, _ = queue.join(GUESSER, 0)
    assert queue.next(0) is long
    queue.leave(long, False, 600)
    after, _ = queue.join(GUESSER, 600)
    wait = queue.wait(600)
    assert wait is not None
    assert wait <= PATIENCE / 2
    assert queue.next(600 + wait) is after


arrivals = st.lists(
    st.tuples(
        st.floats(0, 0.5),
        st.builds(Origin, st.sampled_from("abcdef"), st.booleans(), st.booleans()),
        st.booleans(),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(arrivals, st.integers(1, 4), st.integers(1, 64))
def test_everybody_begins_or_is_sent_away_within_the_patience_and_never_more_than_may(asked, slots, most):
    desk = Desk(slots, most=most)
    tickets = []
    for seconds, origin, right in asked:
        tickets.append(desk.join(origin, right))
        assert len(desk.running) <= slots
        assert len(desk.queue) <= max(most, slots)
        desk.run(seconds)
    desk.run(PATIENCE + most * CHECK)
    assert len(desk.queue) == 0
    assert Counter(map(id, desk.begun + desk.away)) == Counter(map(id, tickets))


@settings(deadline=None)
@given(arrivals, st.integers(1, 4))
def test_guesses_never_take_more_than_their_share_of_any_stretch_of_time(asked, slots):
    desk = Desk(slots)
    for seconds, origin, right in asked:
        desk.join(origin, right)
        desk.run(seconds)
    desk.run(PATIENCE)
    for first, (begin, _) in enumerate(desk.paced):
        used = 0.0
        for _, end in desk.paced[first:]:
            used += CHECK
            assert used <= BURST + CHECK + SHARE * (end - begin) + 1e-6


@settings(deadline=None)
@given(arrivals, st.integers(1, 4), st.integers(0, 60))
def test_a_strangers_first_check_waits_for_others_like_it_only(asked, slots, before):
    desk = Desk(slots)
    for _ in range(before):
        desk.join(GUESSER)
    for seconds, origin, _ in asked:
        desk.join(origin._replace(known=False, suspect=True))
        desk.run(seconds)
    ticket = desk.join(Origin("newcomer"))
    desk.run(1)
    assert ticket.begun is not None
    # With one slot it waits for the guess that runs.
    assert ticket.begun - ticket.since <= CHECK + 1e-6


@settings(deadline=None)
@given(st.integers(2, 40), st.floats(0.2, 1.0))
def test_under_a_flood_whoever_asks_least_is_checked_within_the_patience(guessers, every):
    desk = Desk()
    seconds = 0.0
    while seconds < 5:
        for number in range(guessers):
            desk.join(Origin(f"guesser {number}", suspect=True))
        desk.run(every)
        seconds += every
    tickets = []
    for _ in range(3):
        tickets.append(desk.join(Origin("mistyped", suspect=True)))
        for _ in range(3):
            for number in range(guessers):
                desk.join(Origin(f"guesser {number}", suspect=True))
            desk.run(1)
    assert all(ticket.begun is not None for ticket in tickets)


@pytest.mark.parametrize("slots", [1, 2])
def test_waiting_says_when_a_guess_may_begin(slots):
    queue = FairQueue(slots, burst=0)
    first, _ = queue.join(GUESSER, 0)
    assert queue.next(0) is first
    queue.leave(first, False, 0.1)
    second, _ = queue.join(GUESSER, 0.1)
    assert queue.next(0.1) is None
    wait = queue.wait(0.1)
    assert wait == pytest.approx(0.1 / SHARE)
    assert queue.next(0.1 + wait) is second
