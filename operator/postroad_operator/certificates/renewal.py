"""When a kept certificate still does, and when it has to be made again. Pure."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from postroad_operator.certificates.authority import BACKDATE, Authority, end_of_life, subject_name
from postroad_operator.certificates.material import is_self_signed, issued_by, subject_alternative_names
from postroad_operator.certificates.request import CertificateRequest, KeyAlgorithm


def renewal_time(not_before: float, not_after: float, renew_before: float) -> float:
    """Return when to renew: `renew_before` seconds before the end.

    A certificate whose whole life is shorter than that (its authority ends soon) is renewed when a third of its life
    is left, so that it is not renewed at every look. All in seconds since the epoch.
    """
    life = not_after - not_before
    return not_after - (renew_before if renew_before < life else life / 3)


def reissue_reason(
    leaf: x509.Certificate,
    key: PrivateKeyTypes,
    request: CertificateRequest,
    authority: Authority | None,
    now: float,
) -> str:
    """Say why a kept certificate no longer does for `request`; empty: it does. `authority` None: self-signed."""
    if set(subject_alternative_names(leaf)) != set(request.dns_names):
        return "dnsNames changed"
    if leaf.subject != subject_name(request):
        return "subject changed"
    if not key_fits(key, request):
        return "privateKey changed"
    if not (issued_by(leaf, authority.certificate) if authority else is_self_signed(leaf)):
        return "the authority changed"
    not_before, not_after = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not_after != end_of_life(request, authority, not_before + BACKDATE):
        return "duration changed"
    if now < not_before.timestamp():
        return "it begins in the future: the clock was ahead when it was made"
    if now >= renewal_time(not_before.timestamp(), not_after.timestamp(), request.renew_before):
        return "renewal is due"
    return ""


def key_fits(key: PrivateKeyTypes, request: CertificateRequest) -> bool:
    """Tell whether a key has the algorithm and size that `request` wants."""
    match request.algorithm:
        case KeyAlgorithm.ECDSA:
            return isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size == request.key_size
        case KeyAlgorithm.RSA:
            return isinstance(key, rsa.RSAPrivateKey) and key.key_size == request.key_size
        case KeyAlgorithm.ED25519:
            return isinstance(key, ed25519.Ed25519PrivateKey)
