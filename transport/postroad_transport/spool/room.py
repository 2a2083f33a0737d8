"""Whether there is room on a disk, and whether an error means that there is none."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PROBE_BYTES = 64 * 1024


def available(directory: str) -> int:
    """Return the bytes that this process may still write to the file system of `directory`."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def means_full(error: Exception, directory: Path) -> bool:
    """Say whether `error` means that there is no room for more.

    SQLite reports ENOSPC as SQLITE_FULL, but a quota or file size limit only as a failed write; then a probe
    file tells one from a broken disk.
    """
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    code = sqlite_code(error)
    if code & 0xFF == sqlite3.SQLITE_FULL:
        return True
    return code == sqlite3.SQLITE_IOERR_WRITE and not _can_write(directory)


def sqlite_code(error: Exception) -> int:
    """Return SQLite's extended result code, 0 for errors that are not SQLite's own."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code


def _can_write(directory: Path) -> bool:
    probe = directory / f".probe-{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _PROBE_BYTES)
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)
    except OSError as error:
        return error.errno not in _NO_ROOM
    return True
