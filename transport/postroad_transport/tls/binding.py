"""Channel bindings: what ties an authentication to the TLS session it runs in (RFC 5929, RFC 9266)."""

from __future__ import annotations

import hashlib
import ssl
from functools import partial
from typing import Any

from cryptography import x509

from postroad_transport.tls.native import export


def end_point(certificate: bytes) -> bytes:
    """Return ``tls-server-end-point`` (RFC 5929 section 4.1) for the server's certificate in DER."""
    algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    name = algorithm.name if algorithm is not None and algorithm.name not in ("md5", "sha1") else "sha256"
    return hashlib.new(name, certificate).digest()


def end_point_of_chain(chain: bytes) -> bytes:
    """Return the same for the first certificate of a PEM file.

    Raises
    ------
    ValueError
        There is none.
    """
    pem, marker, _ = chain.decode("ascii", "replace").partition("-----END CERTIFICATE-----")
    start = pem.find("-----BEGIN CERTIFICATE-----")
    if start < 0:
        raise ValueError("no certificate")
    return end_point(ssl.PEM_cert_to_DER_cert(pem[start:] + marker))


def binding(tls: ssl.SSLObject, kind: str, server_end_point: bytes | None) -> bytes | None:
    """Return the channel binding data of a TLS session, None for a kind that it has not.

    Parameters
    ----------
    kind
        ``tls-server-end-point``, ``tls-exporter``, or ``tls-unique``; the last is not defined for TLS 1.3.
    server_end_point
        What :func:`end_point` says of the certificate that was presented; None where that is not known.
    """
    match kind:
        case "tls-server-end-point":
            return server_end_point
        case "tls-exporter":
            # RFC 9266 section 2; before TLS 1.3 it depends on an extension whose use cannot be asked for here.
            return _exported(tls) if tls.version() == "TLSv1.3" else None
        case "tls-unique":
            return tls.get_channel_binding("tls-unique") if tls.version() == "TLSv1.2" else None
        case _:
            return None


def _exported(tls: Any) -> bytes | None:
    # The engine of connections that ask for certificates knows by itself.
    ask = partial(export, tls) if isinstance(tls, ssl.SSLObject) else tls.export
    return ask(b"EXPORTER-Channel-Binding", 32)
