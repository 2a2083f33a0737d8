"""Failed logins and bans in one SQLite file, shared by the workers of a tier and by the supervisor.

Workers share no memory, and a ban must hold for all of them, over reloads, restarts and crashes: so what is counted
lies in a file. Readers never wait for writers (write-ahead log); a write is one row and is not synced, since losing
the last moment of it in a power cut costs nothing. Without a usable file there are no bans, and mail goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar, TypeVarTuple, Unpack

import msgspec

from postroad_transport.config import Bans
from postroad_transport.policy.bans import NOTHING, USUAL_FOR, Record, after_failure, is_banned
from postroad_transport.telemetry.events import EventLog

FILE = "bans.sqlite"
ADDRESS = "address"
ACCOUNT = "account"

#: Rows of either table; beyond, the ones untouched for longest go. A row takes about 200 bytes.
MAX_ROWS = 50_000
#: Writes of one process between two looks at the size.
PRUNE_EVERY = 256
#: Seconds that a write waits for the other processes, and a read for a file that is being recovered.
BUSY_TIMEOUT = 2.0
READ_TIMEOUT = 0.05
#: Seconds after which failures that came to nothing are forgotten, whatever the window.
FORGET_AFTER = 7 * 86_400.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS subject (
    connector TEXT, kind TEXT, name TEXT, failures BLOB, since REAL, until REAL, touched REAL,
    PRIMARY KEY (connector, kind, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS subject_touched ON subject (touched);
CREATE TABLE IF NOT EXISTS usual (
    connector TEXT, account TEXT, address TEXT, touched REAL, PRIMARY KEY (connector, address, account)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS usual_touched ON usual (touched);
"""
_FIND = "SELECT failures, since, until FROM subject WHERE connector = ? AND kind = ? AND name = ?"
_PUT = "INSERT OR REPLACE INTO subject VALUES (?, ?, ?, ?, ?, ?, ?)"

# Standing bans go last, but they go: what is kept is bounded whatever an attacker has.
_PRUNE = (
    "DELETE FROM usual WHERE touched <= :now - :usual",
    "DELETE FROM usual WHERE touched <= (SELECT touched FROM usual ORDER BY touched DESC LIMIT 1 OFFSET :rows)",
    "DELETE FROM subject WHERE touched <= :now - :forget AND until <= :now",
    "DELETE FROM subject WHERE until <= :now"
    " AND touched <= (SELECT touched FROM subject ORDER BY touched DESC LIMIT 1 OFFSET :rows)",
    "DELETE FROM subject"
    " WHERE touched <= (SELECT touched FROM subject ORDER BY touched DESC LIMIT 1 OFFSET 2 * :rows)",
)

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(tuple[float, ...]).decode


T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Ban(NamedTuple):
    """A ban that stands. Times are seconds since the epoch."""

    connector: str
    kind: str
    subject: str
    since: float
    until: float


def open_bans(state_dir: Path, events: EventLog, *, repair: bool = False) -> BanStore | None:
    """Open the file of a tier, or say in the log why there are no bans. See :meth:`BanStore.open` for `repair`."""
    try:
        return BanStore.open(state_dir / FILE, repair=repair)
    except OSError as error:
        events.emit("auth.bans_unavailable", error=str(error))
        return None


class BanStore:
    """One process's way to the file. Make it with :meth:`open`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch(mode=0o600)
        self._writing = _connect(path, BUSY_TIMEOUT, _SCHEMA)
        self._reading = _connect(path, READ_TIMEOUT)
        self._writer = ThreadPoolExecutor(1, "bans")
        self._writes = 0

    @classmethod
    def open(cls, path: Path, *, repair: bool = False) -> BanStore:
        """Open the file.

        Parameters
        ----------
        repair
            Begin a damaged file anew. Only for the supervisor before it starts workers: nobody else has it open then.

        Raises
        ------
        OSError
            There cannot be such a file, or it is damaged.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return cls(path)
        except sqlite3.Error as error:
            if not repair or error.sqlite_errorcode not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise OSError(f"{path}: {error}") from error
        for damaged in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            damaged.unlink(missing_ok=True)
        return cls.open(path)

    def record(self, connector: str, kind: str, subject: str) -> Record:
        """Return what is known of a subject. Some microseconds, for the event loop; nothing where that fails."""
        try:
            row = self._reading.execute(_FIND, (connector, kind, subject)).fetchone()
        except sqlite3.Error:
            return NOTHING
        return NOTHING if row is None else Record(_decode(row[0]), row[1], row[2])

    def is_usual(self, connector: str, account: str, address: str, now: float) -> bool:
        """Tell whether the account was used from the address lately."""
        try:
            row = self._reading.execute(
                "SELECT touched FROM usual WHERE connector = ? AND account = ? AND address = ?",
                (connector, account, address),
            ).fetchone()
        except sqlite3.Error:
            return False
        return row is not None and now - USUAL_FOR < row[0] <= now

    def is_known(self, connector: str, address: str, now: float) -> bool:
        """Tell whether any account was used from the address lately."""
        try:
            row = self._reading.execute(
                "SELECT max(touched) FROM usual WHERE connector = ? AND address = ?", (connector, address)
            ).fetchone()
        except sqlite3.Error:
            return False
        return row[0] is not None and now - USUAL_FOR < row[0] <= now

    async def add_failure(
        self, connector: str, subjects: dict[str, tuple[str, int]], bans: Bans, now: float
    ) -> list[Ban]:
        """Count a failed login against each subject (by kind: name, limit); return the bans that this begins.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        return await self._write(self._add_failure, connector, subjects, bans, now)

    async def add_success(self, connector: str, account: str, address: str, now: float) -> None:
        """Remember where an account is used from. Raises OSError."""
        await self._write(self._add_success, connector, account, address, now)

    async def lift(self, subjects: Sequence[str], now: float) -> int:
        """Forget the bans and failures of `subjects` (none named: of all); return how many bans that ended.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        return await self._write(self._lift, tuple(subjects), now)

    def active(self, now: float) -> list[Ban]:
        """Return the bans that stand, the newest first; none where that fails. Not for the event loop."""
        query = "SELECT connector, kind, name, since, until FROM subject WHERE until > ? ORDER BY since DESC"
        try:
            with contextlib.closing(_connect(self._path, BUSY_TIMEOUT)) as connection:
                return [ban for row in connection.execute(query, (now,)) if (ban := Ban(*row)).since <= now]
        except sqlite3.Error:
            return []

    def close(self) -> None:
        """Finish what is being written."""
        self._writer.shutdown()
        self._reading.close()
        self._writing.close()

    async def _write(self, action: Callable[[Unpack[Ts]], T], *arguments: *Ts) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer, action, *arguments)
        except (sqlite3.Error, RuntimeError) as error:
            raise OSError(f"{self._path}: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._writing
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _add_failure(self, connector: str, subjects: dict[str, tuple[str, int]], bans: Bans, now: float) -> list[Ban]:
        begun = []
        with self._transaction() as connection:
            for kind, (name, limit) in subjects.items():
                row = connection.execute(_FIND, (connector, kind, name)).fetchone()
                before = NOTHING if row is None else Record(_decode(row[0]), row[1], row[2])
                after = after_failure(before, now, limit, bans)
                if after is before:
                    continue
                row = (connector, kind, name, _encode(after.failures), after.since, after.until, now)
                connection.execute(_PUT, row)
                if is_banned(after, now):
                    begun.append(Ban(connector, kind, name, after.since, after.until))
            self._prune(connection, now)
        return begun

    def _add_success(self, connector: str, account: str, address: str, now: float) -> None:
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO usual VALUES (?, ?, ?, ?)", (connector, account, address, now))
            self._prune(connection, now)

    def _lift(self, subjects: tuple[str, ...], now: float) -> int:
        with self._transaction() as connection:
            standing = connection.execute(
                "SELECT name FROM subject WHERE since <= ? AND until > ?", (now, now)
            ).fetchall()
            if subjects:
                connection.executemany("DELETE FROM subject WHERE name = ?", [(name,) for name in subjects])
            else:
                connection.execute("DELETE FROM subject")
        return sum(not subjects or name in subjects for (name,) in standing)

    def _prune(self, connection: sqlite3.Connection, now: float) -> None:
        self._writes += 1
        if self._writes % PRUNE_EVERY:
            return
        for statement in _PRUNE:
            connection.execute(statement, {"now": now, "usual": USUAL_FOR, "forget": FORGET_AFTER, "rows": MAX_ROWS})


def _connect(path: Path, timeout: float, schema: str = "") -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(schema)
    except BaseException:
        connection.close()
        raise
    return connection
