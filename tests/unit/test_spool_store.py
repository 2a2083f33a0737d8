"""The SQLite store: what it promises, one behaviour a test."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from spool_kit import HeldDisk, envelope, ids, open_store, sample

from postroad_transport.message import Envelope, RecipientState
from postroad_transport.spool import group, room
from postroad_transport.spool.shard import Shard
from postroad_transport.spool.sqlite import FILE_BYTES, SqliteStore
from postroad_transport.spool.store import SpoolError, SpoolFullError, Store
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics

SIZES = [0, 1, 4096, FILE_BYTES - 1, FILE_BYTES, 3 * FILE_BYTES + 7]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "worker-0.db"


def body_files(path: Path) -> list[str]:
    return sorted(file.name for file in Path(f"{path}.bodies").iterdir())


@pytest.fixture
def events(tmp_path: Path) -> EventLog:
    return EventLog(os.open(tmp_path / "events", os.O_WRONLY | os.O_CREAT))


def read_events(events: EventLog, tmp_path: Path) -> str:
    events.flush()
    return (tmp_path / "events").read_text()


async def test_it_is_a_store(path: Path) -> None:
    store: Store = await open_store(path)
    await store.close()


async def test_what_a_former_version_has_stored_is_read_and_nothing_is_stored_of_what_is_not_used(path: Path) -> None:
    former = {"id": "m", "received_at": 5.0, "sender": "a@one.example", "recipients": [{"address": "b@two.example"}]}
    found = msgspec.msgpack.decode(msgspec.msgpack.encode(former), type=Envelope)
    assert (found.submitter, found.priority) == ("", 0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found)) == former

    store = await open_store(path)
    await store.commit(envelope("m", submitter="c@one.example", priority=-3), [])
    assert await store.scan() == [envelope("m", submitter="c@one.example", priority=-3)]
    await store.close()


@pytest.mark.parametrize("size", SIZES)
async def test_a_message_comes_back_byte_for_byte_also_after_a_restart(path: Path, size: int) -> None:
    content = [b"Received: here\r\n", bytearray(os.urandom(size)), memoryview(b"\r\n.\r\n\0")]
    store = await open_store(path)
    await store.commit(envelope("m", content), content)
    assert await store.content("m") == b"".join(content)
    await store.close()

    store = await open_store(path)
    assert await store.content("m") == b"".join(content)
    assert await store.get("m") == envelope("m", content)
    await store.close()


async def test_large_contents_are_files_and_small_ones_are_not(path: Path) -> None:
    store = await open_store(path)
    await store.commit(envelope("small"), [bytes(FILE_BYTES - 1)])
    await store.commit(envelope("large"), [bytes(FILE_BYTES)])
    assert len(body_files(path)) == 1
    store.settle("large")
    await store.close()
    assert body_files(path) == []


async def test_scan_gives_every_envelope_oldest_first(path: Path) -> None:
    store = await open_store(path)
    await asyncio.gather(*(store.commit(envelope(f"m{number}"), [b"x"]) for number in range(200)))
    assert await ids(store) == [f"m{number}" for number in range(200)]
    await store.close()


async def test_a_settled_message_is_gone_at_once_and_for_good(path: Path) -> None:
    store = await open_store(path)
    await store.commit(envelope("m"), [b"x"])
    store.settle("m")
    assert await ids(store) == []
    for read in (store.get, store.content):
        with pytest.raises(KeyError):
            await read("m")
    with pytest.raises(KeyError):
        await store.update(envelope("m"))
    await store.close()
    store = await open_store(path)
    assert await ids(store) == []
    await store.close()


async def test_settling_an_unknown_message_is_no_error(path: Path) -> None:
    store = await open_store(path)
    store.settle("never seen")
    await store.close()


async def test_an_update_replaces_the_envelope_and_leaves_the_content(path: Path) -> None:
    store = await open_store(path)
    await store.commit(envelope("m"), [b"content"])
    changed = envelope("m", held=True)
    changed.recipients[0].state = RecipientState.DELIVERED
    await store.update(changed)
    await store.close()
    store = await open_store(path)
    assert await store.get("m") == changed
    assert await store.content("m") == b"content"
    await store.close()


async def test_the_same_id_twice_is_refused_and_the_first_stays(path: Path) -> None:
    store = await open_store(path)
    await store.commit(envelope("m"), [b"first"])
    with pytest.raises(SpoolError):
        await store.commit(envelope("m"), [b"second"])
    assert await store.content("m") == b"first"
    await store.close()


async def test_commits_that_wait_for_the_disk_share_one_transaction(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    store = await open_store(path, metrics=metrics)
    disk = HeldDisk(monkeypatch)
    first = asyncio.create_task(store.commit(envelope("first"), [b"x"]))
    await asyncio.to_thread(disk.reached.wait)
    rest = [asyncio.create_task(store.commit(envelope(f"m{number}"), [b"x"])) for number in range(100)]
    await asyncio.sleep(0)
    disk.release()
    await asyncio.gather(first, *rest)
    assert sample(metrics, "postroad_spool_commits_total") == 2
    await store.close()


async def test_commits_of_one_turn_of_the_loop_share_one_transaction(path: Path) -> None:
    metrics = Metrics()
    store = await open_store(path, metrics=metrics)
    await asyncio.gather(*(store.commit(envelope(f"m{number}"), [b"x"]) for number in range(50)))
    assert sample(metrics, "postroad_spool_commits_total") == 1
    await store.close()


async def test_settlements_ride_on_the_next_commit(path: Path) -> None:
    metrics = Metrics()
    store = await open_store(path, metrics=metrics)
    await asyncio.gather(*(store.commit(envelope(f"m{number}"), [b"x"]) for number in range(10)))
    for number in range(10):
        store.settle(f"m{number}")
    await store.commit(envelope("next"), [b"x"])
    assert sample(metrics, "postroad_spool_commits_total") == 2
    await store.close()
    assert sample(metrics, "postroad_spool_commits_total") == 2


async def test_settlements_without_company_are_written_after_a_short_while(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(path)
    await store.commit(envelope("m"), [bytes(FILE_BYTES)])
    written = asyncio.Event()
    finish = group.GroupWriter._finish

    def finished(*arguments: object) -> None:
        finish(*arguments)
        written.set()

    monkeypatch.setattr(group.GroupWriter, "_finish", finished)
    store.settle("m")
    await asyncio.wait_for(written.wait(), 10)
    assert await store._writer.call(store._shard.read_envelopes) == []
    await store.close()


async def test_close_finishes_what_was_handed_in(path: Path) -> None:
    store = await open_store(path)
    commits = [
        asyncio.create_task(store.commit(envelope(f"m{number}"), [bytes(size)])) for number, size in enumerate(SIZES)
    ]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*commits)
    store = await open_store(path)
    assert sorted(await ids(store)) == [f"m{number}" for number in range(len(SIZES))]
    await store.close()


async def test_after_close_nothing_waits_for_an_answer(path: Path) -> None:
    store = await open_store(path)
    await store.commit(envelope("m"), [b"x"])
    await store.close()
    for call in (store.content("m"), store.get("m"), store.scan()):
        with pytest.raises(SpoolError, match="closed"):
            await asyncio.wait_for(call, 5)


async def test_after_close_a_commit_is_refused(path: Path) -> None:
    store = await open_store(path)
    await store.close()
    await store.close()
    with pytest.raises(SpoolError):
        await store.commit(envelope("m"), [b"x"])


async def test_only_our_user_can_read_the_spool(path: Path) -> None:
    before = os.umask(0)
    try:
        store = await open_store(path)
        await store.commit(envelope("m"), [b"x"])
        await store.commit(envelope("n"), [bytes(FILE_BYTES)])
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.rglob("*") if entry.is_file()}
    directories = {stat.S_IMODE(entry.stat().st_mode) for entry in (path.parent, Path(f"{path}.bodies"))}
    assert modes == {0o600}
    assert directories == {0o700}
    await store.close()


async def test_a_second_user_of_a_file_is_refused(path: Path) -> None:
    store = await open_store(path)
    with pytest.raises(SpoolError, match="locked"):
        await open_store(path)
    await store.commit(envelope("m"), [b"x"])
    await store.close()


async def test_a_successor_waits_for_its_predecessor(path: Path) -> None:
    store = await open_store(path)
    successor = asyncio.create_task(open_store(path, lock_timeout=30.0))
    await store.commit(envelope("m"), [b"x"])
    await store.close()
    store = await successor
    assert await ids(store) == ["m"]
    await store.close()


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    await (await open_store(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SpoolError, match="schema 99"):
        await open_store(path)
    assert path.exists()


@pytest.mark.parametrize("damage", ["not a database", "torn pages"])
async def test_a_damaged_file_is_kept_aside_and_a_new_one_begun(
    path: Path, tmp_path: Path, events: EventLog, damage: str
) -> None:
    store = await open_store(path)
    for number in range(300):
        await store.commit(envelope(f"m{number}"), [bytes(100)])
    await store.commit(envelope("large"), [bytes(FILE_BYTES)])
    await store.close()
    data = path.read_bytes()
    damaged = b"gibberish" * 1000 if damage == "not a database" else data[:4096] + b"\xff" * (len(data) - 4096)
    path.write_bytes(damaged)

    store = await open_store(path, events=events)
    await store.commit(envelope("new"), [b"x"])
    assert await ids(store) == ["new"]
    (aside,) = (entry for entry in path.parent.glob("*.corrupt-*") if entry.is_file())
    assert aside.read_bytes() == damaged
    assert len(body_files(aside)) == 1
    assert str(aside) in read_events(events, tmp_path)
    await store.close()


async def test_body_files_that_belong_to_no_message_are_swept_at_the_start(path: Path) -> None:
    store = await open_store(path)
    await store.commit(envelope("m"), [bytes(FILE_BYTES)])
    await store.close()
    bodies = Path(f"{path}.bodies")
    (bodies / "999").write_bytes(b"a commit that a crash cut short")
    store = await open_store(path)
    assert len(body_files(path)) == 1
    assert await store.content("m") == bytes(FILE_BYTES)
    await store.close()


async def test_a_row_whose_body_file_is_missing_is_dropped_and_reported(
    path: Path, tmp_path: Path, events: EventLog
) -> None:
    store = await open_store(path)
    await store.commit(envelope("m"), [bytes(FILE_BYTES)])
    await store.close()
    next(Path(f"{path}.bodies").iterdir()).unlink()
    store = await open_store(path, events=events)
    assert await ids(store) == []
    assert "spool.content_missing" in read_events(events, tmp_path)
    await store.close()


async def test_adopted_files_are_listed_read_updated_and_settled_but_not_written_to(tmp_path: Path) -> None:
    paths = [tmp_path / f"worker-{number}.db" for number in range(3)]
    for number, path in enumerate(paths):
        store = await open_store(path)
        await store.commit(envelope(f"m{number}", received_at=10.0 - number), [b"content %d" % number])
        await store.close()
    store = await open_store(paths[0], adopt=[*paths[1:], tmp_path / "never-was.db"])
    assert await ids(store) == ["m2", "m1", "m0"]
    assert await store.content("m2") == b"content 2"
    await store.update(envelope("m1", held=True))
    store.settle("m2")
    await store.commit(envelope("new"), [b"x"])
    await store.close()
    assert not paths[2].exists()

    store = await open_store(paths[1])
    assert [found.held for found in await store.scan()] == [True]
    await store.close()
    store = await open_store(paths[0])
    assert await ids(store) == ["m0", "new"]
    await store.close()


async def test_an_orphan_that_another_process_uses_is_left_to_it(
    tmp_path: Path, path: Path, events: EventLog
) -> None:
    other = await open_store(tmp_path / "other.db")
    await other.commit(envelope("theirs"), [b"x"])
    store = await open_store(path, adopt=[tmp_path / "other.db"], events=events)
    assert await ids(store) == []
    assert "spool.not_adopted" in read_events(events, tmp_path)
    await store.close()
    assert await other.content("theirs") == b"x"
    await other.close()


async def test_a_commit_cancelled_while_it_is_written_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(path)
    disk = HeldDisk(monkeypatch)
    commits = [asyncio.create_task(store.commit(envelope(str(size)), [bytes(size)])) for size in (10, FILE_BYTES)]
    await asyncio.to_thread(disk.reached.wait)
    for commit in commits:
        commit.cancel()
    await asyncio.gather(*commits, return_exceptions=True)
    disk.release()
    await store.close()
    store = await open_store(path)
    assert await ids(store) == []
    assert body_files(path) == []
    await store.close()


async def test_a_slow_disk_refuses_for_now_keeps_nothing_refused_and_recovers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    store = await open_store(path, metrics=metrics, stall=0.05)
    disk = HeldDisk(monkeypatch)
    for attempt in ("in the transaction", "behind it", "once it is known"):
        with pytest.raises(SpoolError) as refused:
            await store.commit(envelope(attempt), [b"x"])
        assert not isinstance(refused.value, SpoolFullError)
    assert sample(metrics, "postroad_spool_failures_total", reason="stalled") == 1
    monkeypatch.undo()
    disk.release()
    await asyncio.wait_for(_commit_until_taken(store, "after"), 10)
    await store.close()
    store = await open_store(path)
    assert await ids(store) == ["after"]
    await store.close()


async def _commit_until_taken(store: Store, message_id: str) -> None:
    while True:
        try:
            return await store.commit(envelope(message_id), [b"x"])
        except SpoolError:
            await asyncio.sleep(0.01)


async def test_what_waits_for_the_disk_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store(path, pending_bytes=10_000)
    disk = HeldDisk(monkeypatch)
    first = asyncio.create_task(store.commit(envelope("first"), [bytes(9_000)]))
    await asyncio.to_thread(disk.reached.wait)
    with pytest.raises(SpoolError):
        await store.commit(envelope("second"), [bytes(2_000)])
    disk.release()
    await first
    await store.commit(envelope("second"), [bytes(2_000)])
    await store.close()


async def test_after_a_database_error_the_file_is_opened_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store(path)
    await store.commit(envelope("before"), [b"x"])
    store._shard._connection.close()  # every statement fails from here on
    with pytest.raises(SpoolError):
        await store.commit(envelope("lost"), [b"x"])
    await store.commit(envelope("after"), [b"x"])
    assert await ids(store) == ["before", "after"]
    await store.close()


@contextmanager
def commit_reports(monkeypatch: pytest.MonkeyPatch, store: SqliteStore, code: int, *, times: int) -> Iterator[None]:
    """Let COMMIT happen, or not, but report an error."""
    left = [code] * times

    class Connection(sqlite3.Connection):
        def execute(self, statement: str, *parameters: object) -> sqlite3.Cursor:
            if statement != "COMMIT" or not left:
                return super().execute(statement, *parameters)
            error = sqlite3.OperationalError("injected")
            error.sqlite_errorcode = left.pop()
            if error.sqlite_errorcode == sqlite3.SQLITE_IOERR_FSYNC:
                super().execute(statement)
            raise error

    connect = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Connection))
        store._shard._disconnect()
        yield


async def test_a_refused_commit_that_reached_the_log_all_the_same_is_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of COMMIT leaves it open whether the transaction is in the log."""
    store = await open_store(path)
    with commit_reports(monkeypatch, store, sqlite3.SQLITE_IOERR_FSYNC, times=1), pytest.raises(SpoolError):
        await store.commit(envelope("doubtful"), [b"x"])
    await store.commit(envelope("after"), [b"x"])
    await store.close()
    store = await open_store(path)
    assert await ids(store) == ["after"]
    await store.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE])
async def test_a_commit_that_succeeds_at_the_second_try_stays_when_the_file_is_opened_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = await open_store(path)
    monkeypatch.setattr(room, "_can_write", lambda _: False)  # a quota
    with commit_reports(monkeypatch, store, code, times=1):
        await store.commit(envelope("m"), [b"x"])
    store._shard._disconnect()
    await store.commit(envelope("after"), [b"x"])
    assert await ids(store) == ["m", "after"]
    await store.close()


async def test_an_unexpected_error_of_the_writer_reaches_the_caller_as_a_spool_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(path)
    with monkeypatch.context() as patch:
        patch.setattr(Shard, "apply", lambda *_: 1 / 0)
        with pytest.raises(SpoolError):
            await store.commit(envelope("m"), [b"x"])
    await store.commit(envelope("m"), [b"x"])
    await store.close()


async def test_the_log_and_an_emptied_file_do_not_keep_growing(path: Path) -> None:
    store = await open_store(path)
    for burst in range(3):
        for number in range(30):
            await asyncio.gather(
                *(store.commit(envelope(f"{burst}-{number}-{one}"), [bytes(30_000)]) for one in range(30))
            )
            if burst:
                for one in range(30):
                    store.settle(f"{burst}-{number}-{one}")
    assert Path(f"{path}-wal").stat().st_size < 16 * 1024 * 1024
    for number in range(30):
        for one in range(30):
            store.settle(f"0-{number}-{one}")
    await store.close()
    assert path.stat().st_size < 64 * 1024 * 1024


async def test_the_log_is_moved_into_the_database_behind_the_answers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, moved = threading.Event(), []

    def checkpoint(shard: Shard) -> None:
        assert may_go_on.wait(10)
        original(shard)
        moved.append(shard)

    original = Shard.checkpoint
    monkeypatch.setattr(Shard, "checkpoint", checkpoint)
    monkeypatch.setattr("postroad_transport.spool.shard._CHECKPOINT_PAGES", 8)
    store = await open_store(path)
    content = [os.urandom(FILE_BYTES - 1)]
    try:
        async with asyncio.timeout(10):
            await store.commit(envelope("m", content), content)
        assert not moved
        before = path.stat().st_size
    finally:
        may_go_on.set()
    async with asyncio.timeout(10):
        await store.commit(envelope("n", content), content)
    assert moved
    assert path.stat().st_size > before
    await store.close()


@pytest.mark.parametrize("size", [10, 1000, 4096, FILE_BYTES - 1])
@pytest.mark.parametrize("width", [1, 12, 60])
async def test_how_much_is_in_the_log_is_estimated_well(
    path: Path, monkeypatch: pytest.MonkeyPatch, size: int, width: int
) -> None:
    seen = []

    def checkpoint(shard: Shard) -> None:
        estimate, shard._logged = shard._logged, 0
        _, pages, _ = shard._connect().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        seen.append((estimate, pages))

    monkeypatch.setattr(Shard, "checkpoint", checkpoint)
    monkeypatch.setattr("postroad_transport.spool.shard._CHECKPOINT_PAGES", 200)
    store = await open_store(path)
    content = [os.urandom(size)]
    number = 0
    while len(seen) < 3:
        names = [f"m{number + one}" for one in range(width)]
        number += width
        await asyncio.gather(*(store.commit(envelope(name, content), content) for name in names))
        for name in names[::2]:
            store.settle(name)
    await store.close()
    for estimate, pages in seen[1:]:
        assert 1 / 3 < pages / estimate < 3
