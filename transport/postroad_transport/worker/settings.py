"""What the supervisor tells a worker when it starts it."""

from __future__ import annotations

from pathlib import Path

import msgspec


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's place in the tier. Passed as one JSON command-line argument: it holds no secret."""

    index: int
    addresses: tuple[str, ...]
    """Local addresses to listen on."""
    config_dir: Path
    """Where a new configuration appears: what a trial loads."""
    served_dir: Path
    """The supervisor's copy of the last good configuration: what the worker serves, and starts from again."""
    state_dir: Path
    control: Path
    """Unix socket on which the worker answers its supervisor."""
    shard: Path
    """The worker's own spool file."""
    adopt: tuple[Path, ...] = ()
    """Shards of former workers: delivered from, never committed to."""
    drain_timeout: float = 25.0
    """Seconds for sessions and deliveries to finish at shutdown."""

    def encode(self) -> str:
        """Return the settings as one command-line argument."""
        return msgspec.json.encode(self, enc_hook=str).decode()

    @classmethod
    def decode(cls, text: str) -> WorkerSettings:
        """Parse what :meth:`encode` made."""
        return msgspec.json.decode(text, type=cls, dec_hook=lambda kind, value: kind(value))
