"""TLS contexts for listeners: STARTTLS (RFC 3207) and implicit TLS (RFC 8314)."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

from postroad_transport.config.files import ConfigError

# Forward secrecy and AEAD only for TLS 1.2; the suites of TLS 1.3 are all of that kind.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!PSK:!SRP"


@lru_cache(maxsize=256)
def server_context(chain: Path, key: Path, *, asks: bool = False) -> ssl.SSLContext:
    """Return the context that presents the certificate in `chain`.

    Cached by path: the name of a secret file holds a digest of its content, so a renewed certificate comes
    under a new name. Building costs some milliseconds, and clients resume sessions only within one context.

    Parameters
    ----------
    chain, key
        PEM files: leaf first, then intermediates; and the leaf's private key, without a passphrase.
    asks
        Ask for the client's certificate. Whatever it is, it is taken: who uses it has to judge it first.

    Raises
    ------
    ConfigError
        A file is missing or unreadable, or the key does not belong to the certificate.
    """
    if asks:
        from postroad_transport.tls.asking import AskingContext  # here, since few connectors need it

        asking = AskingContext(ciphers=CIPHERS)
        load_certificate(asking, chain, key)
        return asking
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # Mail clients keep one ticket; making a second one would be wasted work.
    context.num_tickets = 1
    load_certificate(context, chain, key)
    return context


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


def _no_passphrase() -> str:
    # Without this OpenSSL would ask on the terminal and the server would hang.
    return ""
