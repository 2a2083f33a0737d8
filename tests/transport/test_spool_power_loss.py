"""Loss of power under load, simulated: what was acknowledged is there whole, and what is gone for good stays gone.

A program that uses the store runs once, and every change it makes to its directory is recorded. From the records come
images of what a disk may hold after a loss of power at many moments; the store opens each.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from power_loss_kit import Disk, Kept, Record, images, read_records
from power_loss_work import DATABASE, FAULTS, TOLD, Expectation, content_of, expectation
from spool_kit import ids, open_store

from postroad_transport.spool.store import SpoolError

HERE = Path(__file__).parent
IMAGES = 60


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("NO C COMPILER: install cc; that the spool survives a loss of power is not shown by this run")
    library = tmp_path_factory.mktemp("recorder") / "disk_recorder.so"
    source = HERE / "disk_recorder.c"
    # A C library that checks its callers puts inline functions in place of those that are recorded.
    subprocess.run(["cc", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


class Run:
    """One run of the program; its log stays in `directory`."""

    def __init__(self, recorder: Path, directory: Path, *, seed: int, fault: str = "none") -> None:
        self.root = directory / "disk"
        self.root.mkdir()
        self._image = directory / "image"
        self._seed = seed
        log = directory / "log"
        subprocess.run(
            [sys.executable, HERE / "power_loss_work.py", self.root, str(seed), fault],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "LD_PRELOAD": str(recorder),
                "RECORDER_ROOT": str(self.root),
                "RECORDER_LOG": str(log),
            },
            check=True,
            timeout=60,
        )
        assert log.exists(), "the recorder was not loaded: LD_PRELOAD has no effect here"
        self.records: list[Record] = list(read_records(log.read_bytes()))

    def failures(self) -> Iterator[str]:
        """Yield what is wrong, image by image, and what makes that image again out of the log."""
        disk = Disk(str(self.root))
        for moment, files in images(disk, self.records, IMAGES, self._seed):
            self._write(files)
            expected = expectation(disk.read(str(self.root / TOLD)).decode().splitlines())
            if wrong := asyncio.run(wrong_in(self._image / DATABASE, expected)):
                yield f"seed {self._seed}, {moment} of {len(self.records)} in {self.root.parent}: {', '.join(wrong)}"

    def _write(self, files: dict[str, bytes]) -> None:
        shutil.rmtree(self._image, ignore_errors=True)
        for path, content in files.items():
            target = self._image / Path(path).relative_to(self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


async def wrong_in(path: Path, expected: Expectation) -> list[str]:
    store = await open_store(path)
    stored = await ids(store)
    wrong = [f"{message_id} is lost" for message_id in sorted(expected.must.difference(stored))]
    wrong += [f"{message_id} came back" for message_id in sorted(set(stored) - expected.may)]
    for message_id in stored:
        try:
            content = await store.content(message_id)
        except (SpoolError, KeyError) as error:
            wrong.append(f"{message_id} cannot be read: {error}")
        else:
            if content != b"".join(content_of(message_id)):
                wrong.append(f"{message_id} has other bytes")
    await store.close()
    return wrong


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_acknowledged_survives_a_loss_of_power(recorder: Path, tmp_path: Path, seed: int) -> None:
    run = Run(recorder, tmp_path, seed=seed)

    disk = Disk(str(run.root))
    for record in run.records:
        disk.apply(record)
    seen = disk.image(Kept.EVERYTHING)
    there = {str(path): path.read_bytes() for path in run.root.rglob("*") if path.is_file()}
    differing = [path for path in seen.keys() | there.keys() if seen.get(path) != there.get(path)]
    assert not differing, "the recorder does not see every call here"

    assert list(run.failures()) == []
    shutil.rmtree(tmp_path)  # the log is large, and only a failure needs it


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "none"])
def test_a_store_that_is_not_durable_is_found_out(recorder: Path, tmp_path: Path, fault: str) -> None:
    assert next(Run(recorder, tmp_path, seed=1, fault=fault).failures(), None) is not None
    shutil.rmtree(tmp_path)
