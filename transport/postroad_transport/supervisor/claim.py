"""One tier for one state directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ClaimedError(Exception):
    """Another process serves the state directory. The message names it."""


@contextmanager
def claim(state_dir: Path) -> Iterator[None]:
    """Hold the state directory, which exists, for this process; nothing in it may be changed without.

    The lock ends with the process, however it ends. Workers do not inherit it.

    Raises
    ------
    ClaimedError
        Another process holds it.
    OSError
        The lock file cannot be opened.
    """
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise ClaimedError(f"{state_dir} is in use by another tier (process {owner})") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
