"""Large contents, one file each, beside the database.

A body that goes through the write-ahead log is written twice and cut into pages; as a file it is written once,
straight from the chunks it arrived in. A file is durable before the row that refers to it is, and removed only after
that row is gone, so that a crash leaves at worst a file without a row, which the next start sweeps.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from pathlib import Path

from postroad_transport.message import Content

_WRITEV_CHUNKS = 512


class BodyFiles:
    """The directory of body files; a file is named by its message's sequence number."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self) -> None:
        """Make the directory, for our user only."""
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def write(self, seq: int, content: Content) -> None:
        """Write one body durably, without copying it. Raises OSError; nothing is left then."""
        path = self._path(seq)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write_all(descriptor, content)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            sync_directory(self.directory)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def read(self, seq: int) -> bytes:
        """Return one body. Raises FileNotFoundError."""
        return self._path(seq).read_bytes()

    def remove(self, seq: int) -> None:
        """Remove one body; it is no error when it is gone."""
        self._path(seq).unlink(missing_ok=True)

    def sweep(self, keep: Container[int]) -> set[int]:
        """Remove the files that belong to no message; return the sequence numbers of those that remain."""
        remaining = set()
        for path in self.directory.iterdir():
            if path.name.isdecimal() and int(path.name) in keep:
                remaining.add(int(path.name))
            else:
                path.unlink()
        return remaining

    def _path(self, seq: int) -> Path:
        return self.directory / str(seq)


def sync_directory(directory: Path) -> None:
    """Make names created in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: Content) -> None:
    views = [memoryview(chunk) for chunk in content if chunk]
    while views:
        written = os.writev(descriptor, views[:_WRITEV_CHUNKS])
        views = list(_after(views, written))


def _after(views: Iterable[memoryview], written: int) -> Iterable[memoryview]:
    for view in views:
        if written >= len(view):
            written -= len(view)
        else:
            yield view[written:]
            written = 0
