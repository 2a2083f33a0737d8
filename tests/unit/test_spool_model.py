"""The SQLite store against a dictionary, through restarts and crashes, in any order of operations."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from spool_kit import envelope, open_store

from postroad_transport.message import Envelope
from postroad_transport.spool.sqlite import FILE_BYTES

contents = st.builds(
    lambda head, size, fill: [head, bytes([fill]) * size],
    st.binary(max_size=40),
    st.sampled_from([0, 10, 5_000, FILE_BYTES, FILE_BYTES + 1]),
    st.integers(0, 255),
)


class StoreAgainstDictionary(RuleBasedStateMachine):
    messages: Bundle[str] = Bundle("messages")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="postroad-spool-"))
        self.runner = asyncio.Runner()
        self.generation = 0
        self.count = 0
        self.model: dict[str, tuple[Envelope, bytes]] = {}
        self.settled_lately: dict[str, tuple[Envelope, bytes]] = {}
        self.store = self.run(open_store(self.path))

    @property
    def path(self) -> Path:
        return self.directory / str(self.generation) / "worker-0.db"

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.directory)

    @rule(target=messages, batch=st.lists(contents, min_size=1, max_size=5))
    def commit(self, batch: list[list[bytes]]) -> Any:
        added = []
        for content in batch:
            self.count += 1
            added.append((envelope(f"m{self.count}", content), content))

        async def commit_all() -> None:
            await asyncio.gather(*(self.store.commit(*message) for message in added))

        self.run(commit_all())
        self.model.update({stored.id: (stored, b"".join(content)) for stored, content in added})
        return multiple(*(stored.id for stored, _ in added))

    @rule(message_id=messages, held=st.booleans(), reply=st.text(max_size=20))
    def update(self, message_id: str, held: bool, reply: str) -> None:
        if message_id not in self.model:
            with pytest.raises(KeyError):
                self.run(self.store.update(envelope(message_id)))
            return
        before, content = self.model[message_id]
        changed = msgspec.structs.replace(before, held=held, envid=reply)
        self.run(self.store.update(changed))
        self.model[message_id] = (changed, content)

    @rule(message_id=consumes(messages))
    def settle(self, message_id: str) -> None:
        self.store.settle(message_id)
        if message_id in self.model:
            self.settled_lately[message_id] = self.model.pop(message_id)

    @rule(message_id=messages)
    def read(self, message_id: str) -> None:
        if message_id in self.model:
            assert self.run(self.store.get(message_id)) == self.model[message_id][0]
            assert self.run(self.store.content(message_id)) == self.model[message_id][1]
        else:
            with pytest.raises(KeyError):
                self.run(self.store.content(message_id))

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.settled_lately.clear()
        self.store = self.run(open_store(self.path))

    @rule()
    def crash(self) -> None:
        """What lies on the disk at this moment is all that a successor finds."""
        crashed = self.path.parent
        self.generation += 1
        shutil.copytree(crashed, self.path.parent)
        self.run(self.store.close())
        shutil.rmtree(crashed)
        self.store = self.run(open_store(self.path))
        for stored in self.run(self.store.scan()):
            # Only a settlement on its way may be forgotten: that message is delivered once more.
            if stored.id not in self.model:
                self.model[stored.id] = self.settled_lately[stored.id]
        self.settled_lately.clear()

    @invariant()
    def the_store_holds_what_the_dictionary_holds(self) -> None:
        found = self.run(self.store.scan())
        assert {stored.id: stored for stored in found} == {key: stored for key, (stored, _) in self.model.items()}
        assert [stored.id for stored in found] == sorted(
            (stored.id for stored in found), key=lambda key: int(key[1:])
        )


StoreAgainstDictionary.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStoreAgainstDictionary = StoreAgainstDictionary.TestCase
