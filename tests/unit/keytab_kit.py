"""Writes keytabs (MIT Kerberos' file format, version 2)."""

from __future__ import annotations

import struct


def entry(principal: str, realm: str = "A.TEST", version: int = 3, kind: int = 18) -> bytes:
    def counted(text: str) -> bytes:
        return struct.pack(">H", len(text)) + text.encode()

    parts = principal.split("/")
    body = struct.pack(">H", len(parts)) + counted(realm) + b"".join(map(counted, parts))
    body += struct.pack(">II", 1, 0) + struct.pack(">BHH", version & 0xFF, kind, 32) + bytes(32)
    body += struct.pack(">I", version)
    return struct.pack(">i", len(body)) + body


def keytab(*entries: bytes) -> bytes:
    return b"\x05\x02" + b"".join(entries)
