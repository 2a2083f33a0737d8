"""What the body files hold, and what of their room to give back. Pure: what came and went in, what to do out.

A file goes when it is complete and nothing in it is needed any more. Until then what is not needed in it is room
lost. Giving back that of each content by itself costs several times its share of removing the file, and most files go
a moment later. So it waits until as much is lost as is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

LOST_BYTES = 16 * 1024 * 1024
"""What may be lost however little is needed."""


class Place(NamedTuple):
    """Where a content lies: the number of its body file, and what of it."""

    file: int
    offset: int
    size: int


@dataclass(slots=True)
class Freed:
    """What to give back: whole files, and parts of others."""

    files: list[int] = field(default_factory=list)
    parts: list[Place] = field(default_factory=list)


@dataclass(slots=True)
class _File:
    complete: bool = True
    needed: set[Place] = field(default_factory=set)
    lost: list[Place] = field(default_factory=list)


class Occupancy:
    """What is needed and what is lost, in bytes and by file."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._needed_bytes = 0
        self._lost_bytes = 0

    def find(self, sizes: Mapping[int, int], places: Iterable[Place]) -> None:
        """Note what a start has found: files of these sizes, and what in them is needed. The rest of them is lost."""
        ends = dict.fromkeys(sizes, 0)
        for place in sorted(places):
            self._lose(Place(place.file, ends[place.file], place.offset - ends[place.file]))
            self.add([place])
            ends[place.file] = place.offset + place.size
        for number, end in ends.items():
            self._lose(Place(number, end, sizes[number] - end))

    def begin(self, number: int) -> None:
        """Note a file that more will be added to: it stays until it is complete."""
        self._files[number] = _File(complete=False)

    def complete(self, number: int) -> Freed:
        """Note that nothing more will be added to a file; return what to give back now."""
        self._files[number].complete = True
        freed = Freed()
        self._drop_if_done(number, freed)
        return freed

    def add(self, places: Iterable[Place]) -> None:
        """Note contents that have been written."""
        for place in places:
            self._files.setdefault(place.file, _File()).needed.add(place)
            self._needed_bytes += place.size

    def release(self, places: Iterable[Place]) -> Freed:
        """Note contents that are not needed any more; return what to give back now."""
        freed = Freed()
        for place in places:
            file = self._files.get(place.file)
            if file is None or place not in file.needed:
                continue  # given back already
            file.needed.remove(place)
            self._needed_bytes -= place.size
            self._lose(place)
            self._drop_if_done(place.file, freed)
        if self._lost_bytes > max(LOST_BYTES, self._needed_bytes):
            freed.parts = self.reclaim()
        return freed

    def reclaim(self) -> list[Place]:
        """Return all that is lost, to be given back now."""
        parts = []
        for file in self._files.values():
            parts += file.lost
            file.lost = []
        self._lost_bytes = 0
        return parts

    def _lose(self, place: Place) -> None:
        if place.size:
            self._files.setdefault(place.file, _File()).lost.append(place)
            self._lost_bytes += place.size

    def _drop_if_done(self, number: int, freed: Freed) -> None:
        file = self._files[number]
        if file.complete and not file.needed:
            del self._files[number]
            self._lost_bytes -= sum(place.size for place in file.lost)
            freed.files.append(number)
