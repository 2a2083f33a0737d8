"""From what is wanted to what is served: the one entry the run command and the operator call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from postroad_operator.certificates.authority import (
    ISSUER_KEYS,
    Authority,
    create_authority,
    issue,
    load_authority,
    self_signed,
)
from postroad_operator.certificates.material import (
    CertificateError,
    Material,
    describe,
    from_secret,
    key_pem,
    load_chain,
    load_key,
    pem,
    same_key,
)
from postroad_operator.certificates.renewal import key_fits, reissue_reason, renewal_time
from postroad_operator.certificates.request import CertificateRequest, KeyRotation, KeySource, check_request
from postroad_operator.certificates.store import CertificateStore
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
    authorities = _Authorities(secrets, store, now)
    materials: dict[str, Material] = {}
    problems: dict[str, tuple[str, ...]] = {}
    times: list[float] = []
    for request in certificates:
        try:
            material, renew_at = _provide(request, secrets, authorities, store, now)
        except CertificateError as error:
            problems[request.source] = error.problems
        except OSError as error:
            problems[request.source] = (f"the certificate store cannot be used: {error.strerror or error}",)
        else:
            materials[request.source] = material
            times.extend(renew_at)
    trust = dict.fromkeys(item.trust_pem for item in materials.values() if item.trust_pem)
    return Ensured(materials, problems, b"".join(trust), min(times, default=None))


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


class _Authorities:
    """Authorities by Secret name, each read once; the empty name is the tier's own, made when first needed."""

    def __init__(self, secrets: Secrets, store: CertificateStore, now: float) -> None:
        self._secrets = secrets
        self._store = store
        self._now = now
        self._read: dict[str, Authority] = {}

    def get(self, secret: str) -> Authority:
        if secret not in self._read:
            self._read[secret] = self._from_secret(secret) if secret else self._own()
        return self._read[secret]

    def _from_secret(self, secret: str) -> Authority:
        data = _secret(self._secrets, secret)
        if missing := [key for key in ("tls.crt", "tls.key") if not data.get(key)]:
            raise CertificateError(*(f"Secret {secret}: {key} is missing" for key in missing))
        return load_authority(data["tls.crt"], data["tls.key"], self._now, where=f"Secret {secret}")

    def _own(self) -> Authority:
        bundle = self._store.load(AUTHORITY_NAME)
        if bundle is not None:
            # A damaged or expired authority is reported, not replaced: every client would have to trust anew.
            return load_authority(bundle, bundle, self._now, where="the tier's own authority")
        authority = create_authority(AUTHORITY_COMMON_NAME, self._now)
        self._store.save(AUTHORITY_NAME, key_pem(authority.key) + pem(*authority.chain))
        return authority


def _provide(
    request: CertificateRequest, secrets: Secrets, authorities: _Authorities, store: CertificateStore, now: float
) -> tuple[Material, tuple[float, ...]]:
    """Return the material and the time to look again, if any."""
    match request.key_source:
        case KeySource.IMPORTED:
            return from_secret(_secret(secrets, request.secret), request.dns_names, now), ()
        case KeySource.ISSUER:
            raise CertificateError("issuerRef: pending: needs cert-manager on a cluster; use ca or selfSigned here")
        case KeySource.REQUEST:
            raise CertificateError("request: pending: no authority has answered the certificate request yet")
    if problems := check_request(request):
        raise CertificateError(*problems)
    authority = authorities.get(request.secret) if request.key_source is KeySource.CA else None
    material = _kept_or_made(request, authority, store, now)
    leaf = material.leaf
    start, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    if authority is not None and leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc:
        warning = f"ends with its authority on {leaf.not_valid_after_utc:%Y-%m-%d}: replace the authority before"
        material = replace(material, warnings=(*material.warnings, warning))
    return material, (renewal_time(start, end, request.renew_before),)


def _kept_or_made(
    request: CertificateRequest, authority: Authority | None, store: CertificateStore, now: float
) -> Material:
    # The source is unique where a bare name is not: Kind/namespace/name.
    name = request.source.replace("/", ".")
    bundle = store.load(name)
    kept = _read_bundle(bundle) if bundle is not None else None
    key: CertificateIssuerPrivateKeyTypes | None = None
    if kept is not None:
        chain, key = kept
        if not reissue_reason(chain[0], key, request, authority, now):
            trust = authority.trust_pem if authority else pem(chain[0])
            return Material(pem(*chain), key_pem(key), trust)
        if request.rotation is KeyRotation.ALWAYS or not key_fits(key, request):
            key = None
    material = issue(authority, request, now, key=key) if authority else self_signed(request, now, key=key)
    try:
        store.save(name, material.key_pem + material.chain_pem)
    except OSError as error:
        # A certificate that will not survive a restart is better than none.
        warning = f"the certificate is served but could not be kept: {error.strerror or error}"
        return replace(material, warnings=(*material.warnings, warning))
    return material


def _read_bundle(bundle: bytes) -> tuple[list[x509.Certificate], CertificateIssuerPrivateKeyTypes] | None:
    """Return chain and key; None if the bundle is damaged: what was issued can be issued again."""
    try:
        chain, key = load_chain(bundle), load_key(bundle)
    except CertificateError:
        return None
    if isinstance(key, ISSUER_KEYS) and same_key(key.public_key(), chain[0].public_key()):
        return chain, key
    return None


def _secret(secrets: Secrets, name: str) -> Mapping[str, bytes]:
    try:
        return secrets[name]
    except KeyError:
        raise CertificateError(f"Secret {name} does not exist") from None
