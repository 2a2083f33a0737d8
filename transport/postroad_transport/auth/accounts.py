"""Accounts from htpasswd lines: who may log in, and which addresses are theirs.

A line is ``user:hash`` or ``user:hash:address,address``; a hash that is SCRAM keys holds colons itself. Blank lines
and ``#`` comments are skipped. A bad line is left out and named in ``Accounts.problems``; it never takes the other
accounts with it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from postroad_transport.auth import scram_keys
from postroad_transport.auth.fair_queue import ANYBODY, Origin
from postroad_transport.auth.password_verifier import PasswordVerifier
from postroad_transport.auth.passwords import AuthUnavailableError, HashFormatError, check_format, decoy
from postroad_transport.auth.scram_keys import ScramKeys

__all__ = ["Account", "Accounts", "AuthUnavailableError", "parse_accounts"]


@dataclass(frozen=True, slots=True)
class Account:
    """A login name and the addresses it may send as, lower-case; ``*@example.com`` is a whole domain."""

    name: str
    addresses: tuple[str, ...] = ()
    owns_name: bool = True
    """Whether it may send as its name, too: not where users may choose their names."""


class Accounts:
    """A set of accounts. Read-only: a changed file makes a new one.

    ``problems`` holds one sentence for each line that was left out; it quotes the user name, never the hash.
    """

    def __init__(
        self,
        accounts: Mapping[str, tuple[Account, str]],
        problems: tuple[str, ...] = (),
        *,
        verifier: PasswordVerifier | None = None,
    ) -> None:
        self._accounts = dict(accounts)
        self._verifier = verifier or PasswordVerifier()
        self._decoy = decoy(_typical(encoded for _, encoded in self._accounts.values()))
        self._scram = {
            name: (scram_keys.parse(encoded), account)
            for name, (account, encoded) in self._accounts.items()
            if encoded.startswith(scram_keys.SCHEME)
        }
        shapes = Counter((keys.iterations, len(keys.salt)) for keys, _ in self._scram.values())
        self._usual_shape = shapes.most_common(1)[0][0] if shapes else (scram_keys.DEFAULT_ITERATIONS, 16)
        # The same in every worker, unknown outside, and another one only when the accounts change.
        hashes = sorted(encoded for _, encoded in self._accounts.values())
        self._secret = hashlib.sha256("\n".join(hashes).encode()).digest()
        self.problems = problems

    def __len__(self) -> int:
        return len(self._accounts)

    def __contains__(self, username: str) -> bool:
        return username in self._accounts

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Return the addresses listed for each login name."""
        return {name: account.addresses for name, (account, _) in self._accounts.items()}

    @property
    def have_scram_keys(self) -> bool:
        """Whether anybody can log in with SCRAM."""
        return bool(self._scram)

    def scram_keys(self, username: str) -> tuple[ScramKeys, Account | None]:
        """Return an account with its SCRAM keys; where there are none, keys that nobody has, always the same."""
        found = self._scram.get(username)
        if found is not None:
            return found
        iterations, length = self._usual_shape
        invented = hashlib.shake_256(self._secret + username.encode()).digest(64 + length)
        return ScramKeys(iterations, invented[64:], invented[:32], invented[32:64]), None

    async def verify(self, username: str, password: str, origin: Origin = ANYBODY) -> Account | None:
        """Return the account if the password is right. An unknown user costs as much as a wrong password.

        Raises
        ------
        AuthUnavailableError
            A transient fault; the client gets 454 4.7.0.
        """
        account, encoded = self._accounts.get(username, (None, self._decoy))
        good = await self._verifier.verify(username, password, encoded, origin)
        return account if good else None


def parse_accounts(htpasswd: bytes, *, verifier: PasswordVerifier | None = None) -> Accounts:
    """Read htpasswd lines. Total: what cannot be used ends up in ``problems``."""
    accounts: dict[str, tuple[Account, str]] = {}
    problems: list[str] = []
    for number, line in enumerate(htpasswd.split(b"\n"), start=1):
        try:
            parsed = _parse_line(line)
        except (HashFormatError, _LineError) as error:
            problems.append(f"line {number}: {error}")
            continue
        if parsed is None:
            continue
        account, encoded = parsed
        if account.name in accounts:
            problems.append(f"line {number}: user {account.name!r} is there already; the first line counts")
        else:
            accounts[account.name] = account, encoded
    return Accounts(accounts, tuple(problems), verifier=verifier)


class _LineError(ValueError):
    pass


def _parse_line(line: bytes) -> tuple[Account, str] | None:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise _LineError("not UTF-8") from None
    if not text or text.startswith("#"):
        return None
    name, colon, rest = text.partition(":")
    if not colon:
        raise _LineError("expected user:hash")
    if not name or "\0" in name:
        raise _LineError("the user name is empty or holds a NUL")
    encoded, owned = scram_keys.split_hash(rest)
    try:
        check_format(encoded)
    except HashFormatError as error:
        raise _LineError(f"user {name!r}: {error}") from None
    addresses = tuple(address for item in owned.split(",") if (address := item.strip().lower()))
    for address in addresses:
        local, at, domain = address.rpartition("@")
        if not (local and at and domain) or " " in address:
            raise _LineError(f"user {name!r}: {address!r} is not an address")
    return Account(name, addresses), encoded


def _typical(hashes: Iterable[str]) -> str:
    """Return one hash with the parameters that most accounts have, empty if there is none."""
    samples: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for encoded in hashes:
        parameters = check_format(encoded)
        samples.setdefault(parameters, encoded)
        counts[parameters] += 1
    return samples[counts.most_common(1)[0][0]] if counts else ""
