"""Session tickets (RFC 5077, RFC 8446 section 4.6.1) that every worker of a tier takes, on every pod.

The workers derive their keys from one secret of the tier and from what a connector presents: a session is resumed by
whoever would have begun it in the same way, and by nobody else. What OpenSSL keeps in a ticket is the session's
secrets, its version and suite, and the name that the client asked for. Nothing of the SMTP session is in it, and no
certificate, as clients that may resume are not asked for one.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from postroad_transport.config import TlsPolicy
from postroad_transport.config.files import SESSION_TICKETS_FILE, SESSION_TICKETS_LENGTH, ConfigError, read_secret
from postroad_transport.tls.native import TICKET_KEYS_LENGTH, set_ticket_keys
from postroad_transport.tls.policy import TERMS


def read_ticket_secret(directory: Path) -> bytes:
    """Return the secret beside the configuration in `directory`; empty where there is none that is any good.

    That is no reason not to serve: then each worker resumes what it has begun itself.
    """
    try:
        secret = read_secret(directory, SESSION_TICKETS_FILE)
    except ConfigError:
        return b""
    return secret if len(secret) == SESSION_TICKETS_LENGTH else b""


def share_tickets(contexts: Mapping[ssl.SSLContext, bytes], secret: bytes) -> None:
    """Have `contexts`, each with its identity, resume the sessions of all workers that have the same `secret`.

    Those that were sealed with another secret are resumed no longer. For the thread that the handshakes run in.
    """
    if secret:
        for context, identity in contexts.items():
            set_ticket_keys(context, ticket_keys(secret, identity))


def identity_of(policy: TlsPolicy, chains: Sequence[str], names: Mapping[str, Sequence[str]]) -> bytes:
    """Return what tells a server's context from others that present something else, or on other terms.

    OpenSSL resumes a session without asking whether the suite is still one of the server's, or what is presented.

    Parameters
    ----------
    chains
        Digests of what is presented to clients that ask for no name, in the order of choice.
    names
        The same for each name that clients may ask for. A session that begins with one of these has its ticket from
        the context that it came to first, hence all are part of that context's identity.
    """
    terms = TERMS[policy]
    encoded = msgspec.json.encode((terms.oldest, terms.suites, chains, names), order="sorted")
    return hashlib.sha256(encoded).digest()


def ticket_keys(secret: bytes, identity: bytes) -> bytes:
    """Return a context's keys in OpenSSL's form: the name in its tickets, 16 bytes; for HMAC, 32; for AES, 32.

    They are derived by HKDF (RFC 5869), so that neither the name nor one context's keys tell of the others.

    Parameters
    ----------
    secret
        The tier's, 32 random bytes.
    identity
        What :func:`identity_of` says of the context.
    """
    info = b"postroad session tickets\0" + identity
    return HKDF(algorithm=SHA256(), length=TICKET_KEYS_LENGTH, salt=None, info=info).derive(secret)
