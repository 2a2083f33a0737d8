"""A supervisor with its endpoints open: what `postroad run` and a transport pod have in common."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from aiohttp import web
from watchfiles import awatch

from postroad_transport.supervisor.endpoints import application
from postroad_transport.supervisor.process import CONTROL_SOCKET, ReloadRefusedError, Supervisor

#: Milliseconds of quiet that end a burst of file changes, and the longest a burst may last.
QUIET_MS = 100
BURST_MS = 500


class Endpoints(NamedTuple):
    """Where the supervisor answers."""

    metrics: str
    """``host:port`` of the read-only HTTP endpoints."""
    control: Path
    """Unix socket of the control endpoints."""


@asynccontextmanager
async def serving(supervisor: Supervisor, *, host: str, port: int) -> AsyncIterator[Endpoints]:
    """Start the workers and open the endpoints (port 0: any free one); drain and close them on leaving.

    Raises
    ------
    ConfigError, WorkerUnreachableError
        See :meth:`Supervisor.start`.
    OSError
        The HTTP port is taken.
    """
    public = web.AppRunner(application(supervisor, control=False), access_log=None)
    private = web.AppRunner(application(supervisor, control=True), access_log=None)
    await public.setup()
    await private.setup()
    control = supervisor.settings.run_dir / CONTROL_SOCKET
    try:
        supervisor.settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        site = web.TCPSite(public, host, port)
        await site.start()
        control.unlink(missing_ok=True)
        await web.UnixSite(private, str(control)).start()
        control.chmod(0o600)
        bound = public.addresses[0]
        await supervisor.start()
        try:
            yield Endpoints(f"{bound[0]}:{bound[1]}", control)
        finally:
            await supervisor.stop()
    finally:
        await public.cleanup()
        await private.cleanup()
        control.unlink(missing_ok=True)


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def changes(directory: Path, stop: asyncio.Event) -> AsyncIterator[None]:
    """Yield after each burst of changes in `directory`, until `stop`.

    It also yields once when the watch is in place: what changed before that was seen by nobody.
    """
    watching = False
    async for burst in awatch(
        directory, stop_event=stop, step=QUIET_MS, debounce=BURST_MS, rust_timeout=BURST_MS, yield_on_timeout=True
    ):
        if burst or not watching:
            watching = True
            yield


async def follow(supervisor: Supervisor, stop: asyncio.Event) -> None:
    """Reload whenever the configuration directory changes, until `stop`.

    A mounted ConfigMap changes by a symbolic link being replaced, which the watch sees as a change in the
    directory. A refused configuration is reported by the supervisor and changes nothing.
    """
    async for _ in changes(supervisor.settings.config_dir, stop):
        try:
            await supervisor.reload()
        except ReloadRefusedError:
            continue


def open_log(path: str) -> int:
    """Open the event log for appending and return its descriptor; ``-`` is standard output."""
    if path == "-":
        return os.dup(1)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
