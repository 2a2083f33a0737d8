"""Checks htpasswd content before it is served: a typo must not lock everybody out unnoticed."""

from __future__ import annotations

import re

from postroad_operator.compile.verdict import Reason, RefusedError
from postroad_transport.auth import scram_keys

_HASH = re.compile(
    r"\$argon2(id|i|d)\$v=\d+\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+|\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}"
)
_ADDRESS = re.compile(r"(\*|[^@\s,:]+)@[^@\s,:]+")


def check_htpasswd(content: bytes, field: str) -> list[str]:
    """Return a warning for each line that cannot be used.

    Nothing is quoted, for the reference may be to any Secret, and warnings are read by whoever reads the status.

    Lines are ``user:hash`` or ``user:hash:address,address``; empty lines and those that begin with # are passed
    over. Hashes are argon2 (RFC 9106), bcrypt or SCRAM-SHA-256 keys (RFC 5803).

    Raises
    ------
    RefusedError
        No line can be used.
    """
    warnings: list[str] = []
    users: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if fault := _fault(number, text, users):
            warnings.append(f"{field}: line {number} is passed over: {fault}")
    if not users:
        detail = f" ({warnings[0].partition(': ')[2]})" if warnings else ""
        raise RefusedError(
            Reason.INVALID_REF,
            f"{field}: holds no usable account{detail}: write lines such as alice:$argon2id$..., made by"
            " postroad htpasswd alice, htpasswd -nB alice or argon2",
        )
    without = [number for number, digest in users.values() if not digest.startswith(scram_keys.SCHEME)]
    if len(without) < len(users) and without:
        warnings.append(
            f"{field}: SCRAM-SHA-256 is offered, but {len(without)} account(s) have no SCRAM keys"
            f" (line {_some(without)}): a client that chooses SCRAM cannot log in as them: make keys with"
            " postroad htpasswd --scheme scram"
        )
    return warnings


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:3])) + (", ..." if len(numbers) > 3 else "")


def _fault(number: int, line: str, users: dict[str, tuple[int, str]]) -> str:
    user, _, rest = line.partition(":")
    digest, addresses = scram_keys.split_hash(rest)
    if not user or not rest:
        return "not user:hash"
    if user in users:
        return f"the user of line {users[user][0]} again"
    if digest.startswith(f"{scram_keys.SCHEME}$"):
        try:
            scram_keys.parse(digest)
        except ValueError as error:
            return str(error)
    elif not _HASH.fullmatch(digest):
        return "the hash is neither argon2, bcrypt nor SCRAM-SHA-256"
    if addresses and not all(_ADDRESS.fullmatch(address.strip()) for address in addresses.split(",")):
        return "the addresses are not a comma-separated list"
    users[user] = number, digest
    return ""
