"""From a directory of manifests to what is served: read, provide certificates, compile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from postroad_operator.certificates import CertificateStore, certified
from postroad_operator.compile import Compilation, Reason, TierSettings, compile_tier
from postroad_operator.resources import Invalid, Manifests, read


@dataclass(frozen=True, slots=True)
class Build:
    """One reading of the manifests."""

    manifests: Manifests
    compilation: Compilation
    renew_at: float | None
    """When a certificate has to be looked at again, in seconds since the epoch; None: never."""
    pkcs10: Mapping[str, str] = field(default_factory=dict)
    """Certificate requests to hand to an authority, in PEM, by source."""

    def breaks(self, served: Build) -> bool:
        """Tell whether this loses or leaves out a resource that `served` did not, other than by removing it."""
        left_out = {verdict.source for verdict in self.compilation.verdicts if not verdict.accepted}
        accepted = {verdict.source for verdict in self.compilation.verdicts if verdict.accepted}
        unreadable = any("/" not in fault.source for fault in self.manifests.faults)
        before = {verdict.source: verdict.accepted for verdict in served.compilation.verdicts}
        lost = {source for source, was_accepted in before.items() if was_accepted} - accepted
        return bool(left_out - {source for source, was_accepted in before.items() if not was_accepted}) or (
            # What stood in a file that cannot be read any more was not removed on purpose.
            unreadable and (bool(lost) or self.manifests.faults != served.manifests.faults)
        )

    def problems(self) -> list[str]:
        """Return one line for each fault and each refused resource, with the place it stands at."""
        invalid = {item.source for item in self.manifests.objects if isinstance(item, Invalid)}
        lines = [str(fault) for fault in self.manifests.faults]
        for verdict in self.compilation.verdicts:
            if not verdict.accepted and verdict.source not in invalid:
                place = self.manifests.origins.get(verdict.source)
                where = f"{place}: " if place else ""
                lines.append(f"{where}{verdict.source}: {verdict.reason}: {verdict.message}")
        return lines

    def warnings(self) -> list[str]:
        """Return one line for each warning of an accepted resource, and for each that waits for something."""
        return [
            f"{verdict.source}: {text}"
            for verdict in self.compilation.verdicts
            if verdict.accepted
            for text in (*((verdict.message,) if verdict.reason is Reason.PENDING else ()), *verdict.warnings)
        ]


def build(directory: Path, settings: TierSettings, store: CertificateStore, now: float) -> Build:
    """Read `directory`, have its certificates made or renewed, and compile.

    Raises
    ------
    OSError
        The directory does not exist or cannot be listed. All else is in the build's problems.
    """
    manifests = read(directory)
    objects = tuple(manifests.objects)
    has = certified(objects, settings, store, now, complete=not manifests.faults)
    return Build(manifests, compile_tier(has.snapshot), has.renew_at, has.pkcs10)
