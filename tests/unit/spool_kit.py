"""What the spool's tests share: messages, and stores whose disk can be held up."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from postroad_transport.message import Envelope, Recipient, content_size
from postroad_transport.spool.shard import Shard
from postroad_transport.spool.sqlite import SqliteStore
from postroad_transport.telemetry.metrics import Metrics

#: Reserve of the stores under test: the disk of the machine that runs them is not their subject.
NO_RESERVE = 0


def envelope(message_id: str, content: Sequence[bytes] = (), **fields: Any) -> Envelope:
    fields = {"sender": "a@one.example", "received_at": 1_000.0, "size": content_size(content), **fields}
    return Envelope(id=message_id, recipients=[Recipient(address="b@two.example")], **fields)


async def open_store(path: Path, **options: Any) -> SqliteStore:
    options = {"metrics": Metrics(), "min_free_bytes": NO_RESERVE, "lock_timeout": 0.0, **options}
    return await SqliteStore.open(path, **options)


async def ids(store: SqliteStore) -> list[str]:
    return [found.id for found in await store.scan()]


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


class HeldDisk:
    """Holds every transaction until `release`; `reached` is set when one has come to the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()
        transact = Shard._transact

        def held(shard: Shard, batch: Any) -> None:
            self.reached.set()
            assert self.released.wait(30)
            transact(shard, batch)

        monkeypatch.setattr(Shard, "_transact", held)

    def release(self) -> None:
        self.released.set()
