"""TLS towards directories and issuers: chain and name are always verified."""

from __future__ import annotations

import ssl


def client_context(ca_pem: str) -> ssl.SSLContext:
    """Return a context that verifies chain and name against the CAs given, or the system's where none are.

    Raises
    ------
    ValueError
        They are not PEM certificates.
    """
    try:
        context = ssl.create_default_context(cadata=ca_pem or None)
    except ssl.SSLError as error:
        raise ValueError("the CA bundle holds no usable PEM certificates") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
