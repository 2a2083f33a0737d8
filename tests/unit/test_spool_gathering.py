"""How many commits a batch waits for."""

from __future__ import annotations

from postroad_transport.spool.gathering import ENOUGH, WINDOW, Gathering


def test_a_lone_client_waits_for_nobody() -> None:
    gathering = Gathering()
    gathering.outstanding(1)
    assert gathering.enough == 1


def test_a_batch_waits_for_as_many_as_have_been_there_at_once() -> None:
    gathering = Gathering()
    gathering.outstanding(3)
    gathering.outstanding(1)
    assert gathering.enough == 3


def test_never_for_more_than_is_worth_a_transaction() -> None:
    gathering = Gathering()
    gathering.outstanding(1000)
    assert gathering.enough == ENOUGH


def test_a_crowd_that_has_left_is_forgotten() -> None:
    gathering = Gathering()
    gathering.outstanding(5)
    for _ in range(WINDOW):
        gathering.batch_begins()
    assert gathering.enough == 5
    for _ in range(WINDOW):
        gathering.batch_begins()
    assert gathering.enough == 1
