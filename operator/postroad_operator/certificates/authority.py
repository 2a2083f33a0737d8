"""Making certificates: the tier's private authority, what it issues, and self-signed ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from postroad_operator.certificates.material import (
    CertificateError,
    Material,
    is_self_signed,
    key_pem,
    load_chain,
    load_key,
    pem,
    same_key,
)
from postroad_operator.certificates.request import CertificateRequest, KeyAlgorithm, Subject

#: Years that the tier's own authority is good for.
AUTHORITY_YEARS = 10
#: Certificates start a little before now, for clients whose clock is behind.
BACKDATE = timedelta(minutes=5)

_CURVES: dict[int, ec.EllipticCurve] = {256: ec.SECP256R1(), 384: ec.SECP384R1(), 521: ec.SECP521R1()}
#: Kinds of key that can sign certificates.
ISSUER_KEYS = (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)
_MAX_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority with its key. ``chain`` leads to the root, which is its last element."""

    chain: tuple[x509.Certificate, ...]
    key: CertificateIssuerPrivateKeyTypes = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that signs."""
        return self.chain[0]

    @property
    def trust_pem(self) -> bytes:
        """What a client has to trust."""
        return pem(self.chain[-1])

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """What a server has to send besides its own certificate."""
        return tuple(item for item in self.chain if not is_self_signed(item))


def generate_key(algorithm: KeyAlgorithm, size: int) -> CertificateIssuerPrivateKeyTypes:
    """Make a private key; `size` in bits, one of :data:`~.request.KEY_SIZES`."""
    if algorithm is KeyAlgorithm.RSA:
        return rsa.generate_private_key(public_exponent=65_537, key_size=size)
    if algorithm is KeyAlgorithm.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(_CURVES[size])


def create_authority(common_name: str, now: float) -> Authority:
    """Make a root authority: EC P-256, good for :data:`AUTHORITY_YEARS`, issuing servers only (path length 0)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    start = _instant(now)
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(name, name, key, start, start + timedelta(days=365 * AUTHORITY_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority((certificate,), key)


def load_authority(chain_pem: bytes, private_key_pem: bytes, now: float, *, where: str = "authority") -> Authority:
    """Read an authority and check that it can issue at `now`.

    Raises
    ------
    CertificateError
        It is unreadable, is no authority, has another key, or has expired.
    """
    chain = load_chain(chain_pem, where)
    key = load_key(private_key_pem, where)
    if not isinstance(key, ISSUER_KEYS):
        raise CertificateError(f"{where}: the key cannot sign certificates; use ECDSA, RSA or Ed25519")
    certificate = chain[0]
    problems = []
    if not same_key(key.public_key(), certificate.public_key()):
        problems.append(f"{where}: the private key does not belong to the certificate")
    if not _may_sign(certificate):
        problems.append(f"{where}: the certificate is not an authority's (basicConstraints CA, keyCertSign)")
    if not certificate.not_valid_before_utc.timestamp() <= now < certificate.not_valid_after_utc.timestamp():
        problems.append(
            f"{where}: the authority is valid from {certificate.not_valid_before_utc:%Y-%m-%d} "
            f"to {certificate.not_valid_after_utc:%Y-%m-%d} only"
        )
    if problems:
        raise CertificateError(*problems)
    return Authority(tuple(chain), key)


def issue(
    authority: Authority,
    request: CertificateRequest,
    now: float,
    *,
    key: CertificateIssuerPrivateKeyTypes | None = None,
) -> Material:
    """Issue a server certificate. It never outlives its authority.

    Parameters
    ----------
    authority, request
        Who signs, and what (already checked by :func:`~.request.check_request`).
    now
        Seconds since the epoch.
    key
        The private key to keep; None makes one.
    """
    key = key or generate_key(request.algorithm, request.key_size)
    start = _instant(now)
    end = end_of_life(request, authority, start)
    builder = _server_builder(request, authority.certificate.subject, key, start, end)
    builder = builder.add_extension(_authority_key_identifier(authority.certificate), critical=False)
    leaf = builder.sign(authority.key, signing_digest(authority.key))
    return Material(pem(leaf, *authority.intermediates), key_pem(key), authority.trust_pem)


def self_signed(
    request: CertificateRequest, now: float, *, key: CertificateIssuerPrivateKeyTypes | None = None
) -> Material:
    """Make a self-signed server certificate. A client trusts it by holding it (direct trust, spec.md 4)."""
    key = key or generate_key(request.algorithm, request.key_size)
    start = _instant(now)
    end = end_of_life(request, None, start)
    leaf = _server_builder(request, subject_name(request), key, start, end).sign(key, signing_digest(key))
    return Material(pem(leaf), key_pem(key), pem(leaf))


def end_of_life(request: CertificateRequest, authority: Authority | None, issued: datetime) -> datetime:
    """Return when a certificate issued at `issued` ends: after ``duration``, or sooner with its authority."""
    end = issued + timedelta(seconds=int(request.duration))
    return min(end, authority.certificate.not_valid_after_utc) if authority else end


def subject_name(request: CertificateRequest) -> x509.Name:
    """Return the subject in the order C, DC, S, L, O, OU, CN.

    Without a common name the first DNS name is taken, if it fits the 64 characters of one.
    """
    subject: Subject = request.subject
    common_name = subject.common_name
    if not common_name and request.dns_names and len(request.dns_names[0]) <= _MAX_COMMON_NAME:
        common_name = request.dns_names[0]
    parts = [
        (NameOID.COUNTRY_NAME, subject.country),
        # The encoding goes from the root down, the notation from the host up (RFC 2247 section 2).
        *((NameOID.DOMAIN_COMPONENT, value) for value in reversed(subject.domain_components)),
        (NameOID.STATE_OR_PROVINCE_NAME, subject.state),
        (NameOID.LOCALITY_NAME, subject.locality),
        (NameOID.ORGANIZATION_NAME, subject.organization),
        *((NameOID.ORGANIZATIONAL_UNIT_NAME, value) for value in subject.organizational_units),
        (NameOID.COMMON_NAME, common_name),
    ]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts if value])


def server_extensions(
    request: CertificateRequest, key: CertificateIssuerPrivateKeyTypes
) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    """Return the extensions of a server certificate, each with whether it is critical."""
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in request.dns_names])
    usage = _key_usage(digital_signature=True, key_encipherment=isinstance(key, rsa.RSAPrivateKey))
    # Both purposes: between servers the same certificate proves the client's side of mutual TLS.
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage, True),
        (purposes, False),
        # With an empty subject the names are all there is, hence critical (RFC 5280 section 4.2.1.6).
        (names, not list(subject_name(request))),
    )


def _server_builder(
    request: CertificateRequest,
    issuer: x509.Name,
    key: CertificateIssuerPrivateKeyTypes,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    builder = _builder(subject_name(request), issuer, key, start, end)
    for extension, critical in server_extensions(request, key):
        builder = builder.add_extension(extension, critical=critical)
    return builder


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificateIssuerPrivateKeyTypes,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_encipherment=key_encipherment,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        key = certificate.public_key()
        return x509.AuthorityKeyIdentifier(x509.SubjectKeyIdentifier.from_public_key(key).digest, None, None)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(extension.value)


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def signing_digest(key: CertificateIssuerPrivateKeyTypes) -> hashes.SHA256 | None:
    """Return the digest to sign with; Ed25519 has its own."""
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _instant(now: float) -> datetime:
    return datetime.fromtimestamp(int(now), UTC)
