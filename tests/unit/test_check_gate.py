"""Coroutines wait for their turn, and nothing is left of those that went away."""

from __future__ import annotations

import asyncio

import pytest

from postroad_transport.auth.check_gate import CheckGate, OverloadedError
from postroad_transport.auth.fair_queue import FairQueue, Origin
from postroad_transport.telemetry.metrics import Metrics

STRANGER = Origin("stranger")
GUESSER = Origin("guesser", suspect=True)


class Check:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> bool:
        self.begun.set()
        return await self.answer


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, {"source": "x", **labels}) or 0.0


async def test_a_guess_begins_by_itself_when_its_time_has_come():
    metrics = Metrics()
    gate = CheckGate("x", FairQueue(2, share=0.5, burst=0.0), metrics)

    async def wrong() -> bool:
        await asyncio.sleep(0.01)
        return False

    for _ in range(2):
        assert await asyncio.wait_for(gate.run(GUESSER, wrong), 10) is False
    assert len(gate) == 0
    assert sample(metrics, "postroad_password_wait_seconds_count", turn="paced") == 2
    assert sample(metrics, "postroad_password_wait_seconds_sum", turn="paced") > 0


async def test_a_guess_that_waits_too_long_is_sent_away_and_counted():
    metrics = Metrics()
    gate = CheckGate("x", FairQueue(1, patience=0.01), metrics)
    check = Check()
    running = asyncio.create_task(gate.run(STRANGER, check))
    await check.begun.wait()
    with pytest.raises(OverloadedError):
        await asyncio.wait_for(gate.run(GUESSER, Check()), 10)
    assert sample(metrics, "postroad_passwords_sent_away_total", reason="patience") == 1
    check.answer.set_result(True)
    assert await running
    assert len(gate) == 0


async def test_when_too_many_wait_the_guess_is_sent_away_and_counted():
    metrics = Metrics()
    gate = CheckGate("x", FairQueue(1, most=2), metrics)
    check, later = Check(), Check()
    running = asyncio.create_task(gate.run(STRANGER, check))
    guess = asyncio.create_task(gate.run(GUESSER, Check()))
    await settled()
    newcomer = asyncio.create_task(gate.run(Origin("newcomer"), later))
    with pytest.raises(OverloadedError):
        await guess
    assert sample(metrics, "postroad_passwords_sent_away_total", reason="crowded") == 1
    check.answer.set_result(True)
    later.answer.set_result(False)
    assert await asyncio.gather(running, newcomer) == [True, False]


@pytest.mark.parametrize("while_it_waits", [True, False])
async def test_a_check_that_is_cancelled_makes_room(while_it_waits):
    gate = CheckGate("x", FairQueue(1))
    first, second, third = Check(), Check(), Check()
    running = asyncio.create_task(gate.run(STRANGER, first))
    await first.begun.wait()
    waiting = asyncio.create_task(gate.run(Origin("second"), second))
    last = asyncio.create_task(gate.run(Origin("third"), third))
    await settled()
    (waiting if while_it_waits else running).cancel()
    if while_it_waits:
        first.answer.set_result(False)
        await third.begun.wait()
        assert not second.begun.is_set()
    else:
        await second.begun.wait()
        second.answer.set_result(False)
    third.answer.set_result(True)
    assert await last
    await asyncio.gather(running, waiting, return_exceptions=True)
    assert len(gate) == 0


async def test_a_turn_given_to_a_check_that_was_just_cancelled_goes_to_the_next():
    gate = CheckGate("x", FairQueue(1))
    first, third = Check(), Check()
    running = asyncio.create_task(gate.run(STRANGER, first))
    await first.begun.wait()
    waiting = asyncio.create_task(gate.run(Origin("second"), Check()))
    last = asyncio.create_task(gate.run(Origin("third"), third))
    await settled()
    first.answer.set_result(False)
    waiting.cancel()
    await third.begun.wait()
    third.answer.set_result(True)
    assert await asyncio.gather(running, last) == [False, True]
    assert waiting.cancelled()
    assert len(gate) == 0


async def test_closing_sends_away_whoever_waits_and_lets_finish_what_runs():
    gate = CheckGate("x", FairQueue(1))
    check = Check()
    running = asyncio.create_task(gate.run(STRANGER, check))
    waiting = asyncio.create_task(gate.run(Origin("second"), Check()))
    await settled()
    gate.close()
    with pytest.raises(OverloadedError):
        await waiting
    check.answer.set_result(True)
    assert await running
    assert len(gate) == 0
