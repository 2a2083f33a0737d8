"""From resources to the compiler's input: with a certificate for each resource that asks for one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from postroad_operator.certificates.adapter import from_resource, secret_data
from postroad_operator.certificates.ensure import certificate_files, ensure
from postroad_operator.certificates.servers import Servers, ensure_servers
from postroad_operator.certificates.store import CertificateStore
from postroad_operator.compile import IssuedCertificate, Snapshot, TierSettings, speaks_direct_trust
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
    requests = {
        item.source: from_resource(item)
        for item in everything
        if isinstance(item, TransportCertificate) and item.spec.subscription is None
    }
    secrets = secret_data(item for item in everything if isinstance(item, Secret))
    ensured = ensure(requests.values(), secrets, store, now)
    issued = {}
    for source, material in ensured.materials.items():
        described, files = certificate_files(requests[source], material)
        issued[source] = IssuedCertificate(described, files, material.warnings)
    servers = Servers(None)
    if speaks_direct_trust(everything, settings.tier):
        servers = ensure_servers(settings.hostname, settings.role, store, now)
    snapshot = Snapshot(
        settings=replace(settings, trust_bundle=ensured.trust_pem.decode()),
        objects=everything,
        certificates=issued,
        certificate_problems=ensured.problems,
        server_identity=servers.identity,
        server_identity_problem=servers.problem,
    )
    times = [time for time in (ensured.renew_at, servers.renew_at) if time is not None]
    return snapshot, min(times, default=None)
