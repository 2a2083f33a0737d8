"""A certificate from any authority, by hand: the key is made here, the request shown, the answer checked and kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from postroad_operator.certificates.authority import ISSUER_KEYS, generate_key
from postroad_operator.certificates.bundle import Bundle, read_bundle
from postroad_operator.certificates.material import (
    CertificateError,
    is_self_signed,
    key_pem,
    load_chain,
    load_key,
    pem,
    same_key,
    served_warnings,
)
from postroad_operator.certificates.pkcs10 import answer_problems, asks_for, certification_request, load_request
from postroad_operator.certificates.provided import Provided
from postroad_operator.certificates.renewal import key_fits, renewal_time
from postroad_operator.certificates.request import CertificateRequest, KeyRotation, check_request
from postroad_operator.certificates.store import CertificateStore, store_name

#: Added to the store name for the key and the request that wait for an answer; no object's name has an underscore.
REQUEST_SUFFIX = "_request"
_ANSWER = "spec.request.signedCertificate"
WAITING = (
    "status.request holds the certificate request (PKCS #10): hand it to an authority and put what it returns, server"
    f" first, into {_ANSWER}"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was made: its key, and the PKCS #10 in PEM, kept because a second one would differ."""

    key: CertificateIssuerPrivateKeyTypes = field(repr=False)
    pkcs10: bytes


def request_name(source: str) -> str:
    """Return the store name of the request of a resource."""
    return store_name(source) + REQUEST_SUFFIX


def request_by_hand(request: CertificateRequest, store: CertificateStore, now: float) -> Provided:
    """Return the certificate that an authority returned, the request to hand to one, or both.

    A key never leaves the store before it is kept there. An answer that cannot be served is a problem, and what was
    served before goes on being served. Raises OSError.
    """
    name = store_name(request.source)
    served = read_bundle(store.load(name))
    if problems := check_request(request):
        return _provided(request, served, b"", problems, now)
    asked = read_asked(store.load(request_name(request.source)))
    problems = ()
    if request.signed:
        served, problems = _answered(request, served, asked, store, now)
    if asked is None or reason_to_ask(request, asked, served.leaf if served else None, now):
        asked = _ask(request, asked, served)
        store.save(request_name(request.source), key_pem(asked.key) + asked.pkcs10)
    return _provided(request, served, asked.pkcs10, problems, now)


def reason_to_ask(request: CertificateRequest, asked: Asked, served: x509.Certificate | None, now: float) -> str:
    """Say why a request that was made no longer does; empty: it does. Pure."""
    if not asks_for(load_request(asked.pkcs10), request):
        return "names or subject changed"
    if not key_fits(asked.key, request):
        return "privateKey changed"
    if (
        served is not None
        and request.rotation is KeyRotation.ALWAYS
        and same_key(asked.key.public_key(), served.public_key())
        and now >= _renewal(served, request)
    ):
        return "renewal is due with a new key"
    return ""


def _answered(
    request: CertificateRequest, served: Bundle | None, asked: Asked | None, store: CertificateStore, now: float
) -> tuple[Bundle | None, tuple[str, ...]]:
    """Return what is served after the answer was looked at, and what is wrong with the answer."""
    try:
        chain = load_chain(request.signed, _ANSWER)
    except CertificateError as error:
        return served, error.problems
    # A root is trusted, not sent: peers have their own (RFC 8446 section 4.4.2).
    root = chain[-1] if len(chain) > 1 and is_self_signed(chain[-1]) else None
    sent = tuple(chain[:-1] if root else chain)
    if served is not None and (sent, root) == (served.chain, served.root):
        return served, ()
    keys = [item.key for item in (asked, served) if item is not None]
    if problems := answer_problems(chain, [key.public_key() for key in keys], request.dns_names, now):
        return served, tuple(problems)
    key = next(key for key in keys if same_key(key.public_key(), chain[0].public_key()))
    bundle = Bundle(sent, key, root)
    store.save(store_name(request.source), bundle.encode())
    return bundle, ()


def _ask(request: CertificateRequest, asked: Asked | None, served: Bundle | None) -> Asked:
    key = asked.key if asked is not None else None
    if key is not None and not key_fits(key, request):
        key = None
    if (
        key is not None
        and served is not None
        and request.rotation is KeyRotation.ALWAYS
        and same_key(key.public_key(), served.key.public_key())
    ):
        key = None
    key = key or generate_key(request.algorithm, request.key_size)
    return Asked(key, certification_request(request, key))


def _provided(
    request: CertificateRequest, served: Bundle | None, pkcs10: bytes, problems: tuple[str, ...], now: float
) -> Provided:
    if served is None:
        return Provided(None, problems, "" if problems else WAITING, pkcs10)
    warnings = list(served_warnings(list(served.chain), request.dns_names, now, "the certificate handed back"))
    due = _renewal(served.leaf, request)
    if now >= due:
        warnings.append("spec.request: renewal is due: hand status.request to the authority again")
    if not request.signed:
        warnings.append(f"{WAITING}; until then what there was before is served")
    end = served.leaf.not_valid_after_utc.timestamp()
    return Provided(
        served.material(trust_pem=pem(served.root) if served.root else b"", warnings=tuple(warnings)),
        problems,
        pkcs10=pkcs10,
        look_at=tuple(time for time in (due, end + 1) if time > now),
    )


def _renewal(leaf: x509.Certificate, request: CertificateRequest) -> float:
    return renewal_time(
        leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp(), request.renew_before
    )


def read_asked(data: bytes | None) -> Asked | None:
    """Read a request that was kept; None if there is none, or if it is damaged."""
    if data is None:
        return None
    try:
        key = load_key(data)
        pkcs10 = data[data.index(b"-----BEGIN CERTIFICATE REQUEST-----") :]
        load_request(pkcs10)
    except (CertificateError, ValueError):
        return None
    return Asked(key, pkcs10) if isinstance(key, ISSUER_KEYS) else None
