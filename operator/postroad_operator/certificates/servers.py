"""What a tier's servers present to the organisation's other servers: one certificate in use, the next one ready.

Both are made at once and both are published, so that whoever subscribed to the tier knows the next certificate long
before it is presented: a subscription is good for at least :data:`PUBLISHED` from the day of its export, and for
twice that if it was made right after a change. The one before stays trusted for :data:`OVERLAP`, for servers that
have not noticed the change yet. Peers trust the certificates themselves (direct trust, spec.md 4), so names and
expiry play no part in when they are replaced.
"""

from __future__ import annotations

from dataclasses import dataclass

from postroad_operator.certificates.authority import BACKDATE, self_signed
from postroad_operator.certificates.bundle import read_bundle
from postroad_operator.certificates.ensure import certificate_files
from postroad_operator.certificates.material import Material
from postroad_operator.certificates.request import DAY, CertificateRequest, KeySource
from postroad_operator.certificates.store import CertificateStore
from postroad_operator.compile import IssuedCertificate, ServerIdentity
from postroad_operator.compile.direct_trust import trusted_servers
from postroad_transport.config import Role
from postroad_transport.policy.direct_trust import VERB

#: Store names; no Kubernetes object can have them, for names hold no underscore.
CURRENT, NEXT, PREVIOUS = "_server", "_server-next", "_server-previous"
#: Seconds for which the next certificate is published before it is presented.
PUBLISHED = 180 * DAY
#: Seconds for which the one before is trusted after a change.
OVERLAP = 7 * DAY
#: Seconds that each is good for: published, presented, trusted after that, and a month to spare.
_LIFETIME = 2 * PUBLISHED + OVERLAP + 30 * DAY


@dataclass(frozen=True, slots=True)
class Servers:
    """The outcome. ``renew_at`` is when to look again, in seconds since the epoch."""

    identity: ServerIdentity | None
    problem: str = ""
    renew_at: float | None = None


def ensure_servers(hostname: str, role: Role, store: CertificateStore, now: float) -> Servers:
    """Take both certificates from the store, make what is missing, and change over when the time has come.

    Parameters
    ----------
    hostname
        The server's own name, for people who look at the certificate.
    role
        The role of the tier.
    store
        Keeps both.
    now
        Seconds since the epoch.
    """
    try:
        current, following = _pair(_request(hostname), store, now)
        previous = _load(store, PREVIOUS)
    except OSError as error:
        # One that is not kept would be another one after a restart, which nobody trusts.
        return Servers(None, f"the certificate store cannot be used: {error.strerror or error}")
    known, renew_at = [current.leaf, following.leaf], _presented_at(following)
    if previous is not None and now < (forgotten := _presented_at(current) + OVERLAP):
        known.append(previous.leaf)
        renew_at = min(renew_at, forgotten)
    certificate, files = certificate_files(_request(hostname), current)
    identity = ServerIdentity(IssuedCertificate(certificate, files), trusted_servers(known, role, ""))
    return Servers(identity, renew_at=renew_at)


def _pair(request: CertificateRequest, store: CertificateStore, now: float) -> tuple[Material, Material]:
    current, following = _load(store, CURRENT), _load(store, NEXT)
    if following is not None and (current is None or now >= _presented_at(following)):
        # Peers know it already, which they could not of a new one.
        if current is not None and current.chain_pem != following.chain_pem:
            _save(store, PREVIOUS, current)
        current = following
        _save(store, CURRENT, current)
    if current is None:
        current = self_signed(request, now)
        _save(store, CURRENT, current)
    if following is None or following.chain_pem == current.chain_pem:
        following = self_signed(request, now)
        _save(store, NEXT, following)
    return current, following


def _save(store: CertificateStore, name: str, material: Material) -> None:
    store.save(name, material.key_pem + material.chain_pem)


def _presented_at(material: Material) -> float:
    return (material.leaf.not_valid_before_utc + BACKDATE).timestamp() + PUBLISHED


def _request(hostname: str) -> CertificateRequest:
    return CertificateRequest(
        name="server",
        source="",
        dns_names=(hostname,),
        key_source=KeySource.SELF_SIGNED,
        services=(VERB,),
        duration=_LIFETIME,
    )


def _load(store: CertificateStore, name: str) -> Material | None:
    """Return what is kept under a name; None where there is nothing, or nothing that can be read."""
    bundle = read_bundle(store.load(name))
    return bundle.material() if bundle else None
