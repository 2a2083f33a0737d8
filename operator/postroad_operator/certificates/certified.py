"""From resources to the compiler's input: with a certificate for each resource that asks for one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from postroad_operator.certificates.adapter import from_resource, secret_data
from postroad_operator.certificates.cert_manager import IssuerState
from postroad_operator.certificates.ensure import certificate_files, ensure, prune
from postroad_operator.certificates.servers import Servers, ensure_servers
from postroad_operator.certificates.store import CertificateStore
from postroad_operator.certificates.tickets import ensure_ticket_secret
from postroad_operator.compile import IssuedCertificate, Snapshot, TierSettings, speaks_direct_trust
from postroad_operator.resources import Invalid, Resource, Secret, TransportCertificate


@dataclass(frozen=True, slots=True)
class Certified:
    """The compiler's input, and what else is known of certificates.

    ``renew_at`` is when to look again, in seconds since the epoch; None: never. ``pkcs10`` are the requests to hand
    to an authority, in PEM, by source.
    """

    snapshot: Snapshot
    renew_at: float | None = None
    pkcs10: Mapping[str, str] = field(default_factory=dict)


def certified(
    objects: Iterable[Resource | Invalid],
    settings: TierSettings,
    store: CertificateStore,
    now: float,
    *,
    issuers: Mapping[str, IssuerState] | None = None,
    complete: bool = True,
) -> Certified:
    """Have the certificates made or renewed, and the secret behind session tickets where there is a certificate.

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
    issuers
        How far cert-manager is, by source; None where there is no cluster.
    complete
        Whether `objects` is all there is: then keys of certificates that are gone are dropped.
    """
    everything = tuple(objects)
    requests = {
        item.source: from_resource(item)
        for item in everything
        if isinstance(item, TransportCertificate) and item.spec.subscription is None
    }
    secrets = secret_data(item for item in everything if isinstance(item, Secret))
    ensured = ensure(requests.values(), secrets, store, now, issuers)
    # What cannot be read may be a certificate whose key an authority is about to sign: that key stays.
    unread = {item.source for item in everything if isinstance(item, Invalid)}
    if complete and not any(source.endswith("?") for source in unread):
        with contextlib.suppress(OSError):
            prune(unread | set(requests), store)
    issued = {}
    for source, material in ensured.materials.items():
        described, files = certificate_files(requests[source], material)
        issued[source] = IssuedCertificate(described, files, material.warnings)
    servers = Servers(None)
    if speaks_direct_trust(everything, settings.tier):
        servers = ensure_servers(settings.hostname, settings.role, store, now)
    tickets = ensure_ticket_secret(store, now) if issued else None
    snapshot = Snapshot(
        settings=replace(settings, trust_bundle=ensured.trust_pem.decode()),
        objects=everything,
        certificates=issued,
        certificate_problems=ensured.problems,
        certificates_pending=ensured.pending,
        server_identity=servers.identity,
        server_identity_problem=servers.problem,
        ticket_secret=tickets.secret if tickets else b"",
    )
    pkcs10 = {source: request.decode() for source, request in ensured.pkcs10.items()}
    renewals = ensured.renew_at, servers.renew_at, tickets.renew_at if tickets else None
    times = [time for time in renewals if time is not None]
    return Certified(snapshot, min(times, default=None), pkcs10)
