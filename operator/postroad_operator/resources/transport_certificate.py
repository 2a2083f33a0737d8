"""TransportCertificate: a certificate and key that every server of the tier presents."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from postroad_operator.resources.base import LocalReference, Model, Resource, Status
from postroad_operator.resources.rules import Checked, Rule
from postroad_operator.resources.scalars import Duration, ObjectName, ShortText, Text, Unique, ascii_domain, seconds
from postroad_operator.resources.tier import TIER_IS_IMMUTABLE

_SOURCES = ("self_signed", "ca", "secret_ref", "issuer_ref", "request", "subscription")
_RSA_SIZES = (2048, 3072, 4096)
_ECDSA_SIZES = (256, 384, 521)


def _dns_name(name: str) -> bool:
    try:
        ascii_domain(name.removeprefix("*."))
    except (ValueError, UnicodeError):
        return False
    return True


DnsName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Checked(
        (Rule("write a DNS name; the first label may be *", holds=_dns_name),),
        (("pattern", r"^(\*\.)?[^\s!-,./:-@\[-`{-~]+(\.[^\s!-,./:-@\[-`{-~]+)*$"),),
    ),
]
Name64 = Annotated[str, Field(min_length=1, max_length=64)]
Name128 = Annotated[str, Field(min_length=1, max_length=128)]
DomainComponent = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[ -~]+$")]


class Subject(Model):
    """Subject of the certificate, by the attribute types of X.520 with their upper bounds (RFC 5280 appendix A)."""

    country: str | None = Field(default=None, alias="C", pattern=r"^[A-Z]{2}$", max_length=2)
    """Country, two letters."""
    domain_components: list[DomainComponent] = Field(default=[], alias="DC", max_length=16)
    """Domain components, the most specific first: [example, com]."""
    state: Name128 | None = Field(default=None, alias="S")
    """State or province."""
    locality: Name128 | None = Field(default=None, alias="L")
    """Locality."""
    organization: Name64 | None = Field(default=None, alias="O")
    """Organisation."""
    organizational_units: list[Name64] = Field(default=[], alias="OU", max_length=16)
    """Organisational units, in the order in which the subject holds them."""
    common_name: Name64 | None = Field(default=None, alias="CN")
    """Common name. Not given: the first of dnsNames."""


class SelfSigned(Model):
    """A certificate that vouches for itself."""


class CertificateAuthority(Model):
    """A certificate from the tier's own CA, or from one in a Secret."""

    secret_ref: LocalReference | None = None
    """Secret of a CA (keys tls.crt and tls.key). Not given: the tier's own CA, made on first use."""


class IssuerReference(Model):
    """A cert-manager issuer."""

    name: ObjectName
    """Name of the issuer."""
    kind: ShortText = "Issuer"
    """Issuer or ClusterIssuer, or the kind of an external issuer."""
    group: ShortText = "cert-manager.io"
    """API group of the issuer."""


class Request(Model):
    """A certificate request for any CA: the PKCS#10 is in the status, what the CA returns goes here."""

    signed_certificate: Text | None = None
    """PEM of the certificate that the CA returned, followed by its intermediates."""


class Subscription(Model):
    """Another tier's server certificates, as ``postroad subscription export`` prints them: no key, no secret."""

    RULES: ClassVar = (
        Rule(
            "a subscription holds certificates only: take the private key out, and make a new one where it came from",
            "!self.certificates.contains('PRIVATE KEY')",
            lambda s: "PRIVATE KEY" not in s.certificates,
            "certificates",
        ),
    )

    role: Literal["Hub", "Edge"]
    """What the other tier is: its servers become HubTransportServers or EdgeTransportServers here."""
    certificates: Text
    """PEM of every certificate that its servers present, now or next. Each is valid as long as it stands here."""


class PrivateKey(Model):
    """How the private key is made."""

    RULES: ClassVar = (
        Rule(
            "size fits the algorithm: RSA 2048, 3072, 4096; ECDSA 256, 384, 521; Ed25519 none",
            "!has(self.size) || (self.algorithm == 'RSA' && self.size in [2048, 3072, 4096])"
            " || (self.algorithm == 'ECDSA' && self.size in [256, 384, 521])",
            lambda k: (
                k.size is None
                or (k.algorithm == "RSA" and k.size in _RSA_SIZES)
                or (k.algorithm == "ECDSA" and k.size in _ECDSA_SIZES)
            ),
            "size",
        ),
    )

    algorithm: Literal["RSA", "ECDSA", "Ed25519"] = "ECDSA"
    """RSA, ECDSA or Ed25519."""
    size: int | None = Field(default=None, ge=256, le=4096, strict=True)
    """Bits. Not given: 2048 for RSA, 256 for ECDSA."""
    rotation: Literal["Always", "Never"] = "Always"
    """Whether a renewal makes a new key."""


class TransportCertificateSpec(Model):
    """What the certificate is for and where it comes from."""

    RULES: ClassVar = (
        TIER_IS_IMMUTABLE,
        Rule(
            "give exactly one of selfSigned, ca, secretRef, issuerRef, request and subscription",
            "[has(self.selfSigned), has(self.ca), has(self.secretRef), has(self.issuerRef), has(self.request),"
            " has(self.subscription)].filter(x, x).size() == 1",
            lambda s: sum(getattr(s, source) is not None for source in _SOURCES) == 1,
        ),
        Rule(
            "dnsNames are needed, unless the certificate comes from secretRef or subscription",
            "size(self.dnsNames) > 0 || has(self.secretRef) || has(self.subscription)",
            lambda s: bool(s.dns_names) or s.secret_ref is not None or s.subscription is not None,
            "dnsNames",
        ),
        Rule(
            "renewBefore is shorter than duration",
            holds=lambda s: seconds(s.renew_before) < seconds(s.duration),
            field="renewBefore",
        ),
    )

    tier: ObjectName = "default"
    """Name of the tier that presents this certificate."""
    dns_names: Annotated[list[DnsName], Field(max_length=100), Unique] = []
    """Names the certificate holds. List every name that clients dial and every server's own."""
    subject: Subject = Subject()
    """Subject of the certificate."""
    services: Annotated[list[Literal["SMTP", "IMAP", "POP"]], Field(min_length=1, max_length=3), Unique] = ["SMTP"]
    """Services that may present it."""
    self_signed: SelfSigned | None = None
    """Made and signed by itself."""
    ca: CertificateAuthority | None = None
    """Issued by the tier's own CA, or by one given in a Secret."""
    secret_ref: LocalReference | None = None
    """Taken from a Secret with the keys tls.crt and tls.key."""
    issuer_ref: IssuerReference | None = None
    """Issued by cert-manager."""
    request: Request | None = None
    """Requested from any CA by hand."""
    subscription: Subscription | None = None
    """The certificates of another tier's servers, which this tier is to trust. Presented nowhere."""
    private_key: PrivateKey = PrivateKey()
    """How the private key is made."""
    duration: Duration = "90d"
    """Lifetime of certificates made here."""
    renew_before: Duration = "30d"
    """How long before its end a certificate is renewed."""


class TransportCertificate(Resource):
    """A TransportCertificate is a certificate, with its key, that every server of the tier presents."""

    kind: Literal["TransportCertificate"] = "TransportCertificate"
    spec: TransportCertificateSpec


class TransportCertificateStatus(Status):
    """What the operator has observed of a certificate."""

    thumbprint: ShortText = ""
    """SHA-256 of the certificate, hexadecimal."""
    serial_number: ShortText = ""
    """Serial number, hexadecimal."""
    issuer: Text = ""
    """Who signed it."""
    dns_names: list[ShortText] = Field(default=[], max_length=100)
    """Names it holds."""
    services: list[ShortText] = Field(default=[], max_length=3)
    """Services that present it."""
    not_before: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """Begin of its validity."""
    not_after: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """End of its validity."""
    renewal_time: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """When it will be renewed."""
    served_by: ShortText = ""
    """How many of the tier's ready pods serve it, such as 3/3."""
    secret_name: ShortText = ""
    """Secret that cert-manager fills, when spec.issuerRef is given."""
    request: Text = ""
    """PKCS#10 to hand to the CA, in PEM (RFC 2986), when spec.request is given."""
