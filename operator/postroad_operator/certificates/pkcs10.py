"""Certificate requests for any authority (PKCS #10, RFC 2986), and what it returns for them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from postroad_operator.certificates.authority import server_extensions, signing_digest, subject_name
from postroad_operator.certificates.material import (
    CertificateError,
    chain_problems,
    missing_names,
    same_key,
    subject_alternative_names,
)
from postroad_operator.certificates.request import CertificateRequest

_WHERE = "spec.request.signedCertificate"


def certification_request(request: CertificateRequest, key: CertificateIssuerPrivateKeyTypes) -> bytes:
    """Return a PKCS #10 in PEM that asks for the subject, names and purposes of `request`, signed with `key`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_name(request))
    for extension, critical in server_extensions(request, key):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, signing_digest(key)).public_bytes(serialization.Encoding.PEM)


def load_request(data: bytes) -> x509.CertificateSigningRequest:
    """Read a PKCS #10 in PEM. Raises CertificateError."""
    try:
        return x509.load_pem_x509_csr(data)
    except ValueError as error:
        raise CertificateError("not a PEM certificate request") from error


def asks_for(signing_request: x509.CertificateSigningRequest, request: CertificateRequest) -> bool:
    """Tell whether a PKCS #10 asks for the subject and the names of `request`."""
    try:
        names = signing_request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return signing_request.subject == subject_name(request) and set(names.get_values_for_type(x509.DNSName)) == set(
        request.dns_names
    )


def answer_problems(
    chain: list[x509.Certificate], keys: Iterable[PublicKeyTypes], dns_names: Iterable[str], now: float
) -> list[str]:
    """Return one sentence for each thing that keeps what an authority returned from being served.

    Parameters
    ----------
    chain
        The certificates in the order in which they were handed back.
    keys
        Keys that the certificate may be for: of the request, and of the certificate that is served now.
    dns_names
        Names that it has to hold.
    now
        Seconds since the epoch.
    """
    known = list(keys)
    ours = [any(same_key(certificate.public_key(), key) for key in known) for certificate in chain]
    if not any(ours):
        return [f"{_WHERE}: is for another key than status.request: hand that request to the authority"]
    if not ours[0]:
        return [f"{_WHERE}: the server's certificate is not the first: order them from server to authority"]
    leaf = chain[0]
    problems = list(chain_problems(chain, _WHERE))
    if missing := missing_names(leaf, dns_names):
        held = ", ".join(subject_alternative_names(leaf)) or "no DNS name"
        problems.append(f"{_WHERE}: is not for {', '.join(missing)} (it is for {held})")
    if leaf.not_valid_after_utc < datetime.fromtimestamp(now, UTC):
        problems.append(f"{_WHERE}: expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if not _for_servers(leaf):
        problems.append(f"{_WHERE}: is not for servers (extended key usage lacks serverAuth)")
    return problems


def _for_servers(leaf: x509.Certificate) -> bool:
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        return False
    return ExtendedKeyUsageOID.SERVER_AUTH in purposes or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in purposes
