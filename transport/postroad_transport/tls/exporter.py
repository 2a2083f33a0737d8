"""Keying material exporters (RFC 8446 section 7.5), which OpenSSL has and Python's ssl module does not hand out.

GNU SASL binds to nothing else under TLS 1.3, so SCRAM-SHA-256-PLUS needs one. The library that the ssl module itself
is linked with is asked, with the pointer that CPython's ``_ssl._SSLSocket`` holds behind its object header and one
reference. Whether it does is proven first on each call: the session found there must belong to the context that the
object names. Where that cannot be proven, there is no exporter, and the client has to use another binding.
"""

from __future__ import annotations

import ctypes
import ssl
import sys
from functools import cache
from typing import Any

_POINTER = ctypes.sizeof(ctypes.c_void_p)


@cache
def _library() -> Any:
    """Return OpenSSL as the ssl module has it, None where it cannot be reached."""
    if sys.implementation.name != "cpython":
        return None
    try:
        import _ssl

        library = ctypes.CDLL(_ssl.__file__)
        library.SSL_get_SSL_CTX.argtypes = [ctypes.c_void_p]
        library.SSL_get_SSL_CTX.restype = ctypes.c_void_p
        library.SSL_export_keying_material.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_int,
        ]
        library.SSL_export_keying_material.restype = ctypes.c_int
    except (ImportError, AttributeError, OSError):
        return None
    return library


def export(tls: ssl.SSLObject, label: bytes, length: int) -> bytes | None:
    """Return `length` bytes for `label` without a context, None where this Python cannot say."""
    library, inner = _library(), getattr(tls, "_sslobj", None)
    if library is None or inner is None:
        return None
    session = _pointer(inner, object.__basicsize__ + _POINTER)
    context = _pointer(tls.context, object.__basicsize__)
    if not session or not context or library.SSL_get_SSL_CTX(session) != context:
        return None
    material = ctypes.create_string_buffer(length)
    done = library.SSL_export_keying_material(session, material, length, label, len(label), b"", 0, 0)
    return material.raw if done == 1 else None


def _pointer(held_by: object, offset: int) -> int | None:
    return ctypes.c_void_p.from_address(id(held_by) + offset).value
