"""What was fetched, kept on disk: workers share it, and it outlives a restart. Blocking: for threads only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class DiskCache:
    """Files by name in one directory. What goes wrong on disk is as if nothing were kept: it can be had again.

    Parameters
    ----------
    directory
        Made when first needed; None: nothing is kept.
    suffix
        Of the files, with its dot.
    """

    def __init__(self, directory: Path | None, suffix: str) -> None:
        self._directory = directory
        self._suffix = suffix

    def read(self, name: str, newer_than: float = 0.0) -> tuple[bytes, float] | None:
        """Return what is kept, and when it was written (epoch seconds); None: nothing after `newer_than`."""
        file = self._file(name)
        try:
            if file is None or (written := file.stat().st_mtime) <= newer_than:
                return None
            return file.read_bytes(), written
        except OSError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Keep `data`: another process reads the old content or the new, never a part."""
        file = self._file(name)
        if file is None:
            return
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(data)
            temporary.replace(file)

    def forget(self, name: str) -> None:
        """Keep nothing under `name`."""
        file = self._file(name)
        if file is not None:
            with contextlib.suppress(OSError):
                file.unlink()

    def _file(self, name: str) -> Path | None:
        return self._directory and self._directory / f"{name}{self._suffix}"
