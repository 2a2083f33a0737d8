"""One worker as its supervisor sees it: a child process and the Unix socket it answers on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import Any

import aiohttp
import msgspec

from postroad_transport.telemetry.aggregate import Family
from postroad_transport.worker.settings import WorkerSettings

_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)}
"""Bytes, glibc's names: by default the pages of each large message go back to the system, to be faulted in again."""


class WorkerUnreachableError(Exception):
    """The worker does not answer on its socket (it is starting, stuck or gone)."""


class Child:
    """A running worker.

    Its standard input is a pipe from the supervisor: when the supervisor dies, however it dies, the worker
    sees the end of it and stops, so that two generations never serve one spool shard.
    """

    def __init__(self, settings: WorkerSettings, process: asyncio.subprocess.Process) -> None:
        self.settings = settings
        self.process = process
        self.last_metrics: list[Family] = []
        self._http = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(settings.control)),
            timeout=aiohttp.ClientTimeout(total=30),
        )

    @classmethod
    async def start(cls, settings: WorkerSettings, *, log: int) -> Child:
        """Start a worker process; `log` is the descriptor of the event log."""
        settings.control.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "postroad_transport.worker",
            settings.encode(),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            start_new_session=True,
            env={**_ALLOCATOR, **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        return cls(settings, process)

    async def call(self, method: str, path: str, **params: Any) -> Any:
        """Make one request; return the decoded JSON.

        Raises
        ------
        WorkerUnreachableError
            Nobody answers.
        LookupError
            The worker says 404.
        """
        if self._http.closed:
            raise WorkerUnreachableError(f"worker {self.settings.index} has ended")
        try:
            async with self._http.request(method, f"http://worker{path}", params=params) as response:
                body = await response.read()
                if response.status == 404:
                    raise LookupError(body.decode())
                return msgspec.json.decode(body)
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
            raise WorkerUnreachableError(f"worker {self.settings.index}: {error}") from error

    async def scrape(self) -> None:
        """Bring ``last_metrics`` up to date; the last answer stands in when there is no new one."""
        with contextlib.suppress(WorkerUnreachableError, LookupError):
            self.last_metrics = msgspec.convert(await self.call("GET", "/metrics"), list[Family])

    async def wait_ready(self) -> dict[str, Any]:
        """Wait until the worker serves; return its status.

        Raises
        ------
        WorkerUnreachableError
            The process ended first.
        """
        while True:
            try:
                status: dict[str, Any] = await self.call("GET", "/status")
                return status
            except (WorkerUnreachableError, LookupError):
                if self.process.returncode is not None:
                    raise WorkerUnreachableError(
                        f"worker {self.settings.index} ended with {self.process.returncode} before it served"
                    ) from None
                await asyncio.sleep(0.05)

    def terminate(self) -> None:
        """Ask the worker to drain and exit."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)

    async def close(self) -> None:
        """Let go of the connection to a worker that has ended."""
        await self._http.close()
