"""What OpenSSL can do and Python's ssl module does not hand out.

The library that the ssl module itself is linked with is asked, with the pointers that CPython's ``_ssl._SSLSocket``
and ``_ssl._SSLContext`` hold behind their object headers (the former after one reference). Whether they do is proven
on each call: a session's pointer must lead to the very context that its object names. Where that cannot be proven,
nothing here does anything.
"""

from __future__ import annotations

import ctypes
import logging
import ssl
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

_POINTER = ctypes.sizeof(ctypes.c_void_p)
_SET_SESSION_CACHE_MODE = 44  # SSL_CTRL_SET_SESS_CACHE_MODE
_SET_GROUPS_LIST = 92  # SSL_CTRL_SET_GROUPS_LIST
_SET_STATUS_CALLBACK = 63  # SSL_CTRL_SET_TLSEXT_STATUS_REQ_CB
_SET_STATUS_RESPONSE = 71  # SSL_CTRL_SET_TLSEXT_STATUS_REQ_OCSP_RESP
_OFF = 0  # SSL_SESS_CACHE_OFF
_STAPLED, _NOT_STAPLED = 0, 3  # SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK
_SET_TICKET_KEYS = 59  # SSL_CTRL_SET_TLSEXT_TICKET_KEYS
_STATUS_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

TICKET_KEYS_LENGTH = 80
"""Bytes of a server's ticket keys: their name, 16; for HMAC, 32; for AES, 32."""

log = logging.getLogger("postroad.tls")


def export(tls: ssl.SSLObject, label: bytes, length: int) -> bytes | None:
    """Return `length` bytes of keying material (RFC 8446 section 7.5) for `label`, None where there is no telling."""
    session = _session(tls)
    if session is None:
        return None
    material = ctypes.create_string_buffer(length)
    done = _library().SSL_export_keying_material(session, material, length, label, len(label), b"", 0, 0)
    return material.raw if done == 1 else None


def own_certificate(tls: ssl.SSLObject) -> bytes | None:
    """Return the certificate that this side has presented in DER, None where there is no telling.

    A resumed session presents none.
    """
    if tls.session_reused:
        return None
    session = _session(tls)
    return None if session is None else _certificate(session)


def staple_status(context: ssl.SSLContext, staple: Callable[[bytes], bytes | None]) -> None:
    """Show clients that ask for it the OCSP response on the certificate they get (RFC 6066 section 8).

    Parameters
    ----------
    staple
        Returns the response, DER, for a certificate in DER; None: there is none to show. Called within handshakes.
    """
    pointer = _server(context)
    if pointer is None:
        return

    def answer(session: int, _: int | None) -> int:
        try:
            certificate = _certificate(session)
            response = certificate and staple(certificate)
            return _STAPLED if response and _give(session, response) else _NOT_STAPLED
        except Exception:  # nothing can be raised through OpenSSL
            log.exception("an OCSP response cannot be stapled")
            return _NOT_STAPLED

    callback = _STATUS_CALLBACK(answer)
    _library().SSL_CTX_callback_ctrl(pointer, _SET_STATUS_CALLBACK, callback)
    # OpenSSL keeps no reference, and the context outlives its sessions' handshakes.
    context._postroad_status_callback = callback  # type: ignore[attr-defined]  # an attribute of our own


def set_ticket_keys(context: ssl.SSLContext, keys: bytes) -> None:
    """Have a server seal the tickets of its sessions with `keys`, and open only those: other servers may know them.

    In place of the random ones that OpenSSL gives each context. Sessions go on.
    """
    pointer = _server(context)
    if pointer is not None:
        _library().SSL_CTX_ctrl(pointer, _SET_TICKET_KEYS, len(keys), keys)
        # Of a library that wants another length; what is left there would be taken for the next session's.
        _library().ERR_clear_error()


def turn_session_cache_off(context: ssl.SSLContext) -> None:
    """Let nobody resume a server's session by its identifier (TLS 1.2); what tickets do is up to the options."""
    pointer = _server(context)
    if pointer is not None:
        _library().SSL_CTX_ctrl(pointer, _SET_SESSION_CACHE_MODE, _OFF, None)


def limit_groups(context: ssl.SSLContext, *lists: str) -> None:
    """Have a server agree on keys by the first of `lists`, in OpenSSL's terms, of which it knows all groups."""
    pointer = _server(context)
    if pointer is not None:
        any(_library().SSL_CTX_ctrl(pointer, _SET_GROUPS_LIST, 0, groups.encode()) for groups in lists)
        # What is left there would be taken for the next session's.
        _library().ERR_clear_error()


def _certificate(session: int) -> bytes | None:
    certificate = _library().SSL_get_certificate(session)
    length = _library().i2d_X509(certificate, None) if certificate else 0
    if length <= 0:
        return None
    der = ctypes.create_string_buffer(length)
    end = ctypes.c_void_p(ctypes.addressof(der))
    _library().i2d_X509(certificate, ctypes.byref(end))
    return der.raw


def _give(session: int, response: bytes) -> bool:
    """Hand a copy of `response` to OpenSSL, which frees it with the session."""
    size = len(response)
    copy = _library().CRYPTO_malloc(size, b"", 0)
    if not copy:
        return False
    ctypes.memmove(copy, response, size)
    if _library().SSL_ctrl(session, _SET_STATUS_RESPONSE, size, copy) == 1:
        return True
    _library().CRYPTO_free(copy, b"", 0)
    return False


def _server(context: ssl.SSLContext) -> int | None:
    # A session that goes nowhere, for the proof that the context's pointer is where it is looked for.
    probe = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    return None if _session(probe) is None else _pointer(context, object.__basicsize__)


def _session(tls: ssl.SSLObject) -> int | None:
    library, inner = _library(), getattr(tls, "_sslobj", None)
    if library is None or inner is None:
        return None
    session = _pointer(inner, object.__basicsize__ + _POINTER)
    context = _pointer(tls.context, object.__basicsize__)
    if not session or not context or library.SSL_get_SSL_CTX(session) != context:
        return None
    return session


@cache
def _library() -> Any:
    """Return OpenSSL as the ssl module has it, None where it cannot be reached."""
    if sys.implementation.name != "cpython":
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    try:
        import _ssl

        library = ctypes.CDLL(_ssl.__file__)
        for name, result, *arguments in (
            ("SSL_get_SSL_CTX", pointer, pointer),
            ("SSL_get_certificate", pointer, pointer),
            ("i2d_X509", number, pointer, pointer),
            ("SSL_CTX_ctrl", ctypes.c_long, pointer, number, ctypes.c_long, ctypes.c_char_p),
            ("SSL_CTX_callback_ctrl", ctypes.c_long, pointer, number, _STATUS_CALLBACK),
            ("SSL_ctrl", ctypes.c_long, pointer, number, ctypes.c_long, pointer),
            ("CRYPTO_malloc", pointer, size, ctypes.c_char_p, number),
            ("CRYPTO_free", None, pointer, ctypes.c_char_p, number),
            ("ERR_clear_error", None),
            (
                "SSL_export_keying_material",
                number,
                *(pointer, ctypes.c_char_p, size, ctypes.c_char_p, size, ctypes.c_char_p, size, number),
            ),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (ImportError, AttributeError, OSError):
        return None
    return library


def _pointer(held_by: object, offset: int) -> int | None:
    return ctypes.c_void_p.from_address(id(held_by) + offset).value
