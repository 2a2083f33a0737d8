"""How long those wait who are turned away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.policy.tarpit import turned_away


@given(tarpit=st.floats(0, 60), chance=st.floats(0, 1, exclude_max=True))
def test_one_who_is_turned_away_waits_longer_than_one_who_failed_and_not_for_ever(tarpit, chance):
    assert 3 * tarpit <= turned_away(tarpit, chance) <= 4.5 * tarpit + 1e-9


def test_those_who_are_turned_away_together_do_not_come_again_together():
    assert len({turned_away(5.0, number / 10) for number in range(10)}) == 10
