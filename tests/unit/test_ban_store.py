"""The file of bans: shared, durable, bounded, and never in the way of mail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from postroad_transport.auth import ban_store
from postroad_transport.auth.ban_store import ACCOUNT, ADDRESS, FILE, BanStore, open_bans
from postroad_transport.auth.bans import ConnectorBans, Standing
from postroad_transport.config import Bans
from postroad_transport.policy.bans import is_banned
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics

HERE, THERE, ELSEWHERE = "192.0.2.1", "198.51.100.1", "203.0.113.1"


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def events(tmp_path):
    log = EventLog(os.open(tmp_path / "events", os.O_WRONLY | os.O_CREAT))
    yield log
    os.close(log._fd)


@pytest.fixture
def store(tmp_path):
    opened = BanStore.open(tmp_path / FILE)
    yield opened
    opened.close()


@pytest.fixture
def make(store, clock, events):
    def bans(name: str = "submission", on: BanStore | None = store, **fields) -> ConnectorBans:
        config = Bans(**{"failures": 3, "account_failures": 4, "window": 60.0, "duration": 600.0, **fields})
        return ConnectorBans(name, config, on, metrics=Metrics(), events=events, clock=clock)

    return bans


async def fail(bans: ConnectorBans, times: int, ip: str = HERE, account: str = "kim") -> None:
    for _ in range(times):
        await bans.failed(ip, account)


async def test_an_address_is_suspect_then_banned_then_clean_again(make, clock):
    bans = make()
    assert bans.standing(HERE) is Standing.CLEAN
    await fail(bans, 2)
    assert bans.standing(HERE) is Standing.SUSPECT
    await fail(bans, 1)
    assert bans.standing(HERE) is Standing.BANNED
    assert bans.standing(THERE) is Standing.CLEAN
    clock.now += 600.0
    assert bans.standing(HERE) is Standing.CLEAN


async def test_a_ban_begun_by_one_worker_holds_for_another_and_after_a_restart(make, tmp_path):
    await fail(make(), 3)
    other = BanStore.open(tmp_path / FILE)
    try:
        assert make(on=other).standing(HERE) is Standing.BANNED
        await fail(make(on=other), 3, ip=THERE)
        assert make().standing(THERE) is Standing.BANNED
    finally:
        other.close()


async def test_connectors_ban_each_for_itself(make):
    await fail(make("a"), 3)
    assert make("b").standing(HERE) is Standing.CLEAN


async def test_an_allowed_range_never_fails_and_ends_a_ban(make):
    await fail(make(), 3)
    trusted = make(allow_ranges=("192.0.2.0/24",))
    assert trusted.standing(HERE) is not Standing.BANNED
    await fail(trusted, 20, ip="192.0.2.9")
    assert make().standing("192.0.2.9") is Standing.CLEAN
    assert not make().closes(ELSEWHERE, "kim")


async def test_an_attacked_account_closes_to_strangers_and_not_to_its_usual_addresses(make, clock):
    bans = make()
    await bans.succeeded(HERE, "Kim")
    for n in range(4):
        await fail(bans, 1, ip=f"203.0.113.{n}")
    assert not bans.closes(HERE, "kim")
    assert bans.closes(THERE, "KIM")
    assert not bans.closes(THERE, "lee")
    clock.now += 600.0
    assert not bans.closes(THERE, "kim")
    for n in range(4):
        await fail(bans, 1, ip=f"203.0.113.{n}")
    clock.now += 500.0
    assert bans.closes(THERE, "kim")


async def test_an_address_is_usual_for_a_month(make, clock):
    bans = make(duration=90 * 86_400.0)
    await bans.succeeded(HERE, "kim")
    await fail(bans, 4, ip=THERE)
    clock.now += 29 * 86_400.0
    assert not bans.closes(HERE, "kim")
    clock.now += 2 * 86_400.0
    assert bans.closes(HERE, "kim")


async def test_accounts_that_do_not_exist_are_treated_alike(make):
    bans = make()
    for n in range(4):
        await fail(bans, 1, ip=f"203.0.113.{n}", account="nobody")
    assert bans.closes(THERE, "nobody")


@pytest.mark.parametrize("fields", [{"failures": 0, "account_failures": 0}, {"on": None}])
async def test_bans_can_be_off(make, fields):
    bans = make(**fields)
    await bans.succeeded(HERE, "kim")
    await fail(bans, 100)
    assert bans.standing(HERE) is Standing.CLEAN
    assert not bans.closes(THERE, "kim")


async def test_what_stands_is_listed_and_can_be_lifted(make, store, clock):
    await fail(make("a"), 3)
    clock.now += 1
    await fail(make("b"), 4, ip="2001:db8:1:2::7", account="lee")
    listed = [(ban.connector, ban.kind, ban.subject) for ban in store.active(clock.now)]
    assert sorted(listed[:2]) == [("b", ACCOUNT, "lee"), ("b", ADDRESS, "2001:db8:1:2::/64")]
    assert listed[2:] == [("a", ADDRESS, HERE)]
    assert await store.lift([HERE], clock.now) == 1
    assert await store.lift([HERE], clock.now) == 0
    assert make("a").standing(HERE) is Standing.CLEAN
    assert await store.lift([], clock.now) == 2
    assert store.active(clock.now) == []


async def test_ban_and_refusal_are_counted_and_the_ban_is_logged_once(store, clock, events, tmp_path):
    metrics = Metrics()
    bans = ConnectorBans("c", Bans(failures=2), store, metrics=metrics, events=events, clock=clock)
    await fail(bans, 5)
    bans.refused(ADDRESS)
    events.flush()
    assert (tmp_path / "events").read_text().count('"auth.banned"') == 1
    assert metrics.registry.get_sample_value("postroad_bans_total", {"connector": "c", "kind": ADDRESS}) == 1
    assert metrics.registry.get_sample_value("postroad_ban_refusals_total", {"connector": "c", "kind": ADDRESS}) == 1


async def test_the_file_stays_bounded_and_keeps_standing_bans_longest(make, store, clock, monkeypatch):
    monkeypatch.setattr(ban_store, "MAX_ROWS", 50)
    monkeypatch.setattr(ban_store, "PRUNE_EVERY", 10)
    bans = make()
    await fail(bans, 3, account="")
    for n in range(300):
        clock.now += 0.01
        await bans.failed(f"10.0.{n >> 8}.{n & 255}", f"user{n}")
        await bans.succeeded(f"10.1.{n >> 8}.{n & 255}", f"user{n}")
    for table in ("subject", "usual"):
        (rows,) = store._reading.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert rows <= 50 + 2 * 10 + 1
    assert bans.standing(HERE) is Standing.BANNED


def test_a_damaged_file_is_begun_anew_by_the_supervisor_and_by_no_worker(tmp_path, events):
    (tmp_path / FILE).write_bytes(b"this is no database, whatever its name says" * 100)
    assert open_bans(tmp_path, events) is None
    opened = open_bans(tmp_path, events, repair=True)
    assert opened.active(0.0) == []
    opened.close()


async def test_a_file_that_another_process_holds_is_never_thrown_away(
    make, store, tmp_path, events, clock, monkeypatch
):
    monkeypatch.setattr(ban_store, "BUSY_TIMEOUT", 0.01)
    await fail(make(), 3)
    store._writing.execute("BEGIN EXCLUSIVE")
    opened = open_bans(tmp_path, events, repair=True)
    store._writing.execute("ROLLBACK")
    assert [ban.subject for ban in store.active(clock.now)] == [HERE]
    if opened is not None:
        assert opened.active(clock.now) == store.active(clock.now)
        opened.close()


def test_where_there_can_be_no_file_there_are_no_bans_and_the_log_says_so(tmp_path, events):
    (tmp_path / "state").write_text("not a directory")
    assert open_bans(tmp_path / "state", events) is None
    events.flush()
    assert "auth.bans_unavailable" in (tmp_path / "events").read_text()


async def test_a_file_that_cannot_be_written_any_more_stops_no_login(make, store, events, tmp_path):
    bans = make()
    store._writing.execute("PRAGMA query_only = 1")
    await fail(bans, 5)
    await bans.succeeded(HERE, "kim")
    assert bans.standing(HERE) is Standing.CLEAN
    events.flush()
    assert "auth.bans_unavailable" in (tmp_path / "events").read_text()


def test_a_killed_writer_leaves_what_it_counted(tmp_path):
    script = f"""
import asyncio, os, signal, sys
from pathlib import Path
from postroad_transport.auth.ban_store import BanStore
from postroad_transport.config import Bans
async def main():
    store = BanStore.open(Path({str(tmp_path / FILE)!r}))
    for _ in range(3):
        await store.add_failure("c", {{"address": ("{HERE}", 3)}}, Bans(failures=3), 1000.0)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=30).returncode == -9
    opened = BanStore.open(Path(tmp_path / FILE))
    assert is_banned(opened.record("c", ADDRESS, HERE), 1000.0)
    opened.close()
