"""From a directory of manifests to what is served: read, provide certificates, compile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from postroad_operator.certificates import (
    CertificateStore,
    certificate_files,
    ensure,
    from_resource,
    secret_data,
)
from postroad_operator.compile import Compilation, IssuedCertificate, Snapshot, TierSettings, compile_tier
from postroad_operator.resources import Invalid, Manifests, Secret, TransportCertificate, read


@dataclass(frozen=True, slots=True)
class Build:
    """One reading of the manifests."""

    manifests: Manifests
    compilation: Compilation
    renew_at: float | None
    """When a certificate has to be looked at again, in seconds since the epoch; None: never."""

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
        """Return one line for each warning of an accepted resource."""
        return [
            f"{verdict.source}: {warning}"
            for verdict in self.compilation.verdicts
            if verdict.accepted
            for warning in verdict.warnings
        ]


def build(directory: Path, settings: TierSettings, store: CertificateStore, now: float) -> Build:
    """Read `directory`, have its certificates made or renewed, and compile.

    Raises
    ------
    OSError
        The directory does not exist or cannot be listed. All else is in the build's problems.
    """
    manifests = read(directory)
    requests = {
        item.source: from_resource(item) for item in manifests.objects if isinstance(item, TransportCertificate)
    }
    secrets = secret_data(item for item in manifests.objects if isinstance(item, Secret))
    ensured = ensure(requests.values(), secrets, store, now)
    issued = {}
    for source, material in ensured.materials.items():
        described, files = certificate_files(requests[source], material)
        issued[source] = IssuedCertificate(described, files, material.warnings)
    snapshot = Snapshot(
        settings=replace(settings, trust_bundle=ensured.trust_pem.decode()),
        objects=tuple(manifests.objects),
        certificates=issued,
        certificate_problems=ensured.problems,
    )
    return Build(manifests, compile_tier(snapshot), ensured.renew_at)
