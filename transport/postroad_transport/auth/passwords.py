"""Password hashes: which are taken, and whether a password matches one."""

from __future__ import annotations

import base64
import binascii
import re
import secrets

import argon2
import argon2.low_level
import bcrypt

from postroad_transport.auth import scram_keys

#: bcrypt sees this many octets of a password; the tools that make hashes cut there too.
_BCRYPT_OCTETS = 72
_MAX_ARGON2_KIB = 1024 * 1024
_MAX_ARGON2_TIME = 64
_MAX_BCRYPT_COST = 16

_ACCEPTED = "argon2id, bcrypt or SCRAM-SHA-256 (postroad htpasswd)"
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_ARGON2 = re.compile(
    r"(\$argon2id?\$v=19\$m=(\d{1,10}),t=(\d{1,10}),p=(\d{1,8})\$)([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{16,171})"
)
_DEFAULT_ARGON2 = "$argon2id$v=19$m=65536,t=3,p=4$" + "A" * 22 + "$" + "A" * 43


class AuthUnavailableError(Exception):
    """Passwords cannot be verified just now: 454 4.7.0, try again later."""


class HashFormatError(ValueError):
    """A stored password is not in a form that is accepted; the message says why and never quotes it."""


def check_format(encoded: str) -> str:
    """Accept an argon2 (RFC 9106, PHC string) or bcrypt hash or SCRAM keys; return its parameters as a prefix.

    Raises
    ------
    HashFormatError
        Anything else: plain text, ``{SHA}``, MD5, DES, or a cost that would stall the server.
    """
    if (match := _ARGON2.fullmatch(encoded)) and _canonical(match[5]) and _canonical(match[6]):
        memory, passes, lanes = int(match[2]), int(match[3]), int(match[4])
        if lanes < 1 or passes < 1 or memory < 8 * lanes:
            raise HashFormatError("the argon2 parameters are not valid")
        if memory > _MAX_ARGON2_KIB or passes > _MAX_ARGON2_TIME:
            raise HashFormatError("the argon2 cost is too high: at most m=1048576 and t=64")
        return match[1]
    if match := _BCRYPT.fullmatch(encoded):
        if not 4 <= int(match[1]) <= _MAX_BCRYPT_COST:
            raise HashFormatError("the bcrypt cost must be from 4 to 16")
        return encoded[:7]
    if encoded.startswith("SCRAM-SHA-256$"):
        try:
            return f"SCRAM-SHA-256${scram_keys.parse(encoded).iterations}:"
        except ValueError as error:
            raise HashFormatError(str(error)) from None
    if encoded.startswith(("$argon2", "$2")):
        raise HashFormatError("the hash is damaged or of an unsupported version")
    if encoded.startswith(("SCRAM-", "$apr1$", "$1$", "{SHA}", "{SSHA}", "{MD5}", "{CRYPT}", "$5$", "$6$")):
        raise HashFormatError(f"this hash is too weak or not supported: use {_ACCEPTED}")
    raise HashFormatError(f"this is not a password hash: use {_ACCEPTED}")


def decoy(encoded: str = "") -> str:
    """Return a hash that no password matches and that costs as much to check as `encoded`."""
    encoded = encoded or _DEFAULT_ARGON2
    if match := _ARGON2.fullmatch(encoded):
        return f"{match[1]}{_filler(match[5])}${_filler(match[6])}"
    if encoded.startswith("SCRAM-SHA-256$"):
        keys = scram_keys.parse(encoded)
        return str(scram_keys.ScramKeys(keys.iterations, *(secrets.token_bytes(len(part)) for part in keys[1:])))
    return encoded[:7] + "." * 22 + secrets.token_hex(16)[:31]


def check_password(encoded: str, password: bytes) -> bool:
    """Tell whether `password` matches. Takes tens of milliseconds and releases the GIL.

    Raises
    ------
    AuthUnavailableError
        Memory ran out, or the library refuses the hash.
    """
    try:
        if encoded.startswith("SCRAM-SHA-256$"):
            return scram_keys.matches(scram_keys.parse(encoded), password)
        if encoded.startswith("$argon2"):
            kind = argon2.Type.ID if encoded.startswith("$argon2id$") else argon2.Type.I
            return argon2.low_level.verify_secret(encoded.encode("ascii"), password, kind)
        return bcrypt.checkpw(password[:_BCRYPT_OCTETS], encoded.encode("ascii"))
    except argon2.exceptions.VerifyMismatchError:
        return False
    except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError, ValueError, MemoryError) as error:
        raise AuthUnavailableError("the password hash cannot be checked") from error


def _filler(text: str) -> str:
    # The last digit is zero because base64 leaves unused bits there.
    return secrets.token_hex(len(text))[: len(text) - 1] + "A"


def _canonical(text: str) -> bool:
    try:
        return base64.b64encode(base64.b64decode(text + "=" * (-len(text) % 4))).rstrip(b"=") == text.encode("ascii")
    except binascii.Error:
        return False
