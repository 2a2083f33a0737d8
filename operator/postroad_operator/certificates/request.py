"""What a certificate should be: the values of a TransportCertificate, independent of where they come from."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

DAY = 86_400.0

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_COUNTRY = re.compile(r"[A-Z]{2}")
_MAX_NAME = 253


class KeySource(StrEnum):
    """Where certificate and key come from: the one-of of ``TransportCertificate.spec``."""

    SELF_SIGNED = "selfSigned"
    CA = "ca"
    IMPORTED = "secretRef"
    ISSUER = "issuerRef"
    REQUEST = "request"


class KeyAlgorithm(StrEnum):
    """Private key algorithms."""

    ECDSA = "ECDSA"
    RSA = "RSA"
    ED25519 = "Ed25519"


class KeyRotation(StrEnum):
    """Whether a renewal makes a new private key."""

    ALWAYS = "Always"
    NEVER = "Never"


#: Key sizes in bits that each algorithm takes; the first is the default. Ed25519 has only one.
KEY_SIZES = {
    KeyAlgorithm.ECDSA: (256, 384, 521),
    KeyAlgorithm.RSA: (2048, 3072, 4096),
    KeyAlgorithm.ED25519: (256,),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """Subject RDNs. Lengths in characters: C 2, DC 255, S 128, L 128, O 64, OU 64, CN 64 (RFC 5280 appendix A).

    CN is also held to 64 octets of UTF-8, for common readers count these.

    ``domain_components`` has the most specific first: ``("example", "com")``.
    """

    country: str = ""
    domain_components: tuple[str, ...] = ()
    state: str = ""
    locality: str = ""
    organization: str = ""
    organizational_units: tuple[str, ...] = ()
    common_name: str = ""


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """One certificate that is wanted.

    ``secret`` is ``namespace/name`` of the Secret with the certificate (:attr:`KeySource.IMPORTED`,
    :attr:`KeySource.ISSUER`) or with the authority (:attr:`KeySource.CA`; empty: the tier's own). ``signed`` is what
    an authority returned for a request (:attr:`KeySource.REQUEST`), PEM, empty until then. ``size`` 0 is the
    algorithm's default. ``duration`` and ``renew_before`` are in seconds.
    """

    name: str
    source: str
    dns_names: tuple[str, ...]
    key_source: KeySource
    secret: str = ""
    subject: Subject = Subject()
    services: tuple[str, ...] = ("SMTP",)
    algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA
    size: int = 0
    rotation: KeyRotation = KeyRotation.ALWAYS
    duration: float = 90 * DAY
    renew_before: float = 30 * DAY
    signed: bytes = b""

    @property
    def key_size(self) -> int:
        """Size in bits with the default filled in."""
        return self.size or KEY_SIZES[self.algorithm][0]


def check_request(request: CertificateRequest) -> tuple[str, ...]:
    """Return one sentence for each thing that makes `request` impossible; empty when it is good."""
    return (
        *_name_problems(request.dns_names),
        *_subject_problems(request.subject),
        *_key_problems(request),
    )


def _name_problems(names: tuple[str, ...]) -> list[str]:
    problems = [] if names else ["dnsNames: at least one name is needed"]
    for name in names:
        if _is_address(name):
            problems.append(f"dnsNames: {name} is an IP address; clients must dial a name")
        elif not is_dns_name(name):
            problems.append(f"dnsNames: {name!r} is not a DNS name (lower case, wildcard only as a leading '*.')")
    return problems


def is_dns_name(name: str) -> bool:
    """Tell whether `name` is a lower-case host name of A-labels, possibly with a leading ``*.``."""
    labels = name.removeprefix("*.").split(".")
    return 0 < len(name) <= _MAX_NAME and all(_LABEL.fullmatch(label) for label in labels)


def _subject_problems(subject: Subject) -> list[str]:
    problems = []
    if subject.country and not _COUNTRY.fullmatch(subject.country):
        problems.append("subject.C: two capital ASCII letters (ISO 3166)")
    limits = [
        *(("DC", item, 255) for item in subject.domain_components),
        ("S", subject.state, 128),
        ("L", subject.locality, 128),
        ("O", subject.organization, 64),
        *(("OU", item, 64) for item in subject.organizational_units),
        ("CN", subject.common_name, 64),
    ]
    if len(subject.common_name) <= 64 < len(subject.common_name.encode("utf-8", "replace")):
        problems.append("subject.CN: at most 64 octets in UTF-8")
    for field, value, limit in limits:
        if len(value) > limit:
            problems.append(f"subject.{field}: at most {limit} characters, not {len(value)}")
        if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in value):
            problems.append(f"subject.{field}: holds a control character")
    if any(not value or not value.isascii() for value in subject.domain_components):
        problems.append("subject.DC: must be ASCII and not empty")
    if "" in subject.organizational_units:
        problems.append("subject.OU: must not be empty")
    return problems


def _key_problems(request: CertificateRequest) -> list[str]:
    problems = []
    sizes = KEY_SIZES[request.algorithm]
    if request.size and request.size not in sizes:
        allowed = ", ".join(map(str, sizes))
        problems.append(f"privateKey.size: {request.algorithm} takes {allowed}, not {request.size}")
    if request.duration < 3600:
        problems.append("duration: at least one hour")
    if not 0 < request.renew_before < request.duration:
        problems.append("renewBefore: must be positive and shorter than duration")
    return problems


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
