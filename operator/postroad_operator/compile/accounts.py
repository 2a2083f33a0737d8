"""Checks htpasswd content before it is served: a typo must not lock everybody out unnoticed."""

from __future__ import annotations

import re

from postroad_operator.compile.verdict import Reason, RefusedError

_HASH = re.compile(
    r"\$argon2(id|i|d)\$v=\d+\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+|\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}"
)
_ADDRESS = re.compile(r"(\*|[^@\s,:]+)@[^@\s,:]+")


def check_htpasswd(content: bytes, field: str) -> list[str]:
    """Return a warning for each line that cannot be used; hashes are never quoted.

    Lines are ``user:hash`` or ``user:hash:address,address``; empty lines and those that begin with # are passed
    over. Hashes are argon2 (RFC 9106) or bcrypt.

    Raises
    ------
    RefusedError
        No line can be used.
    """
    warnings: list[str] = []
    users: set[str] = set()
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if fault := _fault(text, users):
            warnings.append(f"{field}: line {number} is passed over: {fault}")
    if not users:
        detail = f" ({warnings[0].partition(': ')[2]})" if warnings else ""
        raise RefusedError(
            Reason.INVALID_REF,
            f"{field}: holds no usable account{detail}: write lines such as alice:$argon2id$..., made by"
            " htpasswd -nB alice or argon2",
        )
    return warnings


def _fault(line: str, users: set[str]) -> str:
    user, _, rest = line.partition(":")
    digest, _, addresses = rest.partition(":")
    if not user or not rest:
        return "not user:hash"
    if user in users:
        return f"the user {user} stands twice"
    if not _HASH.fullmatch(digest):
        return f"the hash of {user} is neither argon2 nor bcrypt"
    if addresses and not all(_ADDRESS.fullmatch(address.strip()) for address in addresses.split(",")):
        return f"the addresses of {user} are not a comma-separated list"
    users.add(user)
    return ""
