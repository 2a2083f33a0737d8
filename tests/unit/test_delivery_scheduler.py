"""The scheduler's rules, one by one and under random operations."""

import time
from math import inf

from delivery_fakes import START, make_route
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from postroad_transport.config import SendLimits
from postroad_transport.delivery.scheduler import (
    IDLE_DESTINATION,
    INITIAL_WINDOW,
    MAX_RECIPIENTS,
    EntryState,
    Scheduler,
    transactions,
)
from postroad_transport.message import Envelope, Recipient

FAR = START + 10**9


class Line:
    """A scheduler and short ways to use it."""

    def __init__(self, capacity=1000, **limits):
        self.scheduler = Scheduler(capacity=capacity)
        self.limits = SendLimits(**limits)
        self.routes = {}
        self.count = 0

    def suspend(self, key="a", now=START, *, suspend=True):
        self.routes[key] = make_route(key, limits=self.limits, suspend=suspend)
        return self.scheduler.destination(key, self.routes[key], now)

    def add(self, key="a", now=START, *, deadline=FAR, next_attempt=0.0, held=False, received_at=None):
        route = self.routes.setdefault(key, make_route(key, limits=self.limits))
        self.count += 1
        envelope = Envelope(
            id=f"m{self.count}",
            received_at=received_at or now,
            sender="s@x",
            recipients=[Recipient(address="r@y")],
            held=held,
        )
        destination = self.scheduler.destination(key, route, now)
        return self.scheduler.add(
            envelope, envelope.recipients, destination, now=now, deadline=deadline, next_attempt=next_attempt
        )

    def take_all(self, now=START):
        taken = []
        while (entry := self.scheduler.take(now)) is not None:
            taken.append(entry)
        return taken

    def fail(self, entry, now, pause):
        counted = self.scheduler.unreachable(entry, now, reply="451 4.4.1 refused")
        if counted:
            self.scheduler.pause(entry.destination, now, pause)
        self.scheduler.requeue(entry, now, deadline=FAR)
        return counted


def test_entries_leave_in_the_order_they_came():
    line = Line()
    entries = [line.add() for _ in range(3)]
    assert line.take_all() == entries


def test_destinations_take_turns():
    line = Line()
    for _ in range(3):
        line.add("a")
    for _ in range(2):
        line.add("b")
    line.add("c")
    assert [e.destination.key for e in line.take_all()] == ["a", "b", "c", "a", "b", "a"]


def test_the_window_opens_with_success_up_to_the_limit():
    line = Line(connections=7)
    for _ in range(100):
        line.add()
    taken = line.take_all()
    assert len(taken) == INITIAL_WINDOW
    for _ in range(20):
        entry = taken.pop()
        line.scheduler.reached(entry, START)
        line.scheduler.done(entry, START)
        taken += line.take_all()
    assert len(taken) == 7


def test_a_limit_below_the_first_window_is_kept():
    line = Line(connections=2)
    for _ in range(5):
        line.add()
    assert len(line.take_all()) == 2


def test_no_limit_of_connections_leaves_the_capacity():
    line = Line(capacity=30, connections=0)
    for _ in range(100):
        line.add()
    taken = line.take_all()
    for _ in range(50):
        line.scheduler.reached(taken[0], START)
    assert len(taken + line.take_all()) == 30


def test_the_capacity_of_all_destinations_together_is_kept():
    line = Line(capacity=3)
    for key in "abcdefgh":
        line.add(key)
    taken = line.take_all()
    assert len(taken) == 3
    line.scheduler.done(taken[0], START)
    assert len(line.take_all()) == 1


def test_failures_of_one_cohort_count_once():
    line = Line()
    for _ in range(10):
        line.add()
    taken = line.take_all()
    assert [line.fail(entry, START + 1, 10) for entry in taken] == [True, False, False, False, False]
    assert taken[0].destination.failures == 1
    assert taken[0].destination.window == INITIAL_WINDOW // 2


def test_a_paused_destination_is_probed_by_one_entry_and_its_success_opens_the_gates():
    line = Line()
    for _ in range(10):
        line.add()
    for entry in line.take_all():
        line.fail(entry, START, 10)
    assert line.scheduler.take(START + 9) is None
    assert line.scheduler.wake_at() <= START + 10
    line.scheduler.advance(START + 10)
    [probe] = line.take_all(START + 10)
    line.scheduler.reached(probe, START + 11)
    line.scheduler.done(probe, START + 11)
    assert len(line.take_all(START + 11)) == INITIAL_WINDOW // 2 + 1


def test_the_entry_that_failed_goes_to_the_end_of_the_line():
    line = Line()
    entries = [line.add() for _ in range(7)]
    first = line.take_all()
    for entry in first:
        line.fail(entry, START, 10)
    line.scheduler.advance(START + 10)
    assert line.take_all(START + 10) == [entries[5]]


def test_another_destination_is_not_held_up_by_a_dead_one():
    line = Line()
    line.add("dead")
    for entry in line.take_all():
        line.fail(entry, START, 10)
    line.add("dead")
    alive = line.add("alive")
    assert line.take_all() == [alive]


def test_a_deferred_entry_waits_for_its_time_and_holds_nobody_up():
    line = Line()
    deferred = line.add()
    line.take_all()
    line.scheduler.requeue(deferred, START, deadline=FAR, next_attempt=START + 60)
    other = line.add()
    assert line.take_all() == [other]
    assert line.scheduler.wake_at() <= START + 60
    line.scheduler.advance(START + 60)
    assert line.take_all(START + 60) == [deferred]


def test_overdue_entries_are_handed_out_although_their_destination_is_dead():
    line = Line()
    for entry in [line.add(deadline=START + 100) for _ in range(3)]:
        assert entry.state is EntryState.READY
    for entry in line.take_all():
        assert line.scheduler.unreachable(entry, START, reply="") in (True, False)
        line.scheduler.pause(entry.destination, START, 10_000)
        line.scheduler.requeue(entry, START, deadline=START + 100)
    overdue = line.scheduler.advance(START + 100)
    assert len(overdue) == 3
    assert line.scheduler.advance(START + 101) == []
    assert line.take_all(START + 20_000) == []


def test_a_suspended_destination_hands_nothing_out_until_it_goes_on():
    line = Line()
    line.add()
    line.add("b")
    assert line.suspend().reply
    line.add()
    [other] = line.take_all()
    assert other.destination.key == "b"
    assert line.suspend(now=START + 1, suspend=False).reply == ""
    assert len(line.take_all(START + 1)) == 2


def test_a_suspended_destination_is_not_probed_either():
    line = Line()
    line.add()
    [entry] = line.take_all()
    line.fail(entry, START, 10)
    line.suspend()
    line.scheduler.advance(START + 20)
    assert line.take_all(START + 20) == []


def test_what_waits_for_a_suspended_destination_is_handed_out_when_overdue():
    line = Line()
    line.suspend()
    entry = line.add(deadline=START + 100)
    assert line.scheduler.advance(START + 100) == [entry]
    assert not entry.attempting


def test_rate_limits_pace_a_destination():
    line = Line(rate=10.0)
    for _ in range(3):
        line.add()
    assert len(line.take_all(START)) == 1
    assert line.scheduler.wake_at() <= START + 0.1
    line.scheduler.advance(START + 0.2)
    assert len(line.take_all(START + 0.2)) == 1


def test_held_entries_stay_until_released():
    line = Line()
    entry, held = line.add(), line.add(held=True)
    line.scheduler.hold(entry, START)
    assert line.take_all() == []
    held.envelope.held = False
    line.scheduler.release(held, START, deadline=FAR)
    line.scheduler.release(entry, START, deadline=FAR)
    assert set(line.take_all()) == {entry, held}


def test_a_running_entry_is_held_when_it_comes_back():
    line = Line()
    entry = line.add()
    line.take_all()
    entry.envelope.held = True
    line.scheduler.hold(entry, START)
    assert entry.state is EntryState.RUNNING
    line.scheduler.requeue(entry, START, deadline=FAR)
    assert entry.state is EntryState.HELD


def test_retry_wakes_an_entry_and_its_destination():
    line = Line()
    entry = line.add()
    line.take_all()
    line.scheduler.unreachable(entry, START, reply="")
    line.scheduler.pause(entry.destination, START, 1000)
    line.scheduler.requeue(entry, START, deadline=FAR, next_attempt=START + 1000)
    assert line.take_all() == []
    line.scheduler.retry(entry, START)
    assert line.take_all() == [entry]
    # The failure of what was retried at this very moment counts, or it would be tried without end.
    assert line.fail(entry, START, 1000)


def test_oldest_is_exact_whatever_leaves():
    line = Line()
    young, old, older = (line.add(received_at=START - age) for age in (1, 50, 99))
    destination = young.destination
    for gone, left in ((old, START - 99), (older, START - 1), (young, None)):
        line.scheduler.done(gone, START)
        assert line.scheduler.oldest(destination) == left


def test_idle_destinations_are_forgotten_but_not_while_they_are_paused():
    line = Line()
    entry = line.add()
    line.take_all()
    line.scheduler.unreachable(entry, START, reply="")
    line.scheduler.pause(entry.destination, START, 500)
    line.scheduler.done(entry, START)
    line.scheduler.forget_idle(START + 499)
    assert line.scheduler.destinations
    line.scheduler.forget_idle(START + 500 + IDLE_DESTINATION)
    assert not line.scheduler.destinations


def test_recipients_are_split_into_transactions():
    parts = list(transactions([Recipient(address=str(n)) for n in range(2 * MAX_RECIPIENTS + 1)]))
    assert [len(part) for part in parts] == [MAX_RECIPIENTS, MAX_RECIPIENTS, 1]


def test_remains_of_settled_entries_do_not_pile_up():
    line = Line()
    for n in range(20_000):
        line.add(now=START + n)
        entry = line.scheduler.take(START + n)
        line.scheduler.reached(entry, START + n)
        line.scheduler.done(entry, START + n)
    assert len(line.scheduler._timers) < 2000
    assert len(entry.destination.arrivals) < 2000


def test_a_hundred_thousand_entries_for_a_dead_destination_cost_no_more_each_than_a_thousand():
    def seconds_each(count):
        line = Line()
        began = time.process_time()
        for n in range(count):
            line.add(now=START + n * 1e-3, deadline=START + 10_000 + n)
        for pause in range(20):
            now = START + 200 + pause * 100
            line.scheduler.advance(now)
            for entry in line.take_all(now):
                line.fail(entry, now, 50)
        for entry in list(line.scheduler.entries()):
            line.scheduler.done(entry, START)
        assert line.scheduler.count == 0
        return (time.process_time() - began) / count

    small = min(seconds_each(1000) for _ in range(3))
    assert seconds_each(100_000) < 8 * small


class SchedulerMachine(RuleBasedStateMachine):
    """Whatever happens, nothing is lost, nothing runs twice, and what can work is offered."""

    def __init__(self):
        super().__init__()
        self.line = Line(capacity=6, connections=4)
        self.scheduler = self.line.scheduler
        self.now = START
        self.alive = []
        self.running = []

    @rule(key=st.sampled_from("abc"), wait=st.sampled_from([0, 0, 5]), held=st.booleans())
    def add(self, key, wait, held):
        held = held and wait
        self.alive.append(
            self.line.add(
                key, self.now, deadline=self.now + 40, next_attempt=self.now + wait if wait else 0.0, held=bool(held)
            )
        )

    @rule()
    def take(self):
        entry = self.scheduler.take(self.now)
        if entry is not None:
            assert entry in self.alive
            assert entry not in self.running
            assert not entry.envelope.held
            assert self.now >= entry.destination.backoff_until
            self.running.append(entry)

    @precondition(lambda self: self.running)
    @rule(end=st.sampled_from(["done", "defer", "dead", "again"]), data=st.data())
    def finish(self, end, data):
        entry = data.draw(st.sampled_from(self.running))
        self.running.remove(entry)
        if end == "done":
            if entry.attempting:
                self.scheduler.reached(entry, self.now)
            self.scheduler.done(entry, self.now)
            self.alive.remove(entry)
        elif end == "dead" and entry.attempting:
            self.line.fail(entry, self.now, 7)
        else:
            wait = self.now + 3 if end == "defer" else 0.0
            self.scheduler.requeue(entry, self.now, deadline=self.now + 40, next_attempt=wait)

    @rule(seconds=st.sampled_from([0.5, 3, 20]))
    def pass_time(self, seconds):
        self.now += seconds
        for entry in self.scheduler.advance(self.now):
            assert entry in self.alive
            assert entry not in self.running
            self.running.append(entry)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), verb=st.sampled_from(["hold", "release", "retry", "delete"]))
    def intervene(self, data, verb):
        entry = data.draw(st.sampled_from(self.alive))
        if verb == "hold":
            entry.envelope.held = True
            self.scheduler.hold(entry, self.now)
        elif verb == "release":
            entry.envelope.held = False
            self.scheduler.release(entry, self.now, deadline=self.now + 40)
        elif verb == "retry":
            self.scheduler.retry(entry, self.now)
        elif entry not in self.running:
            self.scheduler.done(entry, self.now)
            self.alive.remove(entry)

    @invariant()
    def nothing_is_lost(self):
        assert set(self.scheduler.entries()) == set(self.alive)
        assert self.scheduler.count == len(self.alive)

    @invariant()
    def counts_are_right(self):
        assert self.scheduler.running == sum(entry.attempting for entry in self.alive) <= 6
        for destination in self.scheduler.destinations.values():
            ready = [e for e in destination.entries if e.state is EntryState.READY]
            assert destination.ready_count == len(ready)
            assert destination.running == sum(e.attempting for e in destination.entries) <= 4
            assert all(e in destination.ready for e in ready)

    @invariant()
    def what_can_work_has_its_turn_and_what_cannot_has_a_timer(self):
        for destination in self.scheduler.destinations.values():
            if destination.can_work(self.now):
                assert destination.in_turn
            elif destination.ready_count and not destination.running:
                assert self.scheduler.wake_at() < inf


SchedulerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestScheduler = SchedulerMachine.TestCase
