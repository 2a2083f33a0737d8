"""From resources to the values this package works with."""

from __future__ import annotations

from collections.abc import Iterable

from postroad_operator.certificates.request import (
    CertificateRequest,
    KeyAlgorithm,
    KeyRotation,
    KeySource,
    Subject,
)
from postroad_operator.resources import Secret, TransportCertificate
from postroad_operator.resources.scalars import ascii_domain, seconds
from postroad_operator.resources.transport_certificate import TransportCertificateSpec

_SECRET_KEYS = ("tls.crt", "tls.key", "ca.crt")


def from_resource(resource: TransportCertificate) -> CertificateRequest:
    """Return what a TransportCertificate asks for; names become lower-case A-labels (RFC 5890)."""
    spec = resource.spec
    subject = spec.subject
    key_source, secret = _key_source(resource.metadata.name, spec)
    return CertificateRequest(
        name=resource.metadata.name,
        source=resource.source,
        dns_names=tuple(map(_ascii_name, spec.dns_names)),
        key_source=key_source,
        secret=f"{resource.metadata.namespace}/{secret}" if secret else "",
        subject=Subject(
            country=subject.country or "",
            domain_components=tuple(subject.domain_components),
            state=subject.state or "",
            locality=subject.locality or "",
            organization=subject.organization or "",
            organizational_units=tuple(subject.organizational_units),
            common_name=subject.common_name or "",
        ),
        services=tuple(spec.services),
        algorithm=KeyAlgorithm(spec.private_key.algorithm),
        size=spec.private_key.size or 0,
        rotation=KeyRotation(spec.private_key.rotation),
        duration=seconds(spec.duration),
        renew_before=seconds(spec.renew_before),
        signed=((spec.request.signed_certificate or "") if spec.request else "").encode("utf-8", "replace"),
    )


def secret_data(secrets: Iterable[Secret]) -> dict[str, dict[str, bytes]]:
    """Return the certificate parts of Secrets by ``namespace/name``, as :func:`~.ensure.ensure` takes them."""
    return {
        f"{secret.metadata.namespace}/{secret.metadata.name}": {
            key: value for key in _SECRET_KEYS if (value := secret.value(key)) is not None
        }
        for secret in secrets
    }


def issued_name(name: str) -> str:
    """Return the name of the cert-manager Certificate, and of its Secret, for the TransportCertificate `name`."""
    return f"transport-{name}"


def _key_source(name: str, spec: TransportCertificateSpec) -> tuple[KeySource, str]:
    if spec.ca is not None:
        return KeySource.CA, spec.ca.secret_ref.name if spec.ca.secret_ref else ""
    if spec.secret_ref is not None:
        return KeySource.IMPORTED, spec.secret_ref.name
    if spec.issuer_ref is not None:
        return KeySource.ISSUER, issued_name(name)
    return (KeySource.REQUEST if spec.request is not None else KeySource.SELF_SIGNED), ""


def _ascii_name(name: str) -> str:
    wildcard = "*." if name.startswith("*.") else ""
    return wildcard + ascii_domain(name.removeprefix("*."))
