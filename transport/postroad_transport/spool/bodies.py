"""Larger contents, in files beside the database: those that were written at the same time share one.

A body that goes through the write-ahead log is written twice and cut into pages; in a file it is written once,
straight from the chunks it arrived in. A file is durable before the rows that refer to it are, and nothing of it is
given back before those rows are gone, so that a crash leaves at worst a file without a row, which the next start
sweeps.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock

from postroad_transport.message import Content, content_size
from postroad_transport.spool.occupancy import Occupancy, Place

_WRITEV_CHUNKS = 512
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE of fallocate(2)."""

_libc = ctypes.CDLL(None)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class BodyFiles:
    """The directory of body files. Blocking; any thread may use it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._occupancy = Occupancy()
        self._lock = Lock()

    def open(self) -> None:
        """Make the directory, for our user only."""
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def write(self, number: int, contents: Sequence[Content]) -> Sequence[Place]:
        """Write a new file durably, without copying; return the place of each content.

        Raises
        ------
        OSError
            Nothing is left then.
        """
        path = self._path(number)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write_all(descriptor, contents)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            sync_directory(self.directory)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        places = []
        offset = 0
        for content in contents:
            places.append(Place(number, offset, content_size(content)))
            offset += places[-1].size
        with self._lock:
            self._occupancy.add(places)
        return places

    def read(self, place: Place) -> bytes:
        """Return one content. Raises FileNotFoundError."""
        descriptor = os.open(self._path(place.file), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, place.size, place.offset)
        finally:
            os.close(descriptor)

    def release(self, places: Iterable[Place]) -> None:
        """Give back the room of contents whose rows are gone, at once or later. Raises OSError."""
        with self._lock:
            freed = self._occupancy.release(places)
        for number in freed.files:
            self._path(number).unlink(missing_ok=True)
        self._give_back(freed.parts)

    def reclaim(self) -> None:
        """Give back at once all the room that is lost in files that are needed. Raises OSError."""
        with self._lock:
            parts = self._occupancy.reclaim()
        self._give_back(parts)

    def sweep(self, keep: Iterable[Place]) -> set[Place]:
        """Remove the files that hold none of `keep`; return those of `keep` that are there."""
        sizes = {}
        needed = {place.file for place in keep}
        for path in self.directory.iterdir():
            if path.name.isdecimal() and int(path.name) in needed:
                sizes[int(path.name)] = path.stat().st_size
            else:
                path.unlink()
        found = {place for place in keep if place.offset + place.size <= sizes.get(place.file, -1)}
        with self._lock:
            self._occupancy.add(found)
        return found

    def _give_back(self, parts: Iterable[Place]) -> None:
        for place in parts:
            with contextlib.suppress(FileNotFoundError):  # meanwhile nothing of it is needed
                descriptor = os.open(self._path(place.file), os.O_WRONLY | os.O_CLOEXEC)
                # Where a file system cannot, the room comes back with the rest of the file.
                _libc.fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, place.offset, place.size)
                os.close(descriptor)

    def size(self, number: int) -> int:
        """Return the bytes in a file, 0 where there is none."""
        try:
            return self._path(number).stat().st_size
        except FileNotFoundError:
            return 0

    def _path(self, number: int) -> Path:
        return self.directory / str(number)


def sync_directory(directory: Path) -> None:
    """Make names created in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, contents: Sequence[Content]) -> None:
    views = [memoryview(chunk) for content in contents for chunk in content if chunk]
    first = 0
    while first < len(views):
        written = os.writev(descriptor, views[first : first + _WRITEV_CHUNKS])
        while first < len(views) and written >= len(views[first]):
            written -= len(views[first])
            first += 1
        if written:
            views[first] = views[first][written:]
