"""kill -9 at random moments under load: every message that was acknowledged is there, and no other."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

from spool_kit import open_store

ROUNDS = 24
SIZES = (100, 4_000, 4_000, 4_000, 60_000, 300_000)

#: Forks a writer for every line it reads, and reports its end. The writer commits from many tasks, settles half of
#: what it committed, and says "+id" when a commit returned and "-id" before it settles.
LAUNCHER = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from spool_kit import envelope, open_store
from test_spool_crash import content_of

def say(text):
    os.write(1, text.encode() + b"\\n")

async def one(store, name):
    for number in range(10**6):
        message_id = f"{name}-{number}"
        content = content_of(message_id)
        await store.commit(envelope(message_id, content), content)
        say("+" + message_id)
        if number % 2:
            say("-" + message_id)
            store.settle(message_id)

async def write(name):
    store = await open_store(Path(sys.argv[1]))
    say("ready")
    await asyncio.gather(*(one(store, f"{name}-{task}") for task in range(20)))

for name in sys.stdin:
    writer = os.fork()
    if writer == 0:
        asyncio.run(write(name.strip()))
    say(f"writer {writer}")
    os.waitpid(writer, 0)
    say("dead")
"""


def content_of(message_id: str) -> list[bytes]:
    """Return the content that belongs to an id, so that a reader can tell an exact one from any other."""
    seed = sha256(message_id.encode()).digest()
    return [b"Message-ID: " + message_id.encode() + b"\r\n\r\n", seed * (SIZES[seed[0] % len(SIZES)] // len(seed))]


class Launcher:
    """Runs writers, one after the other, and kills each."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", LAUNCHER, str(path), str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self._process.stdin
        assert self._process.stdout
        self._input, self._output = self._process.stdin, self._process.stdout
        self._said = bytearray()

    def run_and_kill(self, name: str, seconds: float) -> list[str]:
        """Let a writer run for `seconds` after it has opened the store; return what it said until it died."""
        self._said.clear()
        self._input.write(name.encode() + b"\n")
        self._input.flush()
        while b"ready\n" not in self._said or b"writer " not in self._said:
            self._read()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([self._output], [], [], left)[0]:
            self._read()
        lines = self._said.decode().splitlines()
        os.kill(int(next(line for line in lines if line.startswith("writer ")).split()[1]), signal.SIGKILL)
        while not self._said.endswith(b"dead\n"):
            self._read()
        return self._said.decode().splitlines()

    def close(self) -> None:
        self._input.close()
        self._process.wait(10)
        self._output.close()

    def _read(self) -> None:
        data = os.read(self._output.fileno(), 65536)
        assert data, "the launcher ended"
        self._said += data


def test_nothing_acknowledged_is_lost_and_nothing_else_appears(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.db"
    chance = random.Random()
    acknowledged: set[str] = set()
    total = 0
    launcher = Launcher(path)
    try:
        for number in range(ROUNDS):
            said = launcher.run_and_kill(str(number), chance.uniform(0.0, 0.1))
            acknowledged |= {line[1:] for line in said if line.startswith("+")}
            settled = {line[1:] for line in said if line.startswith("-")}
            total += len(said)
            acknowledged = asyncio.run(check(path, acknowledged - settled))
    finally:
        launcher.close()
    assert total > 100, "the writers did too little for this to prove anything"


async def check(path: Path, acknowledged: set[str]) -> set[str]:
    """Check what a crash left; keep a few messages for the next crash to threaten, and return their ids."""
    store = await open_store(path, lock_timeout=5.0)
    stored = [envelope.id for envelope in await store.scan()]
    assert len(stored) == len(set(stored))
    assert acknowledged <= set(stored), "acknowledged, but lost"
    for message_id in stored:
        assert await store.content(message_id) == b"".join(content_of(message_id))
    for message_id in stored[10:]:
        store.settle(message_id)
    await store.close()
    return set(stored[:10])
