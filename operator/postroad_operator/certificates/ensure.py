"""From what is wanted to what is served: the one entry the run command and the operator call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PrivateKeyTypes

from postroad_operator.certificates.authority import (
    Authority,
    create_authority,
    issue,
    load_authority,
    self_signed,
    subject_name,
)
from postroad_operator.certificates.material import (
    CertificateError,
    Material,
    describe,
    from_secret,
    is_self_signed,
    issued_by,
    key_pem,
    load_chain,
    load_key,
    pem,
    same_key,
    subject_alternative_names,
)
from postroad_operator.certificates.request import (
    CertificateRequest,
    KeyAlgorithm,
    KeyRotation,
    KeySource,
    check_request,
)
from postroad_operator.certificates.store import CertificateStore, needs_renewal
from postroad_transport.config import Certificate
from postroad_transport.config.files import secret_name

#: Store name of the tier's own authority; no Kubernetes object can have it, for names hold no underscore.
AUTHORITY_NAME = "_authority"
AUTHORITY_COMMON_NAME = "Postroad private CA"

Secrets = Mapping[str, Mapping[str, bytes]]
"""Decoded data of Secrets by ``namespace/name``."""


@dataclass(frozen=True, slots=True)
class Ensured:
    """The outcome for a set of requests, by source.

    Every source is in ``materials`` or in ``problems``. ``trust_pem`` holds each authority once: the tier's trust
    bundle. ``renew_at`` is when to look again, in seconds since the epoch; None: never.
    """

    materials: dict[str, Material] = field(default_factory=dict)
    problems: dict[str, tuple[str, ...]] = field(default_factory=dict)
    trust_pem: bytes = b""
    renew_at: float | None = None


def ensure(
    certificates: Iterable[CertificateRequest], secrets: Secrets, store: CertificateStore, now: float
) -> Ensured:
    """Have a certificate for each request: take it from the store or a Secret, or make it.

    One that is kept is issued again when names, subject, key, duration or authority changed, or when its time for
    renewal has come. A request that fails has no influence on the others.

    Parameters
    ----------
    certificates
        What is wanted.
    secrets
        Every Secret that may be referred to.
    store
        Keeps the authority and what was issued.
    now
        Seconds since the epoch.
    """
    raise NotImplementedError


def certificate_files(request: CertificateRequest, material: Material) -> tuple[Certificate, dict[str, bytes]]:
    """Return the certificate's part of the TierConfig and its secret files, by file name."""
    chain_file = secret_name("certificate", request.name, material.chain_pem, "crt")
    key_file = secret_name("certificate", request.name, material.key_pem, "key")
    described = describe(
        request.name,
        request.source,
        material.chain_pem,
        has_key=True,
        services=request.services,
        chain_file=chain_file,
        key_file=key_file,
    )
    return described, {chain_file: material.chain_pem, key_file: material.key_pem}
