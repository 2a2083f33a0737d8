"""Whether a chain's certificates were revoked, by the lists at hand (RFC 5280 sections 5 and 6.3). Pure.

A list counts when the certificate's issuer has signed it, it is in time, and it covers certificates of this kind for
all reasons. Indirect and delta lists, and those with critical extensions that are not known here, do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtensionOID

from postroad_transport.config import RevocationMode
from postroad_transport.policy.proof import Flaw, PeerProof

Crl = x509.CertificateRevocationList


class _Same:
    """A list as a key: itself, and not what is in it."""

    __slots__ = ("crl",)

    def __init__(self, crl: Crl) -> None:
        self.crl = crl

    def __hash__(self) -> int:
        return id(self.crl)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.crl is other.crl


class Status(Enum):
    """What the lists say of one certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"
    """There is no list that counts."""


def flaw_of(
    path: Sequence[x509.Certificate], crls: Iterable[Crl], mode: RevocationMode, now: float
) -> PeerProof | None:
    """Return the flaw that revocation finds in a valid path; None where there is none.

    The authority that the path ends in is trusted by itself: whoever trusts it takes it out when it is not to be.

    Parameters
    ----------
    path
        The leaf first, the trusted authority last.
    crls
        Every list that may concern it, fetched or given.
    now
        Seconds since the epoch.
    """
    if mode is RevocationMode.OFF:
        return None
    lists = tuple(crls)
    for depth, (certificate, issuer) in enumerate(pairwise(path)):
        which = "the certificate" if depth == 0 else f"authority {depth} above the certificate"
        match status(certificate, issuer, lists, now):
            case Status.REVOKED:
                return PeerProof((), Flaw.REVOKED, f"{which} was revoked")
            case Status.UNKNOWN:
                published = bool(distribution_points(certificate)) or any(
                    crl.issuer == issuer.subject for crl in lists
                )
                if published:
                    return PeerProof((), Flaw.NO_CRL, f"no current revocation list can be had for {which}")
                if mode is RevocationMode.REQUIRED:
                    return PeerProof((), Flaw.NO_CRL, f"{which} names no revocation list")
    return None


def status(certificate: x509.Certificate, issuer: x509.Certificate, crls: Iterable[Crl], now: float) -> Status:
    """Return what the lists that count say of `certificate`. One that revokes it decides."""
    found = Status.UNKNOWN
    for crl in crls:
        if crl.issuer != certificate.issuer or not counts(crl, issuer, now) or not _covers(crl, certificate):
            continue
        if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            return Status.REVOKED
        found = Status.GOOD
    return found


def counts(crl: Crl, issuer: x509.Certificate, now: float) -> bool:
    """Tell whether `crl` is the word of `issuer` at this time."""
    moment = datetime.fromtimestamp(now, UTC)
    if crl.next_update_utc is None or not crl.last_update_utc <= moment < crl.next_update_utc:
        return False
    if crl.issuer != issuer.subject or not _may_sign(issuer):
        return False
    return _signed(_Same(crl), issuer)


def distribution_points(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the URLs of complete lists that the certificate names, http and https only."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(
        name.value
        for point in points
        if point.reasons is None and point.crl_issuer is None
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier) and name.value.lower().startswith(("http://", "https://"))
    )


@lru_cache(maxsize=64)
def _signed(same: _Same, issuer: x509.Certificate) -> bool:
    # Remembered: with a list of a hundred thousand entries it takes a twentieth of a second, on the event loop.
    try:
        return same.crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # a TypeError for other kinds
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _covers(crl: Crl, certificate: x509.Certificate) -> bool:
    """Tell whether the list is about certificates of this kind, whole, and understood."""
    for extension in crl.extensions:
        scope = extension.value
        if isinstance(scope, x509.IssuingDistributionPoint):
            authority = _is_authority(certificate)
            if (
                scope.indirect_crl
                or scope.only_some_reasons is not None
                or scope.only_contains_attribute_certs
                or (scope.only_contains_user_certs and authority)
                or (scope.only_contains_ca_certs and not authority)
                or not _same_point(scope, certificate)
            ):
                return False
        elif extension.critical or extension.oid == ExtensionOID.DELTA_CRL_INDICATOR:
            return False
    return True


def _same_point(scope: x509.IssuingDistributionPoint, certificate: x509.Certificate) -> bool:
    """Tell whether a list that was split up by distribution points is the certificate's."""
    if scope.full_name is None:
        return scope.relative_name is None
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return False
    return any(name in (point.full_name or ()) for point in points for name in scope.full_name)


def _may_sign(issuer: x509.Certificate) -> bool:
    try:
        return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
