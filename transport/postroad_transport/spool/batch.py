"""What one transaction of the spool is made of."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Iterator
from dataclasses import dataclass, field

from postroad_transport.spool.occupancy import Place


@dataclass(slots=True, eq=False)
class Commit:
    """Store a message. Its content is in ``content``, or lies at ``place`` already."""

    seq: int
    id: str
    envelope: bytes
    size: int
    future: Future[None]
    content: bytes | None = None
    place: Place | None = None


@dataclass(slots=True, eq=False)
class Update:
    """Replace a stored envelope."""

    seq: int
    envelope: bytes
    future: Future[None]


@dataclass(slots=True, eq=False)
class Settle:
    """Remove a message and its content; ``place`` is where that lies, None in the database."""

    seq: int
    place: Place | None


Operation = Commit | Update | Settle


@dataclass(slots=True)
class Batch:
    """Operations that share one transaction and one flush."""

    commits: list[Commit] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    settles: list[Settle] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.commits) + len(self.updates) + len(self.settles)

    def awaited(self) -> list[Commit | Update]:
        """Return the operations that somebody waits for."""
        return [*self.commits, *self.updates]

    def operations(self) -> list[Operation]:
        """Return all operations."""
        return [*self.settles, *self.updates, *self.commits]

    def parts(self) -> Iterator[Batch]:
        """Divide the batch: first what frees room, then the commits one by one, the smallest first."""
        if self.settles:
            yield Batch(settles=self.settles)
        for update in self.updates:
            yield Batch(updates=[update])
        for commit in sorted(self.commits, key=lambda commit: commit.size):
            yield Batch(commits=[commit])
