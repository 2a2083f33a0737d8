"""Why a TLS handshake failed, in fixed words: label values of the metrics, and what the log says."""

from __future__ import annotations

import ssl

CERTIFICATE_REFUSED = "certificate_refused"
REFUSED_BY_CLIENT = "refused_by_client"
REFUSALS = frozenset({CERTIFICATE_REFUSED, REFUSED_BY_CLIENT})
"""The words for alerts that the other side sent."""
_WORDS = {
    "not_tls": (
        *("HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG"),
        *("BAD_RECORD_TYPE", "UNKNOWN_PROTOCOL", "UNEXPECTED_RECORD", "RECORD_LAYER_FAILURE"),
    ),
    "unsupported_version": (
        *("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "WRONG_SSL_VERSION", "NO_PROTOCOLS_AVAILABLE"),
        "TLSV1_ALERT_PROTOCOL_VERSION",
    ),
    "no_shared_cipher": ("NO_SHARED_CIPHER", "NO_CIPHERS_AVAILABLE", "NO_CIPHERS_SPECIFIED"),
    "no_shared_signature": ("NO_SHARED_SIGNATURE_ALGORITHMS", "NO_SUITABLE_SIGNATURE_ALGORITHM"),
    "no_shared_group": ("NO_SHARED_GROUPS", "NO_SUITABLE_KEY_SHARE", "NO_SUITABLE_GROUPS", "BAD_KEY_SHARE"),
    CERTIFICATE_REFUSED: (
        *("TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_CERTIFICATE_UNKNOWN", "SSLV3_ALERT_BAD_CERTIFICATE"),
        *("SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_EXPIRED"),
        *("SSLV3_ALERT_CERTIFICATE_REVOKED", "TLSV1_ALERT_ACCESS_DENIED"),
    ),
}
_WORD_OF = {reason: word for word, reasons in _WORDS.items() for reason in reasons}


def handshake_failure(error: BaseException | None) -> str:
    """Return the word for why a handshake with a client failed.

    ``certificate_refused`` and ``refused_by_client`` are alerts that the client sent.
    """
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "disconnected"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        return _WORD_OF.get(reason) or (REFUSED_BY_CLIENT if "_ALERT_" in reason else "protocol_error")
    # Event loops give up on a handshake by aborting the connection.
    return "timeout" if isinstance(error, TimeoutError | ConnectionAbortedError) else "disconnected"


def refused_afterwards(error: BaseException | None) -> bool:
    """Tell whether a connection ended because the client, its handshake done, refused the server's certificate.

    With TLS 1.3 the server is done first.
    """
    return isinstance(error, ssl.SSLError) and handshake_failure(error) == CERTIFICATE_REFUSED
