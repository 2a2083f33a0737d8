"""From what is wanted to what is served: the one entry the run command and the operator call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from postroad_operator.certificates.authority import Authority, generate_key, issue, load_authority, self_signed
from postroad_operator.certificates.bundle import Bundle, read_bundle
from postroad_operator.certificates.cert_manager import IssuerState, from_issuer
from postroad_operator.certificates.material import (
    CertificateError,
    Material,
    describe,
    from_secret,
    is_self_signed,
    load_chain,
    missing_names,
    pem,
)
from postroad_operator.certificates.provided import Provided
from postroad_operator.certificates.renewal import key_fits, reissue_reason, renewal_time
from postroad_operator.certificates.request import CertificateRequest, KeyRotation, KeySource, check_request
from postroad_operator.certificates.requested import REQUEST_SUFFIX, request_by_hand
from postroad_operator.certificates.retired import RetiredRoots
from postroad_operator.certificates.rollover import OwnAuthority
from postroad_operator.certificates.store import CertificateStore, store_name
from postroad_transport.config import Certificate
from postroad_transport.config.files import secret_name

Secrets = Mapping[str, Mapping[str, bytes]]
"""Decoded data of Secrets by ``namespace/name``."""

PROVIDED_SUFFIX = ".provided"
"""Of the store names of what came from a Secret that is not ours."""


@dataclass(frozen=True, slots=True)
class Ensured:
    """The outcome for a set of requests, by source.

    Every source is in ``materials``, ``problems`` or ``pending``; one in the first two goes on serving what it had.
    ``pkcs10`` are requests to hand to an authority, in PEM. ``trust_pem`` holds each authority once: the tier's trust
    bundle. ``renew_at`` is when to look again, in seconds since the epoch; None: never.
    """

    materials: dict[str, Material] = field(default_factory=dict)
    problems: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    pkcs10: dict[str, bytes] = field(default_factory=dict)
    trust_pem: bytes = b""
    renew_at: float | None = None


def ensure(
    certificates: Iterable[CertificateRequest],
    secrets: Secrets,
    store: CertificateStore,
    now: float,
    issuers: Mapping[str, IssuerState] | None = None,
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
    issuers
        How far cert-manager is, by source; None where there is no cluster.
    """
    retired = RetiredRoots(store, now)
    authorities = _Authorities(secrets, OwnAuthority(store, retired, now), now)
    result = Ensured()
    times: list[float] = []
    for request in certificates:
        try:
            provided = _provide(request, secrets, authorities, retired, store, now, issuers or {})
            if request.key_source in (KeySource.IMPORTED, KeySource.ISSUER):
                provided = _changed_over(request, provided, retired, store, now)
            _remember(request, provided, store)
        except CertificateError as error:
            provided = _still_served(request, error.problems, store, now)
        except OSError as error:
            problem = f"the certificate store cannot be used: {error.strerror or error}"
            provided = _still_served(request, (problem,), store, now)
        if provided.material is not None:
            result.materials[request.source] = provided.material
        if provided.problems:
            result.problems[request.source] = provided.problems
        if provided.pending:
            result.pending[request.source] = provided.pending
        if provided.pkcs10:
            result.pkcs10[request.source] = provided.pkcs10
        times += provided.look_at
    own = authorities.own
    times += [time for time in (own.look_at, retired.ends) if time is not None]
    roots = [item.trust_pem for item in result.materials.values()]
    trust = dict.fromkeys(root for root in (*roots, own.successor_pem, *retired.trusted) if root)
    return replace(result, trust_pem=b"".join(trust), renew_at=min(times, default=None))


def prune(sources: Iterable[str], store: CertificateStore) -> None:
    """Drop what is kept for certificates that are no more; `sources` are those that are. Raises OSError.

    The tier's authority and its retired ones stay.
    """
    names = set(map(store_name, sources))
    for name in store.names():
        owner = name.removesuffix(REQUEST_SUFFIX).removesuffix(PROVIDED_SUFFIX)
        if not name.startswith("_") and owner not in names and name not in names:
            store.remove(name)


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
    """Authorities by Secret name, each read once; the empty name is the tier's own."""

    def __init__(self, secrets: Secrets, own: OwnAuthority, now: float) -> None:
        self.own = own
        self._secrets = secrets
        self._now = now
        self._read: dict[str, Authority] = {}

    def get(self, secret: str) -> Authority:
        if secret not in self._read:
            self._read[secret] = self._from_secret(secret) if secret else self.own.get()
        return self._read[secret]

    def _from_secret(self, secret: str) -> Authority:
        data = _secret(self._secrets, secret)
        if missing := [key for key in ("tls.crt", "tls.key") if not data.get(key)]:
            raise CertificateError(*(f"Secret {secret}: {key} is missing" for key in missing))
        return load_authority(data["tls.crt"], data["tls.key"], self._now, where=f"Secret {secret}")


def _provide(
    request: CertificateRequest,
    secrets: Secrets,
    authorities: _Authorities,
    retired: RetiredRoots,
    store: CertificateStore,
    now: float,
    issuers: Mapping[str, IssuerState],
) -> Provided:
    match request.key_source:
        case KeySource.IMPORTED:
            return Provided(from_secret(_secret(secrets, request.secret), request.dns_names, now))
        case KeySource.ISSUER:
            return from_issuer(request, secrets, issuers.get(request.source), now)
        case KeySource.REQUEST:
            return request_by_hand(request, store, now)
    if problems := check_request(request):
        raise CertificateError(*problems)
    authority = authorities.get(request.secret) if request.key_source is KeySource.CA else None
    forget = request.key_source is KeySource.CA and not request.secret and authorities.own.is_new
    material = _kept_or_made(request, authority, None if forget else retired, store, now)
    leaf = material.leaf
    start, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    if authority is not None and leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc:
        warning = f"ends with its authority on {leaf.not_valid_after_utc:%Y-%m-%d}: replace the authority before"
        material = replace(material, warnings=(*material.warnings, warning))
    return Provided(material, look_at=(renewal_time(start, end, request.renew_before),))


def _kept_or_made(
    request: CertificateRequest,
    authority: Authority | None,
    retired: RetiredRoots | None,
    store: CertificateStore,
    now: float,
) -> Material:
    name = store_name(request.source)
    kept = read_bundle(store.load(name))
    key = None
    if kept is not None:
        if not reissue_reason(kept.leaf, kept.key, request, authority, now):
            return kept.material(trust_pem=authority.trust_pem if authority else pem(kept.leaf))
        if retired and kept.root is not None and (authority is None or kept.root != authority.chain[-1]):
            retired.retire(pem(kept.root), kept.leaf.not_valid_after_utc.timestamp())
        if request.rotation is KeyRotation.NEVER and key_fits(kept.key, request):
            key = kept.key
    key = key or generate_key(request.algorithm, request.key_size)
    material = issue(authority, request, now, key=key) if authority else self_signed(request, now, key=key)
    root = authority.chain[-1] if authority else None
    try:
        store.save(name, Bundle(tuple(load_chain(material.chain_pem)), key, root).encode())
    except OSError as error:
        # A certificate that will not survive a restart is better than none.
        warning = f"the certificate is served but could not be kept: {error.strerror or error}"
        return replace(material, warnings=(*material.warnings, warning))
    return material


def _changed_over(
    request: CertificateRequest, provided: Provided, retired: RetiredRoots, store: CertificateStore, now: float
) -> Provided:
    """Serve what there was before until ``secretRef`` or ``issuerRef`` have something; then drop what we issued."""
    if provided.material is None:
        before = _still_served(request, provided.problems, store, now)
        if before.material is None:
            return provided
        told = (f"{provided.pending}; until then what there was before is served",) if provided.pending else ()
        return replace(before, material=replace(before.material, warnings=told))
    name = store_name(request.source)
    kept = read_bundle(store.load(name))
    if kept is not None and not provided.problems:
        if kept.root is not None:
            retired.retire(pem(kept.root), kept.leaf.not_valid_after_utc.timestamp())
        with contextlib.suppress(OSError):
            store.remove(name)
    return provided


def _still_served(
    request: CertificateRequest, problems: tuple[str, ...], store: CertificateStore, now: float
) -> Provided:
    """Return the problems, with what was served before if it still does: a broken authority breaks no session."""
    name = store_name(request.source)
    for kept in (_kept(store, name + PROVIDED_SUFFIX), _kept(store, name)):
        if (
            kept is not None
            and now <= kept.leaf.not_valid_after_utc.timestamp()
            and not missing_names(kept.leaf, request.dns_names)
        ):
            return Provided(kept.material(trust_pem=pem(kept.root) if kept.root else b""), problems)
    return Provided(problems=problems)


def _kept(store: CertificateStore, name: str) -> Bundle | None:
    try:
        return read_bundle(store.load(name))
    except OSError:
        return None


def _remember(request: CertificateRequest, provided: Provided, store: CertificateStore) -> None:
    """Keep what others provide, for the time when their Secret turns to garbage; drop it when it is ours to issue.

    What cannot be kept is served all the same.
    """
    if provided.material is None or provided.problems:
        return
    name = store_name(request.source) + PROVIDED_SUFFIX
    with contextlib.suppress(OSError):
        if request.key_source not in (KeySource.IMPORTED, KeySource.ISSUER):
            if name in store.names():
                store.remove(name)
            return
        material = provided.material
        # A bundle holds one root; it is told from the chain by being the last and self-signed.
        trusted = load_chain(material.trust_pem) if material.trust_pem else []
        root = material.trust_pem if len(trusted) == 1 and is_self_signed(trusted[0]) else b""
        bundle = material.key_pem + material.chain_pem + root
        if store.load(name) != bundle:
            store.save(name, bundle)


def _secret(secrets: Secrets, name: str) -> Mapping[str, bytes]:
    try:
        return secrets[name]
    except KeyError:
        raise CertificateError(f"Secret {name} does not exist") from None
