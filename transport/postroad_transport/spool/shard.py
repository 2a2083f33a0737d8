"""One SQLite file of the spool, used from one thread.

Write-ahead log, ``synchronous=FULL``: a transaction costs one flush of the log, whatever its number of messages.
Envelopes and contents lie in two tables, so that a deferral rewrites only the envelope. Each statement carries as
many rows as it can: every call into SQLite lets go of the interpreter lock, and beside a busy event loop getting it
back is what costs.

``locking_mode=EXCLUSIVE`` keeps a second process away from a file that is in use.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from postroad_transport.message import Content
from postroad_transport.spool.batch import Batch, Commit, Operation
from postroad_transport.spool.bodies import BodyFiles, sync_directory
from postroad_transport.spool.occupancy import Place
from postroad_transport.spool.room import available, means_full, sqlite_code
from postroad_transport.spool.schema import migrate
from postroad_transport.spool.store import SpoolError, SpoolFullError

_PAGE_BYTES = 4096
_CHECKPOINT_PAGES = 1000
"""Pages of log after which it is moved into the database: that takes about 10 ms, and 35 ms at four times it."""
_SLACK_BYTES = 256 * 1024
"""What a commit may need beside its content: pages of the trees, and pages that are not quite full."""
_ROWS = 64
_CACHED_STATEMENTS = 5 * _ROWS
_SHRINK_BYTES = 64 * 1024 * 1024
"""An empty file that has grown beyond this gives its room back."""
_NO_PLACE = (None, None, None)
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_Row = TypeVar("_Row")


class DamagedError(SpoolError):
    """The file is not a database, or is corrupt."""


class Shard:
    """One database file and its body files.

    Parameters
    ----------
    path
        The file; body files lie in ``<path>.bodies/``.
    min_free_bytes
        Commits are refused when the file system has less room than this, so that settling and checkpointing,
        which need room in the log, still can.
    lock_timeout
        Seconds to wait for another process (a predecessor that drains) to let go of the file.
    """

    def __init__(self, path: Path, *, min_free_bytes: int, lock_timeout: float) -> None:
        self.path = path
        self._directory = str(path.parent)
        self.bodies = BodyFiles(Path(f"{path}.bodies"))
        self._min_free_bytes = min_free_bytes
        self._lock_timeout = lock_timeout
        self._connection: sqlite3.Connection | None = None
        self._logged = 0
        """Pages in the log since it was last moved, estimated."""
        self._doubtful: set[int] = set()
        """Messages whose last COMMIT failed: they were refused, but may stand in the log all the same."""

    def open(self) -> Sequence[tuple[str, int, Place | None]]:
        """Open or create the file; return id, sequence number and place of the content, of each message.

        The place is None where the content is in the database.

        Raises
        ------
        DamagedError
            The file is not a sound database.
        SpoolError
            It cannot be opened: permissions, no room, used by another process, or of a newer version.
        """
        directory = self.path.parent
        try:
            if not directory.exists():
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(directory.parent)
            # SQLite gives its other files the mode of this one.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.bodies.open()
            connection = self._connect()
            rows = connection.execute("SELECT id, seq, file, offset, size FROM message ORDER BY seq").fetchall()
            sync_directory(directory)
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            raise self._classify(error) from error
        return [(name, seq, None if place[0] is None else Place(*place)) for name, seq, *place in rows]

    def move_aside(self) -> Path:
        """Rename a damaged file, and all that belongs to it, to ``<path>.corrupt-<time>``; nothing is deleted."""
        self._disconnect()
        aside = Path(f"{self.path}.corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}")
        for suffix in ("", "-wal", "-shm", ".bodies"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        return aside

    def delete(self) -> None:
        """Close and remove an empty shard."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self.bodies.sweep(keep=())
        self.bodies.directory.rmdir()

    def close(self) -> None:
        """Close the file; SQLite then moves the log into it."""
        self.bodies.close()
        self._disconnect()

    def sweep_bodies(self, keep: Collection[Place]) -> set[Place]:
        """Remove body files that hold none of `keep`; return those of `keep` that are there. Raises SpoolError."""
        try:
            return self.bodies.sweep(keep)
        except OSError as error:
            raise self._classify(error) from error

    def write_bodies(self, commits: Sequence[Commit], contents: Sequence[Content]) -> Mapping[Commit, SpoolError]:
        """Write contents durably to the body files; set the places, and return the error of each that failed.

        Any one thread may. When there is no room for all, they are tried one by one, the smallest first.
        """
        try:
            self._write_bodies(commits, contents)
        except (SpoolFullError, OSError) as error:
            failure = self._classify(error)
            if len(commits) == 1 or not isinstance(failure, SpoolFullError):
                return dict.fromkeys(commits, failure)
        else:
            return {}
        failures: dict[Commit, SpoolError] = {}
        for commit, content in sorted(zip(commits, contents, strict=True), key=lambda pair: pair[0].size):
            failures |= self.write_bodies([commit], [content])
        return failures

    def _write_bodies(self, commits: Sequence[Commit], contents: Sequence[Content]) -> None:
        size = sum(commit.size for commit in commits)
        if self._room(size) < self._min_free_bytes + size:
            raise SpoolFullError("the spool's file system has no room left")
        for commit, place in zip(commits, self.bodies.write(contents), strict=True):
            commit.place = place

    def apply(self, batch: Batch) -> Mapping[Operation, SpoolError]:
        """Carry out `batch` in one durable transaction; return the error of each operation that failed.

        When there is no room for the whole, its parts are tried one by one, so that what frees room or needs little
        succeeds. After any other error the file is opened anew.
        """
        failures: dict[Operation, SpoolError] = {}
        try:
            if batch.commits:
                self._check_commit_room(sum(len(commit.content or b"") for commit in batch.commits))
            self._transact(batch)
        except (SpoolError, sqlite3.Error, OSError) as error:
            failure = self._classify(error)
            if not isinstance(failure, SpoolFullError):
                self._disconnect()
                return dict.fromkeys(batch.operations(), failure)
            failures = self._apply_in_parts(batch)
        gone = [settle.place for settle in batch.settles if settle.place is not None and settle not in failures]
        if gone:
            self.bodies.release(gone)
        if batch.settles and not batch.commits and not failures:
            self._shrink()
        return failures

    @property
    def checkpoint_due(self) -> bool:
        """Whether to move the log into the database, to be asked between batches."""
        return self._logged >= _CHECKPOINT_PAGES

    def checkpoint(self) -> None:
        """Move the log into the database. A failure changes nothing: the next one takes up where this ended."""
        self._logged = 0
        with contextlib.suppress(sqlite3.Error):
            self._connect().execute("PRAGMA wal_checkpoint(PASSIVE)")

    def read_content(self, seq: int) -> bytes:
        """Return a content from the database. Raises KeyError."""
        return self._read_one("SELECT data FROM content WHERE seq = ?", seq)

    def read_envelope(self, seq: int) -> bytes:
        """Return an encoded envelope. Raises KeyError."""
        return self._read_one("SELECT envelope FROM message WHERE seq = ?", seq)

    def read_envelopes(self) -> list[bytes]:
        """Return the encoded envelope of every message, oldest first."""
        try:
            rows = self._connect().execute("SELECT envelope FROM message ORDER BY seq").fetchall()
            return [envelope for (envelope,) in rows]
        except sqlite3.Error as error:
            raise self._classify(error) from error

    def _read_one(self, statement: str, seq: int) -> bytes:
        try:
            row = self._connect().execute(statement, (seq,)).fetchone()
        except sqlite3.Error as error:
            raise self._classify(error) from error
        if row is None:
            raise KeyError(seq)
        return bytes(row[0])

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        connection = sqlite3.connect(
            self.path,
            timeout=self._lock_timeout,
            isolation_level=None,
            cached_statements=_CACHED_STATEMENTS,
            check_same_thread=False,
        )
        try:
            for pragma in (
                f"page_size = {_PAGE_BYTES}",
                "locking_mode = EXCLUSIVE",
                "journal_mode = WAL",
                "synchronous = FULL",
                # Only where the estimate is far off: it would make those wait whose commit comes upon it.
                f"wal_autocheckpoint = {4 * _CHECKPOINT_PAGES}",
                f"journal_size_limit = {16 * _CHECKPOINT_PAGES * _PAGE_BYTES}",
                # Debian's SQLite overwrites deleted rows by default, which writes every page once more.
                "secure_delete = FAST",
                "cache_size = -16384",
                "temp_store = MEMORY",
            ):
                connection.execute(f"PRAGMA {pragma}")
            migrate(connection, self.bodies)
            for seqs in _slices(sorted(self._doubtful)):
                connection.execute(_delete("message", len(seqs)), seqs)
                connection.execute(_delete("content", len(seqs)), seqs)
            self._secure_log(connection)
            self._doubtful.clear()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _secure_log(self, connection: sqlite3.Connection) -> None:
        """Make durable what a crash, or a flush that failed, left in the log: files are removed on its word."""
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            if not means_full(error, self.path.parent):  # the log was flushed, before room was wanted
                raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _classify(self, error: Exception) -> SpoolError:
        if isinstance(error, SpoolError):
            return error
        if means_full(error, self.path.parent):
            return SpoolFullError(f"{self.path}: {error}")
        if sqlite_code(error) & 0xFF in _DAMAGED:
            return DamagedError(f"{self.path}: {error}")
        return SpoolError(f"{self.path}: {error}")

    def _room(self, size: int) -> int:
        """Return the bytes that are available, when `size` of them are wanted beside the reserve."""
        room = available(self._directory)
        if room < self._min_free_bytes + size:
            self.bodies.reclaim()
            room = available(self._directory)
        return room

    def _check_commit_room(self, size: int) -> None:
        room = self._room(size)
        if room >= self._min_free_bytes + size:
            return
        # What settled messages left behind in the file is room too, or a queue that filled the disk would never
        # take mail again. The reserve then needs to hold but the log, which keeps its size from before.
        (free_pages,) = self._connect().execute("PRAGMA freelist_count").fetchone()
        log = Path(f"{self.path}-wal").stat().st_size
        if (
            free_pages * _PAGE_BYTES < 2 * size + _SLACK_BYTES
            or room + log < size + _SLACK_BYTES + _CHECKPOINT_PAGES * _PAGE_BYTES
        ):
            raise SpoolFullError("the spool's file system has no room left")

    def _apply_in_parts(self, batch: Batch) -> dict[Operation, SpoolError]:
        failures: dict[Operation, SpoolError] = {}
        for part in batch.parts():
            try:
                if part.commits:
                    self._check_commit_room(len(part.commits[0].content or b""))
                self._transact(part)
            except (SpoolError, sqlite3.Error, OSError) as error:
                failure = self._classify(error)
                failures |= dict.fromkeys(part.operations(), failure)
                if not isinstance(failure, SpoolFullError):
                    self._disconnect()
        return failures

    def _transact(self, batch: Batch) -> None:
        connection = self._connect()
        execute = connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            for commits in _slices(batch.commits):
                values: list[Any] = []
                for commit in commits:
                    values += (commit.seq, commit.id, *(commit.place or _NO_PLACE), commit.envelope)
                execute(_insert("message", 6, len(commits)), values)
            for commits in _slices([commit for commit in batch.commits if commit.content is not None]):
                values = []
                for commit in commits:
                    values += (commit.seq, commit.content)
                execute(_insert("content", 2, len(commits)), values)
            if batch.updates:
                connection.executemany(
                    "UPDATE message SET envelope = ? WHERE seq = ?",
                    [(update.envelope, update.seq) for update in batch.updates],
                )
            for settles in _slices(batch.settles):
                execute(_delete("message", len(settles)), [settle.seq for settle in settles])
            for settles in _slices([settle for settle in batch.settles if settle.place is None]):
                execute(_delete("content", len(settles)), [settle.seq for settle in settles])
            try:
                execute("COMMIT")
            except sqlite3.Error as error:
                if sqlite_code(error) & 0xFF != sqlite3.SQLITE_FULL:  # which cuts the transaction short of its end
                    self._doubtful.update(commit.seq for commit in batch.commits)
                raise
            self._logged += _pages(batch)
            if self._doubtful:
                self._doubtful.difference_update(commit.seq for commit in batch.commits)
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    execute("ROLLBACK")
            raise

    def _shrink(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            connection = self._connect()
            (free_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
            if free_pages * _PAGE_BYTES < _SHRINK_BYTES:
                return
            if connection.execute("SELECT 1 FROM message LIMIT 1").fetchone() is None:
                connection.execute("VACUUM")


def _pages(batch: Batch) -> int:
    """Estimate how many pages of log a batch takes: its contents, and the leaves of the trees that it touches."""
    content = sum(len(commit.content or b"") for commit in batch.commits)
    return 4 + len(batch) // 8 + content // _PAGE_BYTES


def _slices(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


@cache
def _insert(table: str, columns: int, rows: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {','.join([row] * rows)}"  # noqa: S608 - our own constants


@cache
def _delete(table: str, rows: int) -> str:
    return f"DELETE FROM {table} WHERE seq IN ({','.join('?' * rows)})"  # noqa: S608 - our own constants
