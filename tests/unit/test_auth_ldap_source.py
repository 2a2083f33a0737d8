"""How a directory is asked: servers in order, failures remembered, time limited, sessions kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.auth import ldap
from postroad_transport.auth.accounts import Account, AuthUnavailableError, parse_accounts
from postroad_transport.auth.breaker import FAILURES, LONGEST_PAUSE, Breaker
from postroad_transport.auth.check_gate import OverloadedError
from postroad_transport.auth.fair_queue import Origin
from postroad_transport.auth.ldap import LdapSource
from postroad_transport.auth.ldap_session import Credentials, ServerFailedError
from postroad_transport.auth.password_sources import PasswordSources
from postroad_transport.auth.recent import Recent
from postroad_transport.config.directories import Ldap, LdapServer, LdapTls
from postroad_transport.telemetry.metrics import Metrics

ALICE = Account("alice", ("alice@example.com",))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """A server: answers, fails, or hangs until its session is aborted."""

    def __init__(self, behaviour: Callable[[str, str], Account | None] | None = None) -> None:
        self.behaviour = behaviour or (lambda _, password: ALICE if password == "pencil" else None)
        self.sessions: list[FakeSession] = []
        self.checks = 0


class FakeSession:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.aborted = threading.Event()
        self.closed = False
        peer.sessions.append(self)

    def check(self, username: str, password: str) -> Account | None:
        self.peer.checks += 1
        return self.peer.behaviour(username, password)

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        self.closed = True


def failing(_username: str, _password: str) -> Account | None:
    raise ServerFailedError("down")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def make(clock, monkeypatch):
    monkeypatch.setattr(ldap, "STEP", 0.001)
    made = []

    def source(*peers: Peer, **fields) -> LdapSource:
        servers = tuple(LdapServer(host=f"s{n}", port=389, tls=LdapTls.STARTTLS) for n in range(len(peers)))
        config = Ldap(
            servers=servers,
            base_dn="dc=x",
            filter="(uid={user})",
            account_attribute="uid",
            **{"timeout": 5.0} | fields,
        )
        metrics = Metrics()
        found = LdapSource(
            config,
            Credentials(),
            metrics,
            clock=clock,
            open_session=lambda server: FakeSession(peers[int(server.host[1:])]),
        )
        found.metrics = metrics
        made.append(found)
        return found

    yield source
    for item in made:
        await item.close()


async def unavailable(source: LdapSource, password: str = "x") -> None:
    with pytest.raises(AuthUnavailableError):
        await source.verify("alice", password)


async def test_the_first_server_that_answers_decides(make) -> None:
    first, second = Peer(), Peer()
    source = make(first, second)
    assert await source.verify("alice", "pencil") == ALICE
    assert await source.verify("alice", "wrong") is None
    assert (first.checks, second.checks) == (2, 0)


async def test_a_server_that_fails_is_passed_over_and_then_left_alone(make, clock) -> None:
    first, second = Peer(failing), Peer()
    source = make(first, second)
    for number in range(FAILURES + 4):
        assert await source.verify("alice", f"wrong{number}") is None
    assert first.checks == FAILURES
    first.behaviour = lambda _username, _password: None
    clock.now += LONGEST_PAUSE
    await source.verify("alice", "again")
    await source.verify("alice", "and again")
    assert first.checks == FAILURES + 2


async def test_with_every_server_failing_nobody_knows_and_soon_nobody_is_asked(make) -> None:
    peers = Peer(failing), Peer(failing)
    source = make(*peers)
    for _ in range(FAILURES + 5):
        await unavailable(source)
    assert [peer.checks for peer in peers] == [FAILURES, FAILURES]


async def test_an_empty_password_or_a_huge_name_asks_nobody(make) -> None:
    peer = Peer(lambda *_: ALICE)
    source = make(peer)
    assert await source.verify("alice", "") is None
    assert await source.verify("", "x") is None
    assert await source.verify("a" * 257, "x") is None
    assert peer.checks == 0


async def test_a_server_that_hangs_holds_a_login_no_longer_than_the_limit(make) -> None:
    peer = Peer()

    def hang(_username: str, _password: str) -> None:
        peer.sessions[-1].aborted.wait(10)
        raise ServerFailedError("aborted")

    peer.behaviour = hang
    source = make(peer, timeout=0.05, operation_timeout=0.01)
    await unavailable(source)
    assert peer.sessions[0].aborted.is_set()


async def test_a_client_that_goes_away_does_not_count_against_the_server(make) -> None:
    release, begun = threading.Event(), threading.Event()

    def slow(_username: str, password: str) -> Account | None:
        if password == "slow":
            begun.set()
            release.wait(10)
        return ALICE

    peer = Peer(slow)
    source = make(peer, connections=1)
    for _ in range(FAILURES + 1):
        begun.clear()
        release.clear()
        asking = asyncio.create_task(source.verify("alice", "slow"))
        await asyncio.to_thread(begun.wait, 10)
        asking.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert await source.verify("alice", "pencil") == ALICE
    assert not any(session.aborted.is_set() for session in peer.sessions)


async def test_a_session_is_kept_and_one_that_the_server_closed_is_replaced_without_blame(make) -> None:
    peer = Peer()
    source = make(peer)
    for number in range(5):
        await source.verify("alice", f"wrong{number}")
    assert len(peer.sessions) == 1
    answers = iter([failing, lambda *_: ALICE])
    peer.behaviour = lambda username, password: next(answers)(username, password)
    assert await source.verify("alice", "pencil") == ALICE
    assert [session.closed for session in peer.sessions] == [True, False]


async def test_a_session_that_was_idle_for_long_is_not_used_again(make, clock) -> None:
    peer = Peer()
    source = make(peer)
    await source.verify("alice", "wrong")
    clock.now += ldap.IDLE
    await source.verify("alice", "wrong")
    assert [session.closed for session in peer.sessions] == [True, False]


async def test_a_right_password_is_not_asked_for_again_for_a_while_and_a_wrong_one_is(make, clock) -> None:
    peer = Peer()
    source = make(peer)
    for _ in range(3):
        assert await source.verify("alice", "pencil") == ALICE
        assert await source.verify("alice", "wrong") is None
    assert peer.checks == 4
    clock.now += ldap.REMEMBER
    assert await source.verify("alice", "pencil") == ALICE
    assert peer.checks == 5


async def test_too_many_waiting_logins_are_asked_to_come_back(make, monkeypatch) -> None:
    monkeypatch.setattr(ldap, "MAX_PENDING", 2)
    release = threading.Event()
    source = make(Peer(lambda *_: release.wait(10) and None), connections=1)
    waiting = [asyncio.create_task(source.verify("alice", str(number))) for number in range(2)]
    await asyncio.sleep(0)
    await unavailable(source)
    release.set()
    assert await asyncio.gather(*waiting) == [None, None]


async def test_a_flood_of_guesses_does_not_hold_up_the_directory_for_others(make) -> None:
    release, order = threading.Event(), []

    def slow(_: str, password: str) -> Account | None:
        order.append(password)
        release.wait(10)
        return ALICE if password == "pencil" else None

    source = make(Peer(slow), connections=2)
    guesser = Origin("guesser", suspect=True)
    guesses = [asyncio.create_task(source.verify("alice", f"guess {n}", guesser)) for n in range(20)]
    await asyncio.sleep(0)
    usual = asyncio.create_task(source.verify("alice", "pencil", Origin("home", known=True)))
    while len(order) < 2:
        await asyncio.sleep(0.001)
    assert order == ["guess 0", "pencil"]
    release.set()
    assert await usual == ALICE
    assert await asyncio.gather(*guesses) == [None] * 20


async def test_a_login_that_had_no_turn_does_not_make_the_directory_look_down(make, monkeypatch, caplog) -> None:
    monkeypatch.setattr(ldap, "MAX_PENDING", 1)
    release = threading.Event()
    source = make(Peer(lambda *_: release.wait(10) and None), connections=1)
    waiting = asyncio.create_task(source.verify("alice", "0"))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await source.verify("alice", "1")
    release.set()
    assert await waiting is None
    assert "ldap cannot tell" not in caplog.text


async def test_a_closed_source_keeps_no_session_and_answers_that_it_does_not_know(make) -> None:
    peer = Peer()
    source = make(peer)
    await source.verify("alice", "pencil")
    await source.close()
    assert peer.sessions[0].closed
    await unavailable(source)


async def test_questions_are_counted_by_their_answer_and_a_failure_is_logged_once(make, caplog) -> None:
    peer = Peer()
    source = make(peer)
    await source.verify("alice", "pencil")
    await source.verify("alice", "wrong")
    peer.behaviour = failing
    for _ in range(2):
        await unavailable(source)
    counted = {
        result: source.metrics.authentication_lookups.labels("ldap", result)._value.get()
        for result in ("ok", "refused", "unavailable")
    }
    assert counted == {"ok": 1, "refused": 1, "unavailable": 2}
    assert caplog.text.count("ldap cannot tell who logs in") == 1


@given(st.lists(st.tuples(st.sampled_from(["good", "bad", "none"]), st.floats(0, 40))))
def test_a_breaker_lets_nobody_through_in_a_pause_and_somebody_after_the_longest(steps) -> None:
    breaker, now, row = Breaker(), 0.0, 0
    for outcome, seconds in steps:
        now += seconds
        allowed = breaker.allows(now)
        if row < FAILURES:
            assert allowed
        if not allowed:
            assert row >= FAILURES
            continue
        if outcome == "good":
            breaker.succeeded()
            row = 0
        elif outcome == "bad":
            breaker.failed(now)
            row += 1
            if row >= FAILURES:
                assert not breaker.allows(now)
    assert breaker.allows(now + LONGEST_PAUSE)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 10)), max_size=40))
def test_what_is_remembered_is_what_was_put_last_and_never_more_than_there_is_room_for(steps) -> None:
    clock = Clock()
    recent: Recent[int] = Recent(3, clock=clock)
    model: dict[int, tuple[float, int]] = {}
    for question, answer, seconds in steps:
        clock.now += 1
        if (known := recent.get(str(question))) is not None:
            assert model[question][1] == known
            assert model[question][0] > clock.now
        recent.put(answer, seconds, str(question))
        model[question] = clock.now + seconds, answer
        assert len(recent) <= 3


def test_what_is_remembered_holds_no_password() -> None:
    recent: Recent[str] = Recent(3)
    recent.put("answer", 60, "alice", "hush")
    assert recent.get("alice", "hush") == "answer"
    assert recent.get("aliceh", "ush") is None
    assert "hush" not in repr(vars(recent))


async def test_an_entry_of_the_directory_cannot_become_a_listed_account_under_another_name(make) -> None:
    source = make(Peer(lambda *_: ALICE))
    listed = parse_accounts(b"alice:$2b$04$6tcdIZE7k749KmKiOBbvte9T9.5OZozpns/zfPBFWJb9XKjWlj.I.")
    assert await PasswordSources(listed, [source]).verify("alice@example.com", "pencil") is None
    assert await PasswordSources(parse_accounts(b""), [source]).verify("alice@example.com", "pencil") == ALICE
