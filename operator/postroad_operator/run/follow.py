"""Keeping a running tier at what its manifests say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from postroad_operator.certificates import CertificateStore
from postroad_operator.compile import TierSettings
from postroad_operator.run.build import Build, build
from postroad_transport.config.files import compress, encode, store
from postroad_transport.supervisor.process import ReloadRefusedError, Supervisor
from postroad_transport.supervisor.service import changes

#: Longest time, in seconds, until certificates are looked at again.
CERTIFICATE_CHECK = 3600.0


def publish(directory: Path, built: Build) -> bool:
    """Write what was built where the supervisor reads it; return whether it differs from what was there."""
    compilation = built.compilation
    return store(directory, compress(encode(compilation.config)), compilation.secret_files)


@dataclass
class Follower:
    """Rebuilds when a manifest changes, or a certificate or the session tickets' secret is due; has the tier reload.

    A change that breaks a resource changes nothing: the tier serves what it served, and the user is told what to
    fix. A resource that was left out from the start holds up no other.
    """

    directory: Path
    config_dir: Path
    settings: TierSettings
    certificates: CertificateStore
    supervisor: Supervisor
    current: Build
    served: Callable[[Build], None]
    report: Callable[[str, list[str]], None]
    _refused: bool = False
    _renew_at: float | None = field(init=False)

    def __post_init__(self) -> None:
        self._renew_at = self.current.renew_at

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_files(stop))
            group.create_task(self._follow_certificates(stop))

    async def _follow_files(self, stop: asyncio.Event) -> None:
        async for _ in changes(self.directory, stop):
            await self._rebuild()

    async def _follow_certificates(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            due = self._renew_at
            wait = CERTIFICATE_CHECK if due is None else min(CERTIFICATE_CHECK, max(1.0, due - time.time()))
            try:
                await asyncio.wait_for(stop.wait(), wait)
            except TimeoutError:
                # What is due is done with the build, served or not; where there is none, not at once again.
                self._renew_at = None
                await self._rebuild()

    async def _rebuild(self) -> None:
        try:
            await self._load()
        except OSError as error:
            # No directory any more, or a full disk: no reason to stop what is served.
            self._refuse([f"{error.filename or self.directory}: {error.strerror}"])

    def _refuse(self, problems: list[str]) -> None:
        self._refused = True
        self.supervisor.refuse("; ".join(problems))
        self.report("not loaded: nothing has changed", problems)

    async def _load(self) -> None:
        built = await asyncio.to_thread(build, self.directory, self.settings, self.certificates, time.time())
        self._renew_at = built.renew_at
        problems = built.problems()
        compiled, served = built.compilation, self.current.compilation
        same = compiled.config == served.config and problems == self.current.problems()
        if same and compiled.secret_files == served.secret_files:
            if self._refused:
                self._refused = False
                self.supervisor.refuse("")
                self.report("mended: the manifests say again what is served", [])
            return
        if built.breaks(self.current):
            self._refuse(problems)
            return
        if not publish(self.config_dir, built):
            self.current = built
            return
        try:
            await self.supervisor.reload()
        except ReloadRefusedError as error:
            publish(self.config_dir, self.current)
            self._refuse([str(error)])
            return
        self.current, refused, self._refused = built, self._refused, False
        if same and not refused:
            # The session tickets' secret is another one, which is nobody's concern.
            return
        self.served(built)
        lagging = [self.supervisor.last_error] if self.supervisor.last_error else []
        self.report("loaded", [*lagging, *problems, *built.warnings()])
