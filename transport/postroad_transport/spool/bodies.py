"""Larger contents, in files beside the database: each is appended to, and begun anew once it is large.

A body that goes through the write-ahead log is written twice and cut into pages; in a file it is written once,
straight from the chunks it arrived in. Contents are durable before the rows that refer to them are, and their room is
given back only after those rows are gone, so that a crash leaves at worst what belongs to no row. What is left from
before a start is never added to; a file that holds nothing of any row is swept then.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from threading import Lock

from postroad_transport.message import Content, content_size
from postroad_transport.spool.occupancy import Freed, Occupancy, Place

FILE_BYTES = 8 * 1024 * 1024
"""Size from which on a file is complete."""
_WRITEV_CHUNKS = 512
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE of fallocate(2)."""

_libc = ctypes.CDLL(None)
# The plain name takes shorter offsets in a 32-bit glibc, the other one is not in musl.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class BodyFiles:
    """The directory of body files, named by numbers. Blocking.

    One thread may write, and any other read and release meanwhile.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._occupancy = Occupancy()
        self._lock = Lock()
        self._next = 1
        self._number = 0
        self._descriptor = -1
        self._end = 0

    def open(self) -> None:
        """Make the directory, for our user only."""
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Complete the file that is being added to."""
        if self._descriptor >= 0:
            self._complete()

    def write(self, contents: Sequence[Content]) -> Sequence[Place]:
        """Write contents durably, one after the other, without copying; return their places.

        Raises
        ------
        OSError
            None is kept then.
        """
        try:
            if self._descriptor < 0:
                self._begin()
            _write_all(self._descriptor, contents, self._end)
            os.fdatasync(self._descriptor)
        except BaseException:
            # What stands there now is in doubt: nothing more is added to this file.
            if self._descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._end)
                self._complete()
            raise
        places = []
        for content in contents:
            places.append(Place(self._number, self._end, content_size(content)))
            self._end += places[-1].size
        with self._lock:
            self._occupancy.add(places)
        if self._end >= FILE_BYTES:
            self._complete()
        return places

    def _begin(self) -> None:
        self._number, self._end = self._next, 0
        self._next += 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._path(self._number), flags, 0o600)
        with self._lock:
            self._occupancy.begin(self._number)
        sync_directory(self.directory)

    def _complete(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):  # what counts was flushed, and the descriptor is gone all the same
            os.close(descriptor)
        with self._lock:
            freed = self._occupancy.complete(self._number)
        self._give_back(freed)

    def read(self, place: Place) -> bytes:
        """Return one content. Raises OSError; FileNotFoundError where there is no such file."""
        with self._path(place.file).open("rb") as file:
            file.seek(place.offset)
            content = file.read(place.size)
        if len(content) < place.size:
            raise OSError(errno.EIO, f"cut short after {len(content)} bytes of {place}")
        return content

    def release(self, places: Iterable[Place]) -> None:
        """Give back the room of contents whose rows are gone, at once or later."""
        with self._lock:
            freed = self._occupancy.release(places)
        self._give_back(freed)

    def reclaim(self) -> None:
        """Give back at once all the room that is lost."""
        with self._lock:
            freed = Freed(parts=self._occupancy.reclaim())
        self._give_back(freed)

    def sweep(self, keep: Collection[Place]) -> set[Place]:
        """Remove the files that hold none of `keep`; return those of `keep` that are there. To be called first.

        Raises
        ------
        OSError
            The files cannot be told. One that cannot be removed stays.
        """
        sizes = {}
        needed = {place.file for place in keep}
        # A predecessor that is about to end may still remove what it had: no number that is there comes again.
        self._next = max(needed, default=0) + 1
        for path in self.directory.iterdir():
            number = int(path.name) if path.name.isdecimal() else -1
            self._next = max(self._next, number + 1)
            if number in needed:
                sizes[number] = path.stat().st_size
            else:
                with contextlib.suppress(OSError):
                    path.unlink()
        found = {place for place in keep if place.offset + place.size <= sizes.get(place.file, -1)}
        with self._lock:
            self._occupancy.find({place.file: sizes[place.file] for place in found}, found)
        return found

    def _give_back(self, freed: Freed) -> None:
        for number in freed.files:
            with contextlib.suppress(OSError):  # the next start sweeps
                self._path(number).unlink()
        for place in freed.parts:
            # What cannot be given back now, or is no hole on this file system, comes back with the rest of the file.
            with contextlib.suppress(OSError):
                descriptor = os.open(self._path(place.file), os.O_WRONLY | os.O_CLOEXEC)
                _fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, place.offset, place.size)
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


def _write_all(descriptor: int, contents: Sequence[Content], offset: int) -> None:
    views = [memoryview(chunk) for content in contents for chunk in content if chunk]
    first = 0
    while first < len(views):
        written = os.pwritev(descriptor, views[first : first + _WRITEV_CHUNKS], offset)
        offset += written
        while first < len(views) and written >= len(views[first]):
            written -= len(views[first])
            first += 1
        if written:
            views[first] = views[first][written:]
