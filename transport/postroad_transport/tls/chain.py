"""Validating a chain of certificates after the handshake (RFC 5280 section 6), by OpenSSL.

Both directions of domain security are judged here, once the handshake is over: inbound since the handshake itself
has to take any client, outbound since the reason of a refusal belongs into the queue in words.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from postroad_transport.config import TlsTrust
from postroad_transport.policy.proof import Flaw, PeerProof

MAX_CERTIFICATES = 10
"""Certificates looked at of what the other side presents."""

UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion, crypto.Error)
"""What reading somebody else's certificate may raise, now or when a part of it is asked for."""
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID
_UNTRUSTED = frozenset({2, 18, 19, 20, 21, 27})
"""OpenSSL's errors for a chain that leads to no authority that is trusted."""
_PURPOSES = frozenset(
    {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
)


Chain = tuple[x509.Certificate, ...]
"""A valid chain: the leaf first, the authority that is trusted last."""


def validate(presented: Sequence[bytes], trust: TlsTrust, bundle: str, now: float) -> Chain | PeerProof:
    """Validate what the other side has presented, except for names and revocation.

    Parameters
    ----------
    presented
        Certificates in DER, the other side's own first.
    trust, bundle
        Whom to believe; `bundle` is the tier's own trust bundle, in PEM.
    now
        Seconds since the epoch.

    Returns
    -------
    tuple of Certificate, or PeerProof
        The path to a trusted authority, or the flaw that stands against it.
    """
    try:
        leaf, *others = (x509.load_der_x509_certificate(der) for der in presented[:MAX_CERTIFICATES])
        if not _for_mail_servers(leaf):
            return PeerProof((), Flaw.INVALID, "the certificate is not meant for TLS")
    except UNREADABLE:
        return PeerProof((), Flaw.INVALID, "the certificate cannot be read")
    context = crypto.X509StoreContext(
        _store(trust, bundle, now),
        crypto.X509.from_cryptography(leaf),
        [crypto.X509.from_cryptography(other) for other in others],
    )
    try:
        verified = context.get_verified_chain()
    except crypto.X509StoreContextError as error:
        return PeerProof((), *_flaw(*error.errors[:3]))
    return tuple(certificate.to_cryptography() for certificate in verified)


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names that count: those among the subject alternative names, in lower case.

    A wildcard has to leave two labels, so that nobody is every domain of a top level.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    found = (name.lower() for name in names.get_values_for_type(x509.DNSName))
    return tuple(name for name in found if "*" not in name or name.count(".") >= 2)


def _for_mail_servers(leaf: x509.Certificate) -> bool:
    """Tell whether the certificate may stand for a mail server.

    One is both client and server to other servers with the same certificate, and public authorities issue none for
    clients any more: either purpose will do.
    """
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return not _PURPOSES.isdisjoint(usage)


def _flaw(code: int, depth: int, message: str) -> tuple[Flaw, str]:
    which = "the certificate" if depth == 0 else f"authority {depth} above the certificate"
    if code == _EXPIRED:
        return Flaw.EXPIRED, f"{which} has expired"
    if code == _NOT_YET_VALID:
        return Flaw.NOT_YET_VALID, f"{which} is not yet valid"
    if code in _UNTRUSTED:
        return Flaw.UNTRUSTED, f"the certificate leads to no authority that is trusted here ({message})"
    return Flaw.INVALID, f"{which} is invalid ({message})"


def _store(trust: TlsTrust, bundle: str, now: float) -> crypto.X509Store:
    """Return a store for one validation: the time of a store cannot be set twice."""
    store = crypto.X509Store()
    # A trusted intermediate or server certificate ends the chain, as direct trust wants it.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    store.set_time(datetime.fromtimestamp(now, UTC))
    for authority in (*_authorities(trust.authorities), *_authorities(bundle)):
        store.add_cert(authority)
    if trust.system:
        paths = ssl.get_default_verify_paths()
        for authority in _authorities_in(paths.cafile):
            store.add_cert(authority)
        if paths.capath:
            store.load_locations(None, paths.capath)
    return store


@lru_cache(maxsize=64)
def _authorities(pem: str) -> tuple[crypto.X509, ...]:
    """Return the certificates in a PEM text, without those that OpenSSL does not read."""
    found = []
    for block in _CERTIFICATE.findall(pem):
        with contextlib.suppress(crypto.Error):
            found.append(crypto.load_certificate(crypto.FILETYPE_PEM, block.encode()))
    return tuple(found)


@lru_cache(maxsize=1)
def _authorities_in(file: str | None) -> tuple[crypto.X509, ...]:
    try:
        return _authorities(Path(file).read_text("ascii", "ignore")) if file else ()
    except OSError:
        return ()
