"""From resources to the compiler's input: with a certificate for each resource that asks for one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from postroad_operator.certificates.adapter import from_resource, secret_data
from postroad_operator.certificates.ensure import certificate_files, ensure
from postroad_operator.certificates.store import CertificateStore
from postroad_operator.compile import IssuedCertificate, Snapshot, TierSettings
from postroad_operator.resources import Invalid, Resource, Secret, TransportCertificate


def certified(
    objects: Iterable[Resource | Invalid], settings: TierSettings, store: CertificateStore, now: float
) -> tuple[Snapshot, float | None]:
    """Have the certificates made or renewed; return the snapshot, and when to look again (None: never).

    Parameters
    ----------
    objects
        Resources, Secrets, ConfigMaps, and what could not be read.
    settings
        The tier; its trust bundle is filled in.
    store
        Keeps the tier's authority and what was issued.
    now
        Seconds since the epoch.
    """
    everything = tuple(objects)
    requests = {item.source: from_resource(item) for item in everything if isinstance(item, TransportCertificate)}
    secrets = secret_data(item for item in everything if isinstance(item, Secret))
    ensured = ensure(requests.values(), secrets, store, now)
    issued = {}
    for source, material in ensured.materials.items():
        described, files = certificate_files(requests[source], material)
        issued[source] = IssuedCertificate(described, files, material.warnings)
    snapshot = Snapshot(
        settings=replace(settings, trust_bundle=ensured.trust_pem.decode()),
        objects=everything,
        certificates=issued,
        certificate_problems=ensured.problems,
    )
    return snapshot, ensured.renew_at
