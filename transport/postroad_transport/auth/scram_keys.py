"""Stored SCRAM-SHA-256 keys (RFC 5803; PostgreSQL writes them alike): they check SCRAM and PLAIN.

``SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>``, the last three in base64.
"""

from __future__ import annotations

import binascii
import hmac
import re
import secrets
from typing import NamedTuple

SCHEME = "SCRAM-SHA-256"
#: RFC 7677 section 4 asks for at least this many.
MIN_ITERATIONS = 4096
#: One check of a password takes about half a second then.
MAX_ITERATIONS = 1_000_000
#: What `postroad htpasswd` uses (OWASP Password Storage Cheat Sheet, PBKDF2-HMAC-SHA256).
DEFAULT_ITERATIONS = 600_000
_MIN_SALT = 12

_FORM = re.compile(
    r"SCRAM-SHA-256\$([1-9]\d{0,9}):([A-Za-z0-9+/=]{16,172})\$([A-Za-z0-9+/=]{44}):([A-Za-z0-9+/=]{44})"
)


class ScramKeys(NamedTuple):
    """What a server keeps of a password (RFC 5802 section 3)."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __str__(self) -> str:
        parts = (self.salt, self.stored_key, self.server_key)
        salt, stored, server = (binascii.b2a_base64(part, newline=False).decode() for part in parts)
        return f"{SCHEME}${self.iterations}:{salt}${stored}:{server}"


def parse(encoded: str) -> ScramKeys:
    """Read stored keys.

    Raises
    ------
    ValueError
        They are not in the form, or the number of iterations is not acceptable. The message quotes nothing.
    """
    match = _FORM.fullmatch(encoded)
    if match is None:
        raise ValueError("the SCRAM keys are damaged: expected SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey")
    iterations = int(match[1])
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"the SCRAM iterations must be from {MIN_ITERATIONS} to {MAX_ITERATIONS}")
    try:
        salt, stored, server = (binascii.a2b_base64(part, strict_mode=True) for part in match.group(2, 3, 4))
    except binascii.Error:
        raise ValueError("the SCRAM keys are damaged: not base64") from None
    if len(salt) < _MIN_SALT or len(stored) != 32 or len(server) != 32:
        raise ValueError("the SCRAM salt or keys have a wrong length")
    return ScramKeys(iterations, salt, stored, server)


def split_hash(text: str) -> tuple[str, str]:
    """Take ``hash`` or ``hash:addresses`` apart, as it stands behind a user's name: SCRAM keys hold colons."""
    colons = 3 if text.startswith(f"{SCHEME}$") else 1
    parts = text.split(":", colons)
    return ":".join(parts[:colons]), ":".join(parts[colons:])


def derive(password: str, *, iterations: int = DEFAULT_ITERATIONS, salt: bytes | None = None) -> ScramKeys:
    """Make the keys of a password, with a fresh salt unless one is given. Takes a while and releases the GIL.

    Raises
    ------
    ValueError
        SASLprep (RFC 4013) forbids the password, such as for a control character in it.
    """
    # Here, because it costs start-up time and few tiers need it.
    from scramp import ScramException, ScramMechanism

    try:
        made = ScramMechanism(SCHEME).make_auth_info(
            password, iteration_count=iterations, salt=salt or secrets.token_bytes(16)
        )
    except ScramException as error:
        raise ValueError("the password holds characters that SASLprep (RFC 4013) forbids") from error
    return ScramKeys(made[3], made[0], made[1], made[2])


def matches(keys: ScramKeys, password: bytes) -> bool:
    """Tell whether the keys are those of `password` (UTF-8)."""
    try:
        derived = derive(password.decode(), iterations=keys.iterations, salt=keys.salt)
    except ValueError:
        return False
    return hmac.compare_digest(derived.stored_key, keys.stored_key)
