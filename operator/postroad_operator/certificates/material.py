"""A certificate chain with its key: reading, checking, describing. Nothing here makes or stores one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import NameOID

from postroad_transport.config import Certificate
from postroad_transport.policy.certificate import covers


class CertificateError(Exception):
    """A certificate or key cannot be used. ``problems`` holds one sentence each and never key material."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Material:
    """What is served under one TransportCertificate.

    ``chain_pem`` is leaf first, then intermediates. ``trust_pem`` is the authority a client has to trust, where
    it is known. ``warnings`` are faults that do not keep the certificate from being served.
    """

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    trust_pem: bytes = b""
    warnings: tuple[str, ...] = ()

    @property
    def leaf(self) -> x509.Certificate:
        """The server's own certificate."""
        return load_chain(self.chain_pem)[0]


def from_secret(data: Mapping[str, bytes], dns_names: Iterable[str], now: float) -> Material:
    """Check a ``kubernetes.io/tls`` Secret's ``tls.crt``, ``tls.key`` and, where there is one, ``ca.crt``.

    Parameters
    ----------
    data
        The Secret's decoded data.
    dns_names
        Names that the certificate is declared to serve; one it lacks is a warning, as is expiry (an expired
        certificate is still offered, spec.md section 3).
    now
        Seconds since the epoch.

    Raises
    ------
    CertificateError
        A part is missing or unreadable, the key is not the certificate's, or the chain is out of order.
    """
    if missing := [key for key in ("tls.crt", "tls.key") if not data.get(key)]:
        raise CertificateError(*(f"{key}: missing from the Secret" for key in missing))
    chain = load_chain(data["tls.crt"], "tls.crt")
    key = load_key(data["tls.key"], "tls.key")
    problems = [*chain_problems(chain)]
    if not same_key(key.public_key(), chain[0].public_key()):
        problems.append("tls.key: does not belong to the first certificate in tls.crt")
    if problems:
        raise CertificateError(*problems)
    trust = load_chain(data["ca.crt"], "ca.crt") if data.get("ca.crt") else ()
    return Material(
        chain_pem=pem(*chain),
        key_pem=key_pem(key),
        trust_pem=pem(*trust),
        warnings=served_warnings(chain, dns_names, now),
    )


def describe(
    name: str,
    source: str,
    chain_pem: bytes,
    *,
    has_key: bool,
    services: Iterable[str],
    chain_file: str,
    key_file: str,
) -> Certificate:
    """Say what certificate selection has to know about the leaf of `chain_pem`.

    Raises
    ------
    CertificateError
        `chain_pem` is not PEM certificates.
    """
    leaf = load_chain(chain_pem)[0]
    return Certificate(
        name=name,
        source=source,
        thumbprint=leaf.fingerprint(hashes.SHA256()).hex(),
        dns_names=subject_alternative_names(leaf),
        common_name=common_name(leaf),
        services=tuple(service.upper() for service in services),
        self_signed=is_self_signed(leaf),
        key_algorithm=key_algorithm(leaf),
        version=3 if leaf.version is x509.Version.v3 else 1,
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        chain_file=chain_file,
        key_file=key_file if has_key else "",
    )


def load_chain(data: bytes, where: str = "certificate") -> list[x509.Certificate]:
    """Read PEM certificates in the order they stand in.

    Raises
    ------
    CertificateError
        There is none, or one cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateError(f"{where}: not PEM certificates") from error


def load_key(data: bytes, where: str = "key") -> PrivateKeyTypes:
    """Read a PEM private key without a passphrase.

    Raises
    ------
    CertificateError
        It cannot be read. The cause is dropped: a parser's message could quote the key.
    """
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise CertificateError(f"{where}: is protected by a passphrase; store it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{where}: not a PEM private key") from None


def pem(*certificates: x509.Certificate) -> bytes:
    """Encode certificates."""
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in certificates)


def key_pem(key: PrivateKeyTypes) -> bytes:
    """Encode a private key as PKCS #8 without a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def same_key(one: PublicKeyTypes, other: PublicKeyTypes) -> bool:
    """Tell whether two public keys are equal."""
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return one.public_bytes(*form) == other.public_bytes(*form)


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Tell whether a certificate names itself as issuer and was signed with its own key."""
    return certificate.issuer == certificate.subject and issued_by(certificate, certificate)


def key_algorithm(certificate: x509.Certificate) -> str:
    """Return the kind of the certificate's key as resources call it; empty for any other."""
    match certificate.public_key():
        case rsa.RSAPublicKey():
            return "RSA"
        case ec.EllipticCurvePublicKey():
            return "ECDSA"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case _:
            return ""


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Tell whether `issuer`'s name and key made `certificate`."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def subject_alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names, lower-case, in the certificate's order."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))


def common_name(certificate: x509.Certificate) -> str:
    """Return the last common name, the most specific one; empty if there is none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    value = names[-1].value if names else ""
    return value if isinstance(value, str) else ""


def chain_problems(chain: Iterable[x509.Certificate], where: str = "tls.crt") -> Iterable[str]:
    """Yield one sentence for each certificate that was not issued by the next one."""
    for position, (certificate, issuer) in enumerate(pairwise(chain), start=1):
        if not issued_by(certificate, issuer):
            yield (
                f"{where}: certificate {position} ({certificate.subject.rfc4514_string()}) was not issued by the "
                f"next one ({issuer.subject.rfc4514_string()}); order them from server to authority"
            )


def missing_names(leaf: x509.Certificate, dns_names: Iterable[str]) -> tuple[str, ...]:
    """Return those of `dns_names` that no subject alternative name of `leaf` stands for."""
    held = subject_alternative_names(leaf)
    return tuple(
        wanted for wanted in dns_names if wanted not in held and not any(covers(name, wanted) for name in held)
    )


def _name_warnings(leaf: x509.Certificate, dns_names: Iterable[str], where: str) -> Iterable[str]:
    held = ", ".join(subject_alternative_names(leaf)) or "no DNS name"
    for wanted in missing_names(leaf, dns_names):
        yield f"{where}: is not for {wanted} (it is for {held})"


def served_warnings(
    chain: list[x509.Certificate], dns_names: Iterable[str], now: float, where: str = "tls.crt"
) -> tuple[str, ...]:
    """Return what is wrong with a chain without keeping it from being served: names it lacks, expiry."""
    return (*_name_warnings(chain[0], dns_names, where), *_validity_warnings(chain, now, where))


def _validity_warnings(chain: list[x509.Certificate], now: float, where: str) -> Iterable[str]:
    for certificate in chain:
        who = certificate.subject.rfc4514_string() or "the certificate"
        if certificate.not_valid_after_utc.timestamp() < now:
            yield f"{where}: {who} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        elif certificate.not_valid_before_utc.timestamp() > now:
            yield f"{where}: {who} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
