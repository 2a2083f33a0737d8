"""Contents in files beside the database: shared, given back, and never half there."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spool_kit import envelope, ids, open_store, sample

from postroad_transport.spool import bodies, occupancy, shard
from postroad_transport.spool.bodies import BodyFiles
from postroad_transport.spool.shard import Shard
from postroad_transport.spool.sqlite import FILE_BYTES, SqliteStore
from postroad_transport.spool.store import SpoolError, SpoolFullError
from postroad_transport.telemetry.metrics import Metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "worker-0.db"


def body_files(path: Path) -> list[Path]:
    return sorted(Path(f"{path}.bodies").iterdir())


def content_of(name: str, size: int = FILE_BYTES) -> list[bytes]:
    return [f"Subject: {name}\r\n\r\n".encode(), name[-1:].encode() * size]


async def commit_together(store: SqliteStore, *names: str, size: int = FILE_BYTES) -> None:
    await asyncio.gather(*(store.commit(envelope(name), content_of(name, size)) for name in names))


class HeldBodies:
    """Holds the writing of body files until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()
        write = BodyFiles.write

        def held(files: BodyFiles, *arguments: object) -> object:
            self.reached.set()
            assert self.released.wait(30)
            return write(files, *arguments)  # type: ignore[arg-type]  # whatever it takes

        monkeypatch.setattr(BodyFiles, "write", held)


async def test_contents_are_appended_to_a_file_until_it_is_large_and_it_goes_with_the_last_of_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "FILE_BYTES", 3 * FILE_BYTES)
    store = await open_store(path)
    await commit_together(store, "m1", "m2")
    await commit_together(store, "m3")
    assert [file.name for file in body_files(path)] == ["1"]
    await commit_together(store, "m4")
    assert [file.name for file in body_files(path)] == ["1", "2"]
    for name in ("m1", "m2"):
        store.settle(name)
    await store.update(envelope("m4", held=True))  # the settlements have ridden on it
    assert [file.name for file in body_files(path)] == ["1", "2"]
    store.settle("m3")
    await store.update(envelope("m4"))
    assert [file.name for file in body_files(path)] == ["2"]
    await store.close()

    # What is left from before is read and never added to.
    store = await open_store(path)
    assert await store.content("m4") == b"".join(content_of("m4"))
    await commit_together(store, "m5")
    assert [file.name for file in body_files(path)] == ["2", "3"]
    for name in ("m4", "m5"):
        store.settle(name)
    await store.close()
    assert body_files(path) == []


async def test_room_within_a_file_is_given_back_when_much_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occupancy, "LOST_BYTES", 0)
    store = await open_store(path)
    names = [f"m{number}" for number in range(8)]
    await commit_together(store, *names, size=256 * 1024)
    (file,) = body_files(path)
    before = file.stat().st_blocks
    for name in names[1:]:
        store.settle(name)
    await store.close()
    assert file.stat().st_blocks < before / 4
    store = await open_store(path)
    assert await store.content("m0") == b"".join(content_of("m0", 256 * 1024))
    await store.close()


@pytest.mark.parametrize("size", [1, FILE_BYTES])
async def test_room_within_files_is_given_back_before_mail_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    store = await open_store(path, min_free_bytes=1)
    await commit_together(store, "m1", "m2", size=256 * 1024)
    store.settle("m1")
    await store.update(envelope("m2", held=True))  # the settlement has ridden on it
    (file,) = body_files(path)
    full = file.stat().st_blocks
    monkeypatch.setattr(shard, "available", lambda _: 0 if file.stat().st_blocks == full else 10**9)
    await commit_together(store, "m3", size=size)
    assert await ids(store) == ["m2", "m3"]
    await store.close()


async def test_a_content_that_is_settled_while_it_is_read_is_not_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(path)
    await commit_together(store, "m1", "m2")
    reached, may_go_on = threading.Event(), threading.Event()
    read = BodyFiles.read

    def held(*arguments: object) -> bytes:
        reached.set()
        assert may_go_on.wait(30)
        return read(*arguments)  # type: ignore[arg-type]  # whatever it takes

    monkeypatch.setattr(BodyFiles, "read", held)
    reading = asyncio.create_task(store.content("m1"))
    await asyncio.to_thread(reached.wait, 30)
    store.settle("m1")
    may_go_on.set()
    with pytest.raises(KeyError):
        await reading
    await store.close()


async def test_of_contents_that_do_not_fit_together_those_that_fit_are_stored(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    store = await open_store(path, metrics=metrics)
    write = BodyFiles.write

    def cramped(files: BodyFiles, contents: list[list[bytes]]) -> object:
        if sum(len(chunk) for content in contents for chunk in content) > 3 * FILE_BYTES:
            raise OSError(28, "No space left on device")
        return write(files, contents)

    monkeypatch.setattr(BodyFiles, "write", cramped)
    sizes = {"m1": 2 * FILE_BYTES, "m2": 4 * FILE_BYTES, "m3": FILE_BYTES}
    results = await asyncio.gather(
        *(store.commit(envelope(name), content_of(name, size)) for name, size in sizes.items()),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), SpoolFullError, type(None)]
    assert await ids(store) == ["m1", "m3"]
    assert sample(metrics, "postroad_spool_failures_total", reason="full") == 1
    await store.close()


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ZeroDivisionError("a fault of ours")])
async def test_a_file_that_cannot_be_written_refuses_for_now_and_is_not_added_to(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = await open_store(path)
    await commit_together(store, "before")
    before = body_files(path)[0].stat().st_size
    write_all = bodies._write_all

    def fails(*arguments: object) -> None:
        write_all(*arguments)  # type: ignore[arg-type]  # whatever it takes
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(bodies, "_write_all", fails)
        results = await asyncio.gather(
            *(store.commit(envelope(name), content_of(name)) for name in ("m1", "m2")), return_exceptions=True
        )
    assert [type(result) for result in results] == [SpoolError, SpoolError]
    assert [file.stat().st_size for file in body_files(path)] == [before]
    await commit_together(store, "m1")
    assert await ids(store) == ["before", "m1"]
    assert len(body_files(path)) == 2
    for name in ("before", "m1"):
        assert await store.content(name) == b"".join(content_of(name))
    await store.close()


async def test_a_content_whose_row_is_refused_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store(path)
    with monkeypatch.context() as patch:
        patch.setattr(Shard, "_transact", lambda *_: 1 / 0)
        with pytest.raises(SpoolError):
            await commit_together(store, "m1")
    await store.close()
    assert body_files(path) == []


async def test_a_commit_cancelled_while_its_file_is_written_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(path)
    disk = HeldBodies(monkeypatch)
    commits = [asyncio.create_task(store.commit(envelope(name), content_of(name))) for name in ("m1", "m2")]
    await asyncio.to_thread(disk.reached.wait, 30)
    late = asyncio.create_task(store.commit(envelope("m3"), content_of("m3")))
    await asyncio.sleep(0)
    for commit in (commits[0], late):
        commit.cancel()
    await asyncio.gather(commits[0], late, return_exceptions=True)
    disk.released.set()
    await commits[1]
    await store.close()
    store = await open_store(path)
    assert await ids(store) == ["m2"]
    store.settle("m2")
    await store.close()
    assert body_files(path) == []


async def test_small_messages_do_not_wait_for_a_file_that_stalls_and_what_waits_for_it_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    store = await open_store(path, metrics=metrics, stall=0.05)
    disk = HeldBodies(monkeypatch)
    for name in ("in the file", "behind it", "once it is known"):
        with pytest.raises(SpoolError, match="stalls"):
            await store.commit(envelope(name), content_of(name))
        await store.commit(envelope(f"small beside {name}"), [b"x"])
    assert sample(metrics, "postroad_spool_failures_total", reason="stalled") == 1
    disk.released.set()
    async with asyncio.timeout(10):
        while True:
            try:
                await commit_together(store, "after")
                break
            except SpoolError:
                await asyncio.sleep(0.01)
    await store.close()
    store = await open_store(path)
    stored = await ids(store)
    assert stored[:3] == ["small beside in the file", "small beside behind it", "small beside once it is known"]
    assert stored[3:] == ["after"]
    assert len(body_files(path)) == 1
    await store.close()


async def test_a_row_whose_content_was_cut_off_is_dropped_and_its_neighbours_stay(path: Path) -> None:
    store = await open_store(path)
    await commit_together(store, "m1", "m2")
    await store.close()
    (file,) = body_files(path)
    os.truncate(file, file.stat().st_size - 1)
    store = await open_store(path)
    assert await ids(store) == ["m1"]
    assert await store.content("m1") == b"".join(content_of("m1"))
    store.settle("m1")
    await store.close()
    assert body_files(path) == []


async def test_a_spool_of_the_former_schema_is_taken_over(path: Path) -> None:
    encode = msgspec.msgpack.encode
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE message (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, in_file INTEGER NOT NULL,"
            " envelope BLOB NOT NULL); CREATE TABLE content (seq INTEGER PRIMARY KEY, data BLOB NOT NULL);"
            "PRAGMA user_version = 1"
        )
        rows = [(3, "small", 0), (4, "large", 1), (7, "lost", 1)]
        connection.executemany(
            "INSERT INTO message VALUES (?, ?, ?, ?)", [(*row, encode(envelope(row[1]))) for row in rows]
        )
        connection.execute("INSERT INTO content VALUES (3, ?)", (b"in the database",))
    connection.close()
    directory = Path(f"{path}.bodies")
    directory.mkdir()
    (directory / "4").write_bytes(b"in a file")

    store = await open_store(path)
    assert await ids(store) == ["small", "large"]
    assert [await store.content(name) for name in ("small", "large")] == [b"in the database", b"in a file"]
    await commit_together(store, "new")
    for name in ("small", "large", "new"):
        store.settle(name)
    await store.close()
    assert body_files(path) == []


@given(
    contents=st.lists(st.lists(st.binary(max_size=9), max_size=5), min_size=1, max_size=6),
    at_once=st.integers(1, 20),
    chunks=st.integers(1, 4),
)
def test_a_file_holds_each_content_however_little_is_written_at_once(
    tmp_path_factory: pytest.TempPathFactory, contents: list[list[bytes]], at_once: int, chunks: int
) -> None:
    def pwritev(descriptor: int, views: list[memoryview], offset: int) -> int:
        return os.pwrite(descriptor, b"".join(views)[:at_once], offset)

    files = BodyFiles(tmp_path_factory.getbasetemp() / "bodies")
    files.open()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies.os, "pwritev", pwritev)
        patch.setattr(bodies, "_WRITEV_CHUNKS", chunks)
        places = [*files.write(contents), *files.write(contents)]
    assert [files.read(place) for place in places] == [b"".join(content) for content in contents * 2]
    files.close()
    files.release(places)
    assert list(files.directory.iterdir()) == []
