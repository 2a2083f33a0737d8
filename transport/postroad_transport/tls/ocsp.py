"""What a certificate's responder says of it, and whether clients are to be shown that (RFC 6960, RFC 5019). Pure.

A response is stapled when it is about the very certificate, its issuer or a responder that the issuer appointed has
signed it, it is in time, and it says good. Anything else would only turn clients away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

SKEW = 300.0
"""Seconds by which a responder's clock may be ahead."""
ASSUMED_LIFE = 3600.0
"""Seconds that a response is shown which does not say when there will be a newer one."""
RETRY, LONGEST_RETRY = 10.0, 600.0
"""Seconds after a first failure, and after many in a row, in which nobody is asked again."""

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion)


class Unfit(StrEnum):
    """Why a response is not stapled."""

    UNREADABLE = "unreadable"
    REFUSED = "refused"
    """The responder has none: it is busy, or knows nothing of the certificate's authority."""
    OTHER_CERTIFICATE = "other_certificate"
    UNTRUSTED = "untrusted"
    """Neither the issuer nor one whom it appointed has signed it."""
    OUTDATED = "outdated"
    UNKNOWN = "unknown"
    """The responder does not know the certificate."""
    REVOKED = "revoked"


class Subject(NamedTuple):
    """A certificate that can be asked about; ``urls`` are its responders, http and https only."""

    certificate: x509.Certificate
    issuer: x509.Certificate
    urls: tuple[str, ...]

    @property
    def must_staple(self) -> bool:
        """Whether the certificate demands to be shown with a response (RFC 7633)."""
        try:
            feature = self.certificate.extensions.get_extension_for_class(x509.TLSFeature).value
        except (*_UNREADABLE, x509.ExtensionNotFound):
            return False
        return x509.TLSFeatureType.status_request in feature


class Staple(NamedTuple):
    """A response that can be shown, in DER; times are seconds since the epoch."""

    der: bytes
    since: float
    until: float


def subject(chain: bytes) -> Subject | None:
    """Return what a chain's leaf can be asked about with; None: it names no responder, or its issuer is not there.

    Parameters
    ----------
    chain
        PEM, the leaf first.
    """
    try:
        leaf, *above = (x509.load_pem_x509_certificate(block) for block in _CERTIFICATE.findall(chain))
        access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (*_UNREADABLE, x509.ExtensionNotFound):
        return None
    urls = tuple(
        at.access_location.value
        for at in access
        if at.access_method == AuthorityInformationAccessOID.OCSP
        and isinstance(at.access_location, x509.UniformResourceIdentifier)
        and at.access_location.value.lower().startswith(("http://", "https://"))
    )
    issuer = next((item for item in above if _issued(leaf, item)), None)
    return Subject(leaf, issuer, urls) if urls and issuer is not None else None


def request(asked: Subject) -> bytes:
    """Return the question in DER. Without a nonce, since everybody is to see the answer (RFC 5019 section 2.1)."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(asked.certificate, asked.issuer, SHA1())  # noqa: S303  # CertID
    return builder.build().public_bytes(Encoding.DER)


def judge(der: bytes, asked: Subject, now: float) -> Staple | Unfit:
    """Return the staple that a responder's answer is, or why it is none.

    Parameters
    ----------
    now
        Seconds since the epoch.
    """
    try:
        return _judge(der, asked, now)
    except _UNREADABLE:
        return Unfit.UNREADABLE


def refresh_at(staple: Staple, fetched: float) -> float:
    """Return when to ask for the next: half-way between now, that is `fetched`, and the end."""
    return fetched + max(RETRY, (staple.until - fetched) / 2)


def retry_at(failures: int, failed: float) -> float:
    """Return when to ask again after that many failures in a row, the last at `failed`."""
    return failed + min(RETRY * 2.0 ** min(failures - 1, 16), LONGEST_RETRY)


def _judge(der: bytes, asked: Subject, now: float) -> Staple | Unfit:
    response = ocsp.load_der_ocsp_response(der)
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return Unfit.REFUSED
    if not _is_signed(response, asked.issuer, now):
        return Unfit.UNTRUSTED
    single = next((item for item in response.responses if _is_about(item, asked)), None)
    if single is None:
        return Unfit.OTHER_CERTIFICATE
    since = single.this_update_utc.timestamp()
    until = since + ASSUMED_LIFE if single.next_update_utc is None else single.next_update_utc.timestamp()
    if not since - SKEW <= now < until:
        return Unfit.OUTDATED
    match single.certificate_status:
        case ocsp.OCSPCertStatus.GOOD:
            return Staple(der, since, until)
        case ocsp.OCSPCertStatus.REVOKED:
            return Unfit.REVOKED
    return Unfit.UNKNOWN


def _is_about(single: ocsp.OCSPSingleResponse, asked: Subject) -> bool:
    """Tell whether the answer is about this certificate: by number alone it may be another issuer's."""
    if single.serial_number != asked.certificate.serial_number:
        return False
    builder = ocsp.OCSPRequestBuilder().add_certificate(asked.certificate, asked.issuer, single.hash_algorithm)
    expected = builder.build()
    return (single.issuer_name_hash, single.issuer_key_hash) == (expected.issuer_name_hash, expected.issuer_key_hash)


def _is_signed(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: float) -> bool:
    """Tell whether the issuer has signed, or one that it appointed itself (RFC 6960 section 4.2.2.2)."""
    signer = _responder(response, (issuer,))
    if signer is None:
        signer = _responder(response, response.certificates)
        if signer is None or not _is_appointed(signer, issuer, now):
            return False
    key, digest = signer.public_key(), response.signature_hash_algorithm
    try:
        match key:
            case rsa.RSAPublicKey() if digest is not None:
                key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), digest)
            case ec.EllipticCurvePublicKey() if digest is not None:
                key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(digest))
            case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
                key.verify(response.signature, response.tbs_response_bytes)
            case _:
                return False
    except InvalidSignature:
        return False
    return True


def _responder(response: ocsp.OCSPResponse, among: Iterable[x509.Certificate]) -> x509.Certificate | None:
    """Return whom the response names as its signer, by name or by key."""
    name, key_hash = response.responder_name, response.responder_key_hash
    for candidate in among:
        if name is not None and candidate.subject == name:
            return candidate
        if (
            key_hash is not None
            and x509.SubjectKeyIdentifier.from_public_key(candidate.public_key()).digest == key_hash
        ):
            return candidate
    return None


def _is_appointed(signer: x509.Certificate, issuer: x509.Certificate, now: float) -> bool:
    moment = datetime.fromtimestamp(now, UTC)
    if not signer.not_valid_before_utc <= moment <= signer.not_valid_after_utc or not _issued(signer, issuer):
        return False
    try:
        usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.OCSP_SIGNING in usage


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*_UNREADABLE, InvalidSignature):
        return False
    return True
