"""What a disk may hold after a loss of power: the records of `disk_recorder.c` in, images out. Pure.

A change is on the disk for certain once a flush that began after it has ended. Before, it may be there or not,
whatever became of the others: no order is kept, of a write some sectors may be there, and a file's name is for its
directory's flush. Real file systems promise more.
"""

from __future__ import annotations

import random
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

_HEADER = struct.Struct("=iiqq")
_WITH_DATA = "owud"
SECTOR = 512


class Record(NamedTuple):
    """One call: (o)pen, (w)rite, (t)runcate, (p)unch a hole, (f)lush, (F) its end, (u)nlink, (d)irectory made.

    `data` is what was written, or the path.
    """

    operation: str
    descriptor: int
    offset: int
    size: int
    data: bytes = b""

    @property
    def path(self) -> str:
        return self.data.decode()


def read_records(log: bytes) -> Iterator[Record]:
    at = 0
    while at < len(log):
        code, descriptor, offset, size = _HEADER.unpack_from(log, at)
        at += _HEADER.size
        data = b""
        if chr(code) in _WITH_DATA:
            data = log[at : at + size]
            at += size
        yield Record(chr(code), descriptor, offset, size, data)


class Kept(StrEnum):
    """What has reached the disk of all that no flush covers."""

    NOTHING = "nothing"
    SOME = "some"
    REMOVALS = "holes and removals"
    EVERYTHING = "everything"


class _Naming(NamedTuple):
    """A change of a directory: a name made, or (u)nlinked."""

    operation: str
    path: str
    node: _Node | None = None


_Change = Record | _Naming
_Keep = Callable[[Any], Sequence[Any]]
"""From a change that no flush covers to those parts of it that are on the disk."""


def _keeping(kept: Kept, chance: random.Random) -> _Keep:
    def some(change: _Change) -> Sequence[_Change]:
        if chance.random() < 0.5:
            return []
        if not isinstance(change, Record) or change.operation != "w" or chance.random() < 0.5:
            return [change]
        return [sector for sector in _sectors(change) if chance.random() < 0.5]

    return {
        Kept.NOTHING: lambda change: [],
        Kept.SOME: some,
        Kept.REMOVALS: lambda change: [change] if change.operation in "pu" else [],
        Kept.EVERYTHING: lambda change: [change],
    }[kept]


def _sectors(write: Record) -> Iterator[Record]:
    start, end = write.offset, write.offset + len(write.data)
    while start < end:
        stop = min(end, start - start % SECTOR + SECTOR)
        data = write.data[start - write.offset : stop - write.offset]
        yield Record("w", write.descriptor, start, len(data), data)
        start = stop


class _Node(ABC):
    """A file or directory: what is on the disk for certain, and the changes that are not."""

    def __init__(self) -> None:
        self._changes: list[Any] = []
        self._certain = 0

    def change(self, change: _Change) -> None:
        self._changes.append(change)

    def changes(self) -> int:
        """Return how many changes there have been, for :meth:`flush`."""
        return self._certain + len(self._changes)

    def flush(self, changes: int) -> None:
        """Make the first `changes` of all certain."""
        covered = max(0, changes - self._certain)
        for change in self._changes[:covered]:
            self._settle(change)
        del self._changes[:covered]
        self._certain += covered

    @abstractmethod
    def _settle(self, change: Any) -> None: ...


class _File(_Node):
    def __init__(self) -> None:
        super().__init__()
        self._content = bytearray()

    def content(self, keep: _Keep) -> bytes:
        content = bytearray(self._content)
        for change in self._changes:
            for part in keep(change):
                _change_content(content, part)
        return bytes(content)

    def _settle(self, change: Record) -> None:
        _change_content(self._content, change)


class _Directory(_Node):
    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, _Node | None] = {}

    def files(self, keep: _Keep) -> Iterator[tuple[str, bytes]]:
        names = self._names | {kept.path: kept.node for change in self._changes for kept in keep(change)}
        for path, node in names.items():
            if isinstance(node, _Directory):
                yield from node.files(keep)
            elif isinstance(node, _File):
                yield path, node.content(keep)

    def _settle(self, change: _Naming) -> None:
        self._names[change.path] = change.node


def _change_content(content: bytearray, change: Record) -> None:
    end = change.offset + change.size
    match change.operation:
        case "w":
            content.extend(bytes(max(0, change.offset - len(content))))
            content[change.offset : end] = change.data
        case "t":
            del content[change.offset :]
            content.extend(bytes(change.offset - len(content)))
        case "p":
            end = min(end, len(content))
            content[change.offset : end] = bytes(max(0, end - change.offset))
        case operation:
            raise ValueError(f"no change of a content: {operation}")


class Disk:
    """The files below `root`, which is there and empty at the beginning."""

    def __init__(self, root: str) -> None:
        self._root = _Directory()
        self._nodes: dict[str, _Node] = {root: self._root}
        self._open: dict[int, _Node] = {}
        self._flushes: dict[int, int] = {}

    def apply(self, record: Record) -> None:
        match record.operation:
            case "o":
                if record.path not in self._nodes:
                    self._name(record, _File())
                self._open[record.descriptor] = self._nodes[record.path]
            case "d":
                self._name(record, _Directory())
            case "u":
                self._name(record, None)
            case "f":
                self._flushes[record.descriptor] = self._open[record.descriptor].changes()
            case "F":
                self._open[record.descriptor].flush(self._flushes.pop(record.descriptor))
            case _:
                self._open[record.descriptor].change(record)

    def image(self, kept: Kept, chance: random.Random | None = None) -> dict[str, bytes]:
        """Return what a loss of power now may leave: contents by path."""
        return dict(self._root.files(_keeping(kept, chance or random.Random(0))))

    def read(self, path: str) -> bytes:
        """Return what a program would read now, nothing where there is no such file."""
        file = self._nodes.get(path)
        return file.content(_keeping(Kept.EVERYTHING, random.Random(0))) if isinstance(file, _File) else b""

    def _name(self, record: Record, node: _Node | None) -> None:
        self._nodes[record.path.rpartition("/")[0]].change(_Naming(record.operation, record.path, node))
        if node is None:
            del self._nodes[record.path]
        else:
            self._nodes[record.path] = node


class Moment(NamedTuple):
    """A loss of power: before which record, and what is kept then. `number` tells it from the others of a seed."""

    number: int
    record: int
    kept: Kept


def moments(records: Sequence[Record], count: int, seed: int) -> list[Moment]:
    """Choose `count` moments, in order: most of them close to a flush, a hole or a removal."""
    chance = random.Random(seed)
    close = [at for at, record in enumerate(records) if record.operation in "fFpu"]
    chosen = sorted(
        chance.choice(close) + chance.choice((0, 1)) if chance.random() < 0.75 else chance.randrange(len(records))
        for _ in range(count)
    )
    kept = (Kept.NOTHING, Kept.SOME, Kept.REMOVALS, Kept.SOME, Kept.EVERYTHING)
    return [Moment(number, record, kept[number % len(kept)]) for number, record in enumerate(chosen)]


def images(disk: Disk, records: Sequence[Record], count: int, seed: int) -> Iterator[tuple[Moment, dict[str, bytes]]]:
    """Replay the records on an empty disk; yield an image of each moment, with `disk` as programs saw it then."""
    at = 0
    for moment in moments(records, count, seed):
        for record in records[at : moment.record]:
            disk.apply(record)
        at = moment.record
        yield moment, disk.image(moment.kept, random.Random(f"{seed}/{moment.number}"))
