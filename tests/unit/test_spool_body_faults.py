"""Body files on a disk that fails: no wrong bytes, nothing removed that is needed, and room that comes back."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path

import pytest
from spool_kit import envelope, ids, open_store

from postroad_transport.spool import bodies, shard
from postroad_transport.spool.bodies import BodyFiles
from postroad_transport.spool.shard import Shard
from postroad_transport.spool.sqlite import FILE_BYTES
from postroad_transport.spool.store import SpoolError, SpoolFullError

CONTENT = [b"Subject: large\r\n\r\n", bytes(range(256)) * (FILE_BYTES // 256)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "worker-0.db"


@pytest.fixture
def files(tmp_path: Path) -> BodyFiles:
    files = BodyFiles(tmp_path / "bodies")
    files.open()
    return files


def io_error(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def body_files(path: Path) -> list[str]:
    return sorted(os.listdir(f"{path}.bodies"))


async def test_a_content_that_can_be_read_only_in_part_is_not_returned(path: Path) -> None:
    store = await open_store(path)
    await store.commit(envelope("m1"), CONTENT)
    os.truncate(Path(f"{path}.bodies") / "1", FILE_BYTES - 1)
    with pytest.raises(SpoolError):
        await store.content("m1")
    await store.close()


def test_a_descriptor_whose_closing_failed_is_not_written_to_again(
    files: BodyFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    close = os.close
    foreign = -1

    def closes_and_fails(descriptor: int) -> None:
        nonlocal foreign
        close(descriptor)
        foreign = os.open(tmp_path / "foreign", os.O_RDWR | os.O_CREAT)  # gets the same number
        io_error()

    first = files.write([CONTENT])
    monkeypatch.setattr(bodies, "FILE_BYTES", 0)
    with monkeypatch.context() as patch:
        patch.setattr(bodies.os, "close", closes_and_fails)
        second = files.write([CONTENT])
    third = files.write([CONTENT])
    assert os.fstat(foreign).st_size == 0
    os.close(foreign)
    for place in (*first, *second, *third):
        assert files.read(place) == b"".join(CONTENT)
    files.release([*first, *second, *third])
    assert list(files.directory.iterdir()) == []


def test_one_file_that_cannot_be_removed_holds_up_no_other(files: BodyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "FILE_BYTES", 0)
    places = [*files.write([CONTENT]), *files.write([CONTENT])]
    unlink = Path.unlink
    monkeypatch.setattr(
        Path, "unlink", lambda path, **options: io_error() if path.name == "1" else unlink(path, **options)
    )
    files.release(places)
    assert [path.name for path in files.directory.iterdir()] == ["1"]


def test_what_is_released_twice_takes_no_other_content_with_it(files: BodyFiles) -> None:
    gone, needed = files.write([CONTENT, CONTENT])
    files.close()
    files.release([gone])
    files.release([gone])
    assert files.read(needed) == b"".join(CONTENT)
    files.release([needed])
    files.release([needed])
    assert list(files.directory.iterdir()) == []


def test_the_number_of_a_file_that_is_there_is_not_given_again(files: BodyFiles) -> None:
    """A predecessor that drains may still remove its own files."""
    files.release(files.write([CONTENT]))
    successor = BodyFiles(files.directory)
    assert successor.sweep(keep=()) == set()
    (place,) = successor.write([CONTENT])
    files.close()
    assert successor.read(place) == b"".join(CONTENT)
    successor.close()


async def test_what_cannot_be_removed_at_the_start_is_left_there(path: Path) -> None:
    foreign = Path(f"{path}.bodies") / "7"
    foreign.mkdir(parents=True)
    store = await open_store(path)
    await store.commit(envelope("m1"), CONTENT)
    assert await store.content("m1") == b"".join(CONTENT)
    await store.close()


async def test_a_directory_that_cannot_be_listed_at_the_start_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "iterdir", io_error)
    with pytest.raises(SpoolError, match="Input/output"):
        await open_store(path)


async def test_contents_written_before_a_fault_of_ours_leave_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(path)
    write = BodyFiles.write
    outcomes = iter([OSError(errno.ENOSPC, "No space left on device"), None, ZeroDivisionError("a fault of ours")])

    def fails(files: BodyFiles, contents: list[list[bytes]]) -> object:
        if (error := next(outcomes)) is not None:
            raise error
        return write(files, contents)

    with monkeypatch.context() as patch:
        patch.setattr(BodyFiles, "write", fails)
        results = await asyncio.gather(
            *(store.commit(envelope(name), CONTENT) for name in ("m1", "m2")), return_exceptions=True
        )
    assert [type(result) for result in results] == [SpoolError, SpoolError]
    assert await ids(store) == []
    await store.close()
    assert body_files(path) == []


async def test_a_reserve_that_is_touched_refuses_as_full_where_nothing_can_be_given_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(path, min_free_bytes=1)
    await asyncio.gather(*(store.commit(envelope(name), CONTENT) for name in ("m1", "m2")))
    store.settle("m1")
    await store.update(envelope("m2", held=True))
    monkeypatch.setattr(shard, "available", lambda _: 0)
    monkeypatch.setattr(BodyFiles, "_path", io_error)
    for content in ([b"x"], CONTENT):
        with pytest.raises(SpoolFullError):
            await store.commit(envelope("refused"), content)
    await store.close()


async def test_what_a_crash_left_in_the_log_is_in_the_database_once_it_is_open(path: Path, tmp_path: Path) -> None:
    """A log that was not flushed may be lost with the power: no file may be removed or punched on its word."""
    store = await open_store(path)
    await store.commit(envelope("m1"), CONTENT)
    crashed = tmp_path / "crashed"
    shutil.copytree(path.parent, crashed)
    await store.close()

    store = await open_store(crashed / path.name)
    without_log = tmp_path / "without-log"
    shutil.copytree(crashed, without_log, ignore=shutil.ignore_patterns("*-wal"))
    await store.close()
    store = await open_store(without_log / path.name)
    assert await ids(store) == ["m1"]
    await store.close()


async def test_a_shard_opens_where_there_is_no_room_to_move_the_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(path)
    await store.commit(envelope("m1"), [b"x"])
    await store.close()

    class Full(shard.sqlite3.Connection):
        def execute(self, statement: str, *arguments: object) -> object:
            if "wal_checkpoint" in statement:
                error = shard.sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = shard.sqlite3.SQLITE_FULL
                raise error
            return super().execute(statement, *arguments)

    connect = shard.sqlite3.connect
    monkeypatch.setattr(
        shard.sqlite3, "connect", lambda *arguments, **options: connect(*arguments, factory=Full, **options)
    )
    store = await open_store(path)
    assert await ids(store) == ["m1"]
    await store.close()


def test_a_shard_completes_its_files_before_it_lets_go_of_the_database(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Shard(path, min_free_bytes=0, lock_timeout=0)
    opened.open()
    order = []
    for owner, name in ((BodyFiles, "close"), (Shard, "_disconnect")):
        monkeypatch.setattr(owner, name, lambda _, name=name: order.append(name))
    opened.close()
    assert order == ["close", "_disconnect"]
    monkeypatch.undo()
    opened.close()
