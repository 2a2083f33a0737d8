"""TLS by direct trust: both sides present a certificate, and each is valid because the other's store holds it.

OpenSSL is told to take the stored certificates themselves as trust anchors, whoever issued them
(``X509_V_FLAG_PARTIAL_CHAIN``), whatever they were issued for (trusted for any purpose, as ``openssl x509 -addtrust``
does) and however old they are (``X509_V_FLAG_NO_CHECK_TIME``): taking a certificate out of the store is what ends
its validity. Expiry is no reason here, since a server whose clock or subscription is behind must not stop the
organisation's mail. What has been presented is then compared with the store once more, by thumbprint, since a stored
authority would vouch for all it has issued.
"""

from __future__ import annotations

import base64
import contextlib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from postroad_transport.config import DirectTrust, TlsPolicy
from postroad_transport.config.files import SECRETS_DIRECTORY, ConfigError
from postroad_transport.policy.certificate import thumbprint
from postroad_transport.policy.direct_trust import principals_by_thumbprint
from postroad_transport.tls.failures import REFUSALS, handshake_failure
from postroad_transport.tls.native import limit_groups
from postroad_transport.tls.policy import GROUPS, apply_policy
from postroad_transport.tls.server import forbid_resumption, load_certificate

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL; the ssl module has no name for it."""

# X509_CERT_AUX with one trust setting: anyExtendedKeyUsage (2.5.29.37.0).
_TRUSTED_FOR_ANYTHING = bytes.fromhex("300830060604551d2500")


UNKNOWN_CERTIFICATE = "unknown_certificate"
"""The reason of a refusal: the store does not hold what has been presented."""
REFUSED_BY_PEER = "refused_by_peer"
"""The other side's store does not hold what this side has presented."""
_REASONS = {
    "CERTIFICATE_VERIFY_FAILED": UNKNOWN_CERTIFICATE,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
}


def trust_failure(error: BaseException | None) -> str:
    """Return a short fixed word for why a handshake by direct trust failed, either side's: a label value."""
    if reason := _REASONS.get(getattr(error, "reason", None) or ""):
        return reason
    word = handshake_failure(error)
    return REFUSED_BY_PEER if word in REFUSALS else word


@dataclass(frozen=True, slots=True)
class TrustContexts:
    """What sessions between the organisation's servers need. ``thumbprint`` is what this side presents."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    thumbprint: str
    principals: Mapping[str, str]

    def principal(self, presented: bytes | None) -> str:
        """Return who presents a certificate (DER); empty when the store does not hold it."""
        return self.principals.get(thumbprint(presented), "") if presented else ""


def trust_contexts(trust: DirectTrust, directory: Path) -> TrustContexts | None:
    """Build the contexts from a configuration and the secrets beside it in `directory`; None: there is no identity.

    Raises
    ------
    ConfigError
        The tier's own certificate or key, or one in the store, cannot be used.
    """
    if trust.identity is None:
        return None
    secrets = directory / SECRETS_DIRECTORY
    chain, key = secrets / trust.identity.chain_file, secrets / trust.identity.key_file
    server, client = _contexts(chain, key, tuple(item.certificate for item in trust.servers))
    return TrustContexts(server, client, trust.identity.thumbprint, principals_by_thumbprint(trust.servers))


@lru_cache(maxsize=16)
def _contexts(chain: Path, key: Path, trusted: tuple[str, ...]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    # Cached like every server context: the file names hold a digest of the content.
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anchors = _anchors(trusted)
    for context in (server, client):
        apply_policy(context, TlsPolicy.MODERN)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
        load_certificate(context, chain, key)
        if anchors:
            _trust(context, anchors)
    # A session that can be resumed would outlive the certificate's place in the store.
    forbid_resumption(server)
    limit_groups(server, *GROUPS)
    return server, client


def _anchors(certificates: tuple[str, ...]) -> bytes:
    blocks = []
    for number, pem in enumerate(certificates, 1):
        try:
            der = ssl.PEM_cert_to_DER_cert(pem.strip())
        except ValueError as error:
            raise ConfigError(f"direct trust: certificate {number} is not PEM") from error
        body = base64.encodebytes(der + _TRUSTED_FOR_ANYTHING)
        blocks.append(b"-----BEGIN TRUSTED CERTIFICATE-----\n" + body + b"-----END TRUSTED CERTIFICATE-----\n")
    return b"".join(blocks)


def _trust(context: ssl.SSLContext, anchors: bytes) -> None:
    # Trust settings are read from files only.
    descriptor = os.memfd_create("direct-trust")
    with contextlib.closing(os.fdopen(descriptor, "wb")) as file:
        file.write(anchors)
        file.flush()
        try:
            context.load_verify_locations(cafile=f"/proc/self/fd/{descriptor}")
        except ssl.SSLError as error:
            raise ConfigError("direct trust: a certificate in the store cannot be read") from error
