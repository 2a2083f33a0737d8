"""The embedded store: SQLite, one file a worker, group commit.

Small contents lie in the database, larger ones in files beside it. Ids are looked up in memory, so the database needs
no index that random ids would scatter over.

A damaged file found at the start is renamed, never deleted: the tier starts with an empty one, an event says where
the old one is, and ``sqlite3 FILE .recover`` reads what can be read. One that turns out damaged while in use refuses
mail until the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from postroad_transport.message import Content, Envelope, content_size
from postroad_transport.spool.batch import Commit, Settle, Update
from postroad_transport.spool.body_writer import BodyWriter
from postroad_transport.spool.group import GroupWriter
from postroad_transport.spool.occupancy import Place
from postroad_transport.spool.shard import DamagedError, Shard
from postroad_transport.spool.store import SpoolError
from postroad_transport.spool.trouble import Trouble
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics

FILE_BYTES = 32 * 1024
"""Contents from this size on lie in files."""
MIN_FREE_BYTES = 64 * 1024 * 1024
PENDING_BYTES = 256 * 1024 * 1024
STALL = 30.0
LOCK_TIMEOUT = 10.0
_READERS = 4

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode


class SqliteStore:
    """A :class:`~postroad_transport.spool.store.Store` on SQLite. Make one with :meth:`open`."""

    def __init__(
        self, shard: Shard, *, metrics: Metrics, events: EventLog | None, pending_bytes: int, stall: float
    ) -> None:
        self._shard = shard
        self._metrics = metrics
        self._events = events
        self._loop = asyncio.get_running_loop()
        trouble = partial(Trouble, metrics=metrics, events=events)
        self._writer = GroupWriter(shard, metrics=metrics, trouble=trouble(shard.path), stall=stall)
        self._bodies = BodyWriter(shard, self._writer, trouble=trouble(shard.bodies.directory), stall=stall)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="spool-read")
        self._seq_by_id: dict[str, int] = {}
        self._places: dict[int, Place] = {}
        self._next_seq = 1
        self._pending_bytes = 0
        self._pending_limit = pending_bytes
        self._adopted: list[SqliteStore] = []
        self._stall = stall
        self._committing = 0
        self._closed = False
        self._last_commit = asyncio.Event()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        adopt: Sequence[Path] = (),
        metrics: Metrics,
        events: EventLog | None = None,
        min_free_bytes: int = MIN_FREE_BYTES,
        pending_bytes: int = PENDING_BYTES,
        stall: float = STALL,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> SqliteStore:
        """Open the store, create it where there is none.

        Parameters
        ----------
        path
            The database file, of which this process becomes the only user. Its directory is made with mode 0700.
        adopt
            Files of workers that are no more: their messages are listed, read, updated and settled here, new
            ones never go there. One that another process uses is left to it; one that is empty is removed.
        min_free_bytes
            Commits fail with SpoolFullError while the file system has less room than this.
        pending_bytes
            Most bytes of content that may wait for the disk; above it, commits fail at once with SpoolError.
        stall
            Seconds that a transaction may take before those who wait for it get SpoolError.
        lock_timeout
            Seconds to wait for another process to let go of `path`.

        Raises
        ------
        SpoolError
            The file cannot be opened, is used by another process, or was written by a newer version.
        """
        shard = Shard(path, min_free_bytes=min_free_bytes, lock_timeout=lock_timeout)
        store = cls(shard, metrics=metrics, events=events, pending_bytes=pending_bytes, stall=stall)
        try:
            await store._load()
            for orphan in adopt:
                await store._adopt(orphan)
        except BaseException:
            await store.close()
            raise
        return store

    def submit(self, envelope: Envelope, content: Content) -> asyncio.Future[None]:
        """Begin to store a message durably. The chunks of `content` must not change before the future ends."""
        if self._closed:
            raise SpoolError("the spool is closed")
        if envelope.id in self._seq_by_id:
            raise SpoolError(f"message {envelope.id} is stored already")
        size = content_size(content)
        if self._pending_bytes + size > self._pending_limit and self._pending_bytes:
            self._metrics.spool_failures.labels("busy").inc()
            raise SpoolError("too much waits for the spool's disk")
        seq = self._next_seq
        self._next_seq += 1
        operation = Commit(seq, envelope.id, _encode(envelope), size, self._writer.future())
        if size < FILE_BYTES:
            operation.content = b"".join(content)
            self._writer.commit(operation)
        else:
            self._bodies.commit(operation, content)
        self._pending_bytes += size
        self._committing += 1
        operation.future.add_done_callback(partial(self._committed, operation))
        return operation.future

    async def commit(self, envelope: Envelope, content: Content) -> None:
        """Store a message durably. The chunks of `content` must not change before this returns."""
        future = self.submit(envelope, content)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                # Stored, but its caller was cancelled before it could know.
                self.settle(envelope.id)
            raise

    def _committed(self, operation: Commit, future: asyncio.Future[None]) -> None:
        self._pending_bytes -= operation.size
        self._committing -= 1
        if self._closed and not self._committing:
            self._last_commit.set()
        if not future.cancelled() and future.exception() is None:
            self._seq_by_id[operation.id] = operation.seq
            if operation.place is not None:
                self._places[operation.seq] = operation.place

    def settle(self, message_id: str) -> None:
        """Forget a message. Durable a moment later; a crash before that delivers it once more."""
        seq = self._seq_by_id.pop(message_id, None)
        if seq is not None:
            self._writer.settle(Settle(seq, self._places.pop(seq, None)))
            return
        for store in self._adopted:
            store.settle(message_id)

    async def update(self, envelope: Envelope) -> None:
        """Replace the stored envelope, durably.

        Raises
        ------
        KeyError
            There is no such message.
        SpoolError
            It could not be written; the envelope from before stays.
        """
        seq = self._seq_by_id.get(envelope.id)
        if seq is None:
            await self._adopter(envelope.id).update(envelope)
            return
        operation = Update(seq, _encode(envelope), self._writer.future())
        self._writer.update(operation)
        await operation.future

    async def content(self, message_id: str) -> bytes:
        """Return the whole content. Raises KeyError when there is no such message, SpoolError when unreadable."""
        seq = self._seq_by_id.get(message_id)
        if seq is None:
            return await self._adopter(message_id).content(message_id)
        place = self._places.get(seq)
        if place is None:
            return await self._writer.call(self._shard.read_content, seq)
        try:
            content = await self._loop.run_in_executor(self._readers, self._shard.bodies.read, place)
        except FileNotFoundError:
            raise KeyError(message_id) from None
        except OSError as error:
            raise SpoolError(str(error)) from error
        if seq not in self._places:  # settled meanwhile, and perhaps a hole when it was read
            raise KeyError(message_id)
        return content

    async def get(self, message_id: str) -> Envelope:
        """Return one envelope. Raises KeyError when there is no such message."""
        seq = self._seq_by_id.get(message_id)
        if seq is None:
            return await self._adopter(message_id).get(message_id)
        return _decode(await self._writer.call(self._shard.read_envelope, seq))

    async def scan(self) -> Sequence[Envelope]:
        """Return every stored envelope, oldest first, those of adopted files included."""
        envelopes = await self._writer.call(self._read_envelopes)
        # What was settled while we read is gone.
        found = [envelope for envelope in envelopes if envelope.id in self._seq_by_id]
        for store in self._adopted:
            found += await store.scan()
        if self._adopted:
            found.sort(key=lambda envelope: envelope.received_at)
        return found

    async def close(self) -> None:
        """Finish what was handed in, then close the files. Adopted ones that are empty are removed."""
        if self._closed:
            return
        self._closed = True
        if self._committing:
            await self._last_commit.wait()
        for store in self._adopted:
            await store._close(delete=not store._seq_by_id)
        self._adopted = []
        await self._close(delete=False)

    async def _close(self, *, delete: bool) -> None:
        await self._bodies.close()
        await self._writer.close(self._shard.delete if delete else self._shard.close)
        self._readers.shutdown(wait=False)

    async def _load(self) -> None:
        try:
            rows = await self._writer.call(self._shard.open)
        except DamagedError as error:
            aside = await self._writer.call(self._shard.move_aside)
            self._metrics.spool_failures.labels("damaged").inc()
            self._emit("spool.damaged", error=str(error), moved_to=str(aside))
            rows = await self._writer.call(self._shard.open)
        places = {place for _, _, place in rows if place is not None}
        found = await self._writer.call(self._shard.sweep_bodies, places)
        self._next_seq = max((seq for _, seq, _ in rows), default=0) + 1
        for message_id, seq, place in rows:
            if place is None or place in found:
                self._seq_by_id[message_id] = seq
                if place is not None:
                    self._places[seq] = place
            else:
                # A refused commit whose row reached the disk, or a file that someone removed.
                self._emit("spool.content_missing", id=message_id)
                self._writer.settle(Settle(seq, None))

    async def _adopt(self, path: Path) -> None:
        if not await self._writer.call(path.exists):
            return
        store = SqliteStore(
            Shard(path, min_free_bytes=0, lock_timeout=0),
            metrics=self._metrics,
            events=self._events,
            pending_bytes=0,
            stall=self._stall,
        )
        try:
            await store._load()
        except SpoolError as error:
            self._emit("spool.not_adopted", orphan=str(path), error=str(error))
            await store._close(delete=False)
            return
        if store._seq_by_id:
            self._adopted.append(store)
        else:
            await store._close(delete=True)

    def _adopter(self, message_id: str) -> SqliteStore:
        for store in self._adopted:
            if message_id in store._seq_by_id:
                return store
        raise KeyError(message_id)

    def _read_envelopes(self) -> list[Envelope]:
        return [_decode(encoded) for encoded in self._shard.read_envelopes()]

    def _emit(self, event: str, **fields: object) -> None:
        if self._events is not None:
            self._events.emit(event, path=str(self._shard.path), **fields)
