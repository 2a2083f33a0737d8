"""A disk without room: refusals that say so, nothing kept by halves, and recovery without help."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from spool_kit import envelope, ids, open_store, sample

from postroad_transport.spool import room, shard
from postroad_transport.spool.shard import Shard
from postroad_transport.spool.sqlite import FILE_BYTES
from postroad_transport.spool.store import SpoolError, SpoolFullError
from postroad_transport.telemetry.metrics import Metrics

MEGABYTE = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB of its own."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"cannot mount: {made.stderr.decode().strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


async def fill(store: object, size: int, attempts: int = 400) -> tuple[list[str], list[Exception]]:
    taken, refused = [], []
    for number in range(attempts):
        name = f"{size}-{number}"
        try:
            await store.commit(envelope(name), [bytes(size)])
            taken.append(name)
        except SpoolError as error:
            refused.append(error)
    return taken, refused


@pytest.mark.parametrize("size", [FILE_BYTES // 2, 4 * FILE_BYTES])
async def test_a_full_disk_refuses_as_full_keeps_what_was_taken_and_recovers(small_disk: Path, size: int) -> None:
    path = small_disk / "spool" / "worker-0.db"
    store = await open_store(path)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4 * MEGABYTE))
    taken, refused = await fill(store, size, attempts=1000)
    assert taken
    assert refused
    assert {type(error) for error in refused} == {SpoolFullError}
    assert await ids(store) == taken

    ballast.unlink()
    await store.commit(envelope("there is room again"), [bytes(size)])
    await store.close()
    store = await open_store(path)
    assert await ids(store) == [*taken, "there is room again"]
    for name in taken:
        assert await store.content(name) == bytes(size)
    await store.close()


async def test_a_queue_that_filled_the_disk_drains_and_takes_mail_again(small_disk: Path) -> None:
    store = await open_store(small_disk / "worker-0.db", min_free_bytes=6 * MEGABYTE)
    taken, refused = await fill(store, 30_000)
    assert refused
    for name in taken:
        store.settle(name)
    await asyncio.sleep(0)
    for number in range(20):
        await store.commit(envelope(f"again-{number}"), [bytes(30_000)])
    assert await ids(store) == [f"again-{number}" for number in range(20)]
    await store.close()


async def test_messages_that_fit_survive_a_batch_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    store = await open_store(tmp_path / "worker-0.db", metrics=metrics)
    await store._writer.call(store._shard._connect().execute, "PRAGMA max_page_count = 14")
    sizes = [28_000, 200, 30_000, 300]
    results = await asyncio.gather(
        *(store.commit(envelope(str(size)), [bytes(size)]) for size in sizes), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), type(None), SpoolFullError, type(None)]
    assert await ids(store) == ["28000", "200", "300"]
    assert sample(metrics, "postroad_spool_failures_total", reason="full") == 1

    store.settle("28000")
    await store.commit(envelope("in its place"), [bytes(28_000)])
    assert await ids(store) == ["200", "300", "in its place"]
    await store.close()


@pytest.mark.parametrize("size", [10, FILE_BYTES])
async def test_commits_stop_while_the_reserve_is_touched_and_settling_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    free = 100 * MEGABYTE
    monkeypatch.setattr(shard, "available", lambda _: free)
    store = await open_store(tmp_path / "worker-0.db", min_free_bytes=64 * MEGABYTE)
    await store.commit(envelope("before"), [bytes(size)])
    free = 63 * MEGABYTE
    with pytest.raises(SpoolFullError):
        await store.commit(envelope("refused"), [bytes(size)])
    await store.update(envelope("before", held=True))
    store.settle("before")
    free = 100 * MEGABYTE
    await store.commit(envelope("after"), [bytes(size)])
    await store.close()
    store = await open_store(tmp_path / "worker-0.db")
    assert await ids(store) == ["after"]
    await store.close()


async def test_a_settlement_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store(tmp_path / "worker-0.db")
    await store.commit(envelope("m"), [b"x"])
    store.settle("m")
    transact = Shard._transact
    failures = iter([OSError(28, "No space left on device")] * 2)

    def fails_first(shard: Shard, batch: object) -> None:
        for failure in failures:
            raise failure
        transact(shard, batch)

    monkeypatch.setattr(Shard, "_transact", fails_first)
    await store.commit(envelope("n"), [b"x"])
    await store.close()
    monkeypatch.undo()
    store = await open_store(tmp_path / "worker-0.db")
    assert await ids(store) == ["n"]
    await store.close()


def test_a_failed_write_means_full_only_where_a_probe_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = shard.sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = shard.sqlite3.SQLITE_IOERR_WRITE
    assert not room.means_full(error, tmp_path)

    def over_quota(*_: object) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(os, "posix_fallocate", over_quota)
    assert room.means_full(error, tmp_path)
    assert list(tmp_path.iterdir()) == []
