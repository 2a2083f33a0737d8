"""Uses a store as the tier does, and says what it may rely on: the program that runs under `disk_recorder.c`.

    python power_loss_work.py DIRECTORY SEED FAULT

Several tasks commit, cancel and settle. The process is killed, and the next one takes up what it finds; one ends in
order. FAULT is one of :data:`FAULTS`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from spool_kit import envelope, ids, open_store

from postroad_transport.spool import bodies, occupancy, shard
from postroad_transport.spool.batch import Batch
from postroad_transport.spool.shard import Shard
from postroad_transport.spool.sqlite import FILE_BYTES, SqliteStore

DATABASE = "worker-0.db"
TOLD = "told"
PROCESSES = 3
ENDS_IN_ORDER = 1
COMMITS = 90
"""After which a process ends, whatever it is at then."""
TASKS = 6
KEPT = 12
"""Messages that a process has in its queue at the most, about."""
SIZES = (500, FILE_BYTES + 300, FILE_BYTES + 301, 45_000, 70_000, 120_000)


def content_of(message_id: str) -> list[bytes]:
    """Return the content that belongs to an id, so that a reader can tell an exact one from any other."""
    seed = sha256(message_id.encode()).digest()
    return [b"Message-ID: " + message_id.encode() + b"\r\n\r\n", seed * (SIZES[seed[0] % len(SIZES)] // len(seed))]


class Expectation(NamedTuple):
    """The ids that a store must hold, and those that it may."""

    must: set[str]
    may: set[str]


def expectation(told: Sequence[str]) -> Expectation:
    """Return what holds after these lines."""
    must: set[str] = set()
    may: set[str] = set()
    for line in told:
        word, *messages = line.split()
        match word:
            case "begun":
                may.update(messages)
            case "stored":
                must.update(messages)
            case "settled":  # "a crash before that delivers it once more"
                must.difference_update(messages)
            case "found":
                must, may = set(messages), set(messages)
            case "closed":
                may = set(must)
    return Expectation(must, may)


class Work:
    """What one process does with its store."""

    def __init__(self, store: SqliteStore, told: int, found: list[str], *, name: str, ends_in_order: bool) -> None:
        self._store = store
        self._told = told
        self._kept = found
        self._name = name
        self._ends_in_order = ends_in_order
        self._commits = 0

    def say(self, *words: str) -> None:
        os.write(self._told, " ".join(words).encode() + b"\n")

    async def run(self) -> None:
        self.say("found", *self._kept)
        await asyncio.gather(*(self._commit_and_settle(f"{self._name}-{task}") for task in range(TASKS)))
        await self._store.close()
        self.say("closed")

    async def _commit_and_settle(self, name: str) -> None:
        chance = random.Random(name)
        for number in itertools.count():
            if self._commits >= COMMITS:
                if not self._ends_in_order:
                    asyncio.get_running_loop().call_later(chance.uniform(0, 0.002), os._exit, 0)
                return
            message_id = f"{name}-{number}"
            self.say("begun", message_id)
            content = content_of(message_id)
            commit = asyncio.ensure_future(self._store.commit(envelope(message_id, content), content))
            if chance.random() < 0.15:
                asyncio.get_running_loop().call_later(chance.uniform(0, 0.004), commit.cancel)
            try:
                await commit
            except asyncio.CancelledError:
                continue
            self.say("stored", message_id)
            self._commits += 1
            self._kept.append(message_id)
            while self._kept and (len(self._kept) > KEPT or chance.random() < 0.5):
                settled = self._kept.pop(chance.randrange(len(self._kept)))
                self.say("settled", settled)
                self._store.settle(settled)


def _flush_no_contents() -> None:
    os.fdatasync = lambda descriptor: None


def _flush_no_transactions() -> None:
    class Connection(sqlite3.Connection):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            return super().execute(statement.replace("synchronous = FULL", "synchronous = NORMAL"), *arguments)

    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=Connection, **options)


def _flush_no_names() -> None:
    bodies.sync_directory = lambda directory: None


def _release_before_commit() -> None:
    apply = Shard.apply

    def released_first(self: Shard, batch: Batch) -> Mapping[Any, Any]:
        self.bodies.release([settle.place for settle in batch.settles if settle.place])
        self.bodies.reclaim()
        return apply(self, batch)

    Shard.apply = released_first


FAULTS: Mapping[str, Callable[[], None]] = {
    "none": lambda: None,
    "contents are not flushed": _flush_no_contents,
    "transactions are not flushed": _flush_no_transactions,
    "names of body files are not flushed": _flush_no_names,
    "room is given back before the commit": _release_before_commit,
}


async def work(directory: Path, told: int, name: str, *, ends_in_order: bool) -> None:
    store = await open_store(directory / DATABASE)
    await Work(store, told, await ids(store), name=name, ends_in_order=ends_in_order).run()


def main() -> None:
    directory, seed, fault = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    # So that little work comes often to the points where something ends, or is given back.
    bodies.FILE_BYTES = 300_000
    occupancy.LOST_BYTES = 60_000
    shard._CHECKPOINT_PAGES = 24
    FAULTS[fault]()
    told = os.open(directory / TOLD, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in range(PROCESSES):
        process = os.fork()
        if process == 0:
            asyncio.run(work(directory, told, f"{seed}-{number}", ends_in_order=number == ENDS_IN_ORDER))
            os._exit(0)
        if os.waitpid(process, 0)[1]:
            sys.exit(f"process {number} failed")


if __name__ == "__main__":
    main()
