"""Named policies of TLS: the versions and suites that each stands for.

All but Legacy keep to key exchanges with forward secrecy (ECDHE) and TLS 1.2 at least; TLS 1.3 is always spoken.
Nowhere are there compression, renegotiation, RC4, 3DES, MD5, anonymous or export suites.
"""

from __future__ import annotations

import ssl
import warnings
from typing import NamedTuple

from postroad_transport.config import TlsPolicy


class Terms(NamedTuple):
    """The oldest version spoken, and the suites before TLS 1.3 in OpenSSL's terms, the best first."""

    oldest: ssl.TLSVersion
    suites: str


_MODERN = "ECDHE+AESGCM:ECDHE+CHACHA20"
_INTERMEDIATE = f"{_MODERN}:ECDHE+AES"
_NEVER = "!aNULL:!PSK:!SRP"

TERMS = {
    # RFC 9325 section 4.2: forward secrecy and AEAD only.
    TlsPolicy.MODERN: Terms(ssl.TLSVersion.TLSv1_2, f"{_MODERN}:{_NEVER}"),
    # Servers of the years before 2015 know ECDHE, but with RSA certificates only CBC.
    TlsPolicy.INTERMEDIATE: Terms(ssl.TLSVersion.TLSv1_2, f"{_INTERMEDIATE}:!AESCCM:{_NEVER}"),
    # Level 0, since TLS 1.0 and 1.1 sign with SHA-1.
    TlsPolicy.LEGACY: Terms(ssl.TLSVersion.TLSv1, f"{_INTERMEDIATE}:RSA+AES:!AESCCM:{_NEVER}:@SECLEVEL=0"),
}


GROUPS = ("X25519MLKEM768:X25519:P-256:P-384", "X25519:P-256:P-384")
"""Lists of groups that a server agrees on keys by; the hybrid one where OpenSSL has it (3.5).

Not the library's own list: there are finite fields of 8192 bits in it, of which each costs a server tens of
milliseconds and its client nothing (CVE-2002-20001).
"""


def apply_policy(context: ssl.SSLContext, policy: TlsPolicy) -> None:
    """Have `context` keep to `policy`; as a server it is the one to choose."""
    terms = TERMS[policy]
    with warnings.catch_warnings():
        # TLS 1.0 and 1.1 are what somebody chose.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = terms.oldest
    context.set_ciphers(terms.suites)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
