"""Whose password is checked next when many wait: those who guess never hold up the others."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad_transport.auth.check_gate import OverloadedError
from postroad_transport.auth.fair_queue import Origin
from postroad_transport.auth.password_verifier import PasswordVerifier


class Checks:
    """Stands in for the hash function: holds the one thread until told, and records the order."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, encoded: str, password: bytes) -> bool:
        self.order.append(password.decode())
        self.begun.set()
        assert self.go_on.wait(10)
        return password.startswith(b"right")


class Desk:
    """A verifier with one thread that is busy with one check already."""

    def __init__(self, max_pending: int = 64) -> None:
        self.checks = Checks()
        self.verifier = PasswordVerifier(threads=1, max_pending=max_pending, check=self.checks)
        self.tasks: list[asyncio.Task[bool]] = []

    async def __aenter__(self) -> Desk:
        await self.ask("first", Origin("203.0.113.1"))
        await asyncio.to_thread(self.checks.begun.wait, 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.checks.go_on.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.verifier.close()

    async def ask(self, password: str, origin: Origin) -> asyncio.Task[bool]:
        task = asyncio.create_task(self.verifier.verify("user", password, "hash", origin))
        self.tasks.append(task)
        for _ in range(2):  # the session's task, and the check's
            await asyncio.sleep(0)
        return task

    async def order(self) -> list[str]:
        self.checks.go_on.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return self.checks.order[1:]


async def test_known_addresses_come_first_and_those_that_failed_last():
    async with Desk() as desk:
        await desk.ask("guess", Origin("a", suspect=True))
        await desk.ask("stranger", Origin("b"))
        await desk.ask("typing error at home", Origin("c", known=True, suspect=True))
        await desk.ask("usual", Origin("d", known=True))
        assert await desk.order() == ["typing error at home", "usual", "stranger", "guess"]


async def test_a_source_that_asks_much_waits_for_one_that_asks_little():
    async with Desk() as desk:
        for n in range(5):
            await desk.ask(f"many {n}", Origin("a"))
        await desk.ask("one", Origin("b"))
        assert await desk.order() == ["one", *(f"many {n}" for n in range(5))]


async def test_right_passwords_do_not_count_against_an_office_behind_one_address():
    async with Desk() as desk:
        desk.checks.go_on.set()
        for n in range(5):
            assert await desk.verifier.verify(f"user{n}", "right", "hash", Origin("office"))
        desk.checks.go_on.clear()
        desk.checks.begun.clear()
        desk.checks.order.clear()
        await desk.ask("busy", Origin("x"))
        await asyncio.to_thread(desk.checks.begun.wait, 10)
        await desk.ask("office", Origin("office"))
        await desk.ask("b1", Origin("b"))
        await desk.ask("b2", Origin("b"))
        assert await desk.order() == ["office", "b1", "b2"]


async def test_when_too_many_wait_the_guesser_is_sent_away_not_the_newcomer():
    async with Desk(max_pending=4) as desk:
        guesses = [await desk.ask(f"guess {n}", Origin("a")) for n in range(3)]
        refused = await desk.ask("guess 3", Origin("a"))
        newcomer = await desk.ask("right", Origin("b"))
        with pytest.raises(OverloadedError):
            await refused
        with pytest.raises(OverloadedError):
            await guesses[2]
        assert await desk.order() == ["right", "guess 0", "guess 1"]
        assert await newcomer


async def test_guesses_leave_one_thread_to_the_others():
    checks = Checks()
    verifier = PasswordVerifier(threads=2, check=checks)
    suspect = Origin("a", suspect=True)
    guesses = [asyncio.create_task(verifier.verify("user", f"guess {n}", "hash", suspect)) for n in range(2)]
    await asyncio.to_thread(checks.begun.wait, 10)
    checks.begun.clear()
    stranger = asyncio.create_task(verifier.verify("user", "right", "hash", Origin("b")))
    await asyncio.to_thread(checks.begun.wait, 10)
    assert checks.order == ["guess 0", "right"]
    checks.go_on.set()
    assert await stranger
    assert await asyncio.gather(*guesses) == [False, False]
    await verifier.close()


async def test_closing_answers_whoever_waits():
    async with Desk() as desk:
        waiting = await desk.ask("waiting", Origin("b"))
        await desk.verifier.close()
        with pytest.raises(OverloadedError):
            await waiting


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=30), st.integers(1, 8))
async def test_everybody_gets_an_answer_or_is_sent_away(asked, most):
    async with Desk(max_pending=most) as desk:
        for n, (source, known, suspect) in enumerate(asked):
            await desk.ask(f"{n}", Origin(source, known, suspect))
        desk.checks.go_on.set()
        for task in desk.tasks:
            with suppress(OverloadedError):
                assert await asyncio.wait_for(task, 10) is False
        assert desk.verifier._pending == {}
        assert len(desk.verifier._gate) == 0
