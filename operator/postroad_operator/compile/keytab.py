"""Reads which keys a keytab holds (MIT Kerberos' file format, versions 1 and 2); never the keys themselves."""

from __future__ import annotations

import struct
from typing import NamedTuple


class KeytabError(ValueError):
    """The content is no keytab."""


class KeytabEntry(NamedTuple):
    """One key: whose it is, its version, its encryption type (RFC 3961)."""

    principal: str
    realm: str
    version: int
    encryption_type: int


def read_keytab(content: bytes) -> list[KeytabEntry]:
    """Return the entries.

    Raises
    ------
    KeytabError
        The content is cut short, or is no keytab at all.
    """
    if content[:2] not in (b"\x05\x01", b"\x05\x02"):
        raise KeytabError("is no keytab")
    # Version 1 has the byte order of the machine that wrote it, and counts the realm as a component.
    order, counts_realm = (">", 0) if content[1] == 2 else ("<", 1)
    entries, at = [], 2
    try:
        while at < len(content):
            (size,) = struct.unpack_from(f"{order}i", content, at)
            at += 4
            if size > 0:
                if at + size > len(content):
                    raise KeytabError("is a keytab that is cut short")
                entries.append(_entry(content[at : at + size], order, counts_realm))
            # What was deleted leaves a hole of negative size.
            at += abs(size)
            if size == 0:
                break
    except (struct.error, UnicodeDecodeError) as error:
        raise KeytabError("is a damaged keytab") from error
    return entries


def _entry(data: bytes, order: str, counts_realm: int) -> KeytabEntry:
    (count,) = struct.unpack_from(f"{order}H", data)
    at, parts = 2, []
    for _ in range(count - counts_realm + 1):
        (length,) = struct.unpack_from(f"{order}H", data, at)
        part = data[at + 2 : at + 2 + length]
        if len(part) < length:
            raise KeytabError("is a damaged keytab")
        parts.append(part.decode("utf-8"))
        at += 2 + length
    # Name type (version 2 only) and time, 4 bytes each, then the version's low byte and the type of the key.
    at += 4 if counts_realm else 8
    version, encryption_type, length = struct.unpack_from(f"{order}BHH", data, at)
    at += 5 + length
    if len(data) - at >= 4:
        version = struct.unpack_from(f"{order}I", data, at)[0] or version
    return KeytabEntry("/".join(parts[1:]), parts[0], version, encryption_type)
