"""TLS contexts for listeners: STARTTLS (RFC 3207) and implicit TLS (RFC 8314)."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from postroad_transport.config import TlsPolicy
from postroad_transport.config.files import ConfigError
from postroad_transport.policy.certificate import served_for
from postroad_transport.tls.native import limit_groups, staple_status, turn_session_cache_off
from postroad_transport.tls.policy import GROUPS, apply_policy


class KeyPair(NamedTuple):
    """PEM files: leaf first, then intermediates; and the leaf's private key, without a passphrase."""

    chain: Path
    key: Path


Staple = Callable[[bytes], bytes | None]
"""Gives the OCSP response, DER, to show with a certificate in DER; None: there is none. Called within handshakes."""

Names = tuple[tuple[str, tuple[KeyPair, ...]], ...]
"""What to present to clients that ask for a name, by name or wildcard."""


@lru_cache(maxsize=1024)
def server_context(
    chain: Path,
    key: Path,
    *,
    beside: tuple[KeyPair, ...] = (),
    names: Names = (),
    policy: TlsPolicy = TlsPolicy.MODERN,
    asks: bool = False,
    resumes: bool = True,
    staple: Staple | None = None,
) -> ssl.SSLContext:
    """Return the context that presents the certificate in `chain`.

    Cached by path: the name of a secret file holds a digest of its content, so a renewed certificate comes
    under a new name. Building costs some milliseconds, and clients resume sessions only within one context.

    Parameters
    ----------
    chain, key
        PEM files: leaf first, then intermediates; and the leaf's private key, without a passphrase.
    beside
        Certificates with other kinds of keys: which one a client gets depends on the signatures it offers.
    names
        For clients that ask for a name (SNI) in here: what they get instead. Else nobody is asked for a name.
    asks
        Ask for the client's certificate. Whatever it is, it is taken: who uses it has to judge it first.
    resumes
        Let clients resume their sessions. Those that are asked for a certificate never do.
    staple
        Where to take the OCSP response from for clients that want one.

    Raises
    ------
    ConfigError
        A file is missing or unreadable, or the key does not belong to the certificate.
    """
    others = {
        name: server_context(*own, beside=tuple(more), policy=policy, asks=asks, resumes=resumes, staple=staple)
        for name, (own, *more) in names
    }
    for_name = partial(served_for, names=others)
    pairs = (KeyPair(chain, key), *beside)
    if asks:
        from postroad_transport.tls.asking import AskingContext  # here, since few connectors need it

        asking = AskingContext(policy)
        for pair in pairs:
            load_certificate(asking, *pair)
        if others:
            asking.answer_names(for_name)
        if staple is not None:
            asking.staple_status(staple)
        return asking
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    apply_policy(context, policy)
    limit_groups(context, *GROUPS)
    for pair in pairs:
        load_certificate(context, *pair)
    if others:
        context.sni_callback = partial(_answer_name, for_name)
    if staple is not None:
        staple_status(context, staple)
    if resumes:
        # Mail clients keep one ticket; making a second one would be wasted work.
        context.num_tickets = 1
    else:
        forbid_resumption(context)
    return context


@lru_cache(maxsize=1024)
def problem_with(pair: KeyPair) -> str:
    """Return why a certificate cannot be presented, nothing where it can; cached by path."""
    try:
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *pair)
    except ConfigError as error:
        return str(error)
    return ""


@lru_cache(maxsize=1024)
def chain_digest(chain: Path) -> str:
    """Return the SHA-256 of a chain's file in hexadecimal; cached by path. Raises ConfigError: it cannot be read."""
    try:
        return hashlib.sha256(chain.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{chain}: {error.strerror or error}") from error


def load_certificate(context: ssl.SSLContext, chain: Path, key: Path) -> None:
    """Have `context` present a certificate. Raises ConfigError as :func:`server_context` does."""
    for file in (chain, key):
        if not file.is_file():
            raise ConfigError(f"{file}: no such file")
    try:
        context.load_cert_chain(chain, key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{key}: the private key does not belong to the certificate in {chain}") from error
        raise ConfigError(f"{chain}, {key}: not a PEM certificate and its private key ({error.reason})") from error
    except OSError as error:
        raise ConfigError(f"{chain}, {key}: {error.strerror or error}") from error


def forbid_resumption(context: ssl.SSLContext) -> None:
    """Have each session begin with a whole handshake; of TLS 1.2 only where OpenSSL can be reached."""
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    turn_session_cache_off(context)


def _answer_name(
    for_name: Callable[[str], ssl.SSLContext | None], tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext
) -> None:
    if name is not None and (other := for_name(name)) is not None:
        tls.context = other


def _no_passphrase() -> str:
    # Without this OpenSSL would ask on the terminal and the server would hang.
    return ""
