"""TLS contexts for outbound sessions, one for each level of proof (spec.md sections 2.2 and 4)."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from postroad_transport.config import TlsAuthLevel, TlsPolicy
from postroad_transport.policy.certificate import covers
from postroad_transport.tls.policy import apply_policy
from postroad_transport.tls.server import load_certificate
from postroad_transport.tls.trust import add_trust

# Where nothing is verified, a weak key of the peer is still better than clear text (RFC 7435 section 3).
_OPPORTUNISTIC_CIPHERS = "DEFAULT:@SECLEVEL=0"


@lru_cache(maxsize=64)
def client_context(
    level: TlsAuthLevel | None, *, trust: str = "", system: bool = True, policy: TlsPolicy | None = None
) -> ssl.SSLContext:
    """Return the context for outbound TLS at `level`; cached, since loading the system's store is slow.

    Parameters
    ----------
    level
        None (opportunistic) and EncryptionOnly encrypt and verify nothing. CertificateValidation and
        DomainValidation verify the chain. The name is left to :func:`verify_name` after the handshake, which
        DomainValidation must not go without: the name to prove (``tls_domain``, or any of several smart hosts) is
        often not the host dialled, whose name still belongs into the handshake (SNI).
    trust
        PEM of authorities to trust.
    system
        Trust the system's authorities, too.
    policy
        Versions and suites. None: Intermediate to verify, whatever TLS 1.2 has to encrypt.

    Raises
    ------
    ConfigError
        `trust` is not PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    apply_policy(context, policy or TlsPolicy.INTERMEDIATE)
    context.check_hostname = False
    if level is None or level is TlsAuthLevel.ENCRYPTION_ONLY:
        context.verify_mode = ssl.CERT_NONE
        if policy is None:
            context.set_ciphers(_OPPORTUNISTIC_CIPHERS)
        return context
    context.verify_mode = ssl.CERT_REQUIRED
    # A trusted intermediate or server certificate ends the chain, as direct trust wants it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if system:
        context.load_default_certs()
    if trust:
        add_trust(context, trust, "trust bundle")
    return context


@lru_cache(maxsize=64)
def mutual_context(chain: Path, key: Path, policy: TlsPolicy = TlsPolicy.INTERMEDIATE) -> ssl.SSLContext:
    """Return the context of mutual TLS, which presents the certificate in `chain`; cached by path.

    It verifies nothing itself: that is for :func:`postroad_transport.tls.peer.verify_peer` after the handshake.

    Raises
    ------
    ConfigError
        A file is missing or unreadable, or the key does not belong to the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    apply_policy(context, policy)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    load_certificate(context, chain, key)
    return context


def verify_name(peer_cert: Mapping[str, Any] | None, names: Iterable[str]) -> bool:
    """Tell whether a certificate is for one of `names` (RFC 9525 section 6).

    Parameters
    ----------
    peer_cert
        What :meth:`ssl.SSLObject.getpeercert` returns. Only subject alternative names count; it is empty
        when the chain was not verified, and then no name matches.
    names
        DNS names or IP addresses. An address matches only an address entry. A wildcard in the certificate
        stands for one label and needs two labels after it.
    """
    sans = (peer_cert or {}).get("subjectAltName", ())
    patterns = [value for kind, value in sans if kind == "DNS" and _usable(value)]
    addresses = {_address(value) for kind, value in sans if kind == "IP Address"} - {None}
    return any(
        _address(name) in addresses
        if _address(name) is not None
        else any(covers(pattern, name) for pattern in patterns)
        for name in names
    )


def _usable(pattern: str) -> bool:
    return "*" not in pattern or (pattern.startswith("*.") and pattern.rstrip(".").count(".") >= 2)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
