"""Automatic bans after failed logins. Pure: a subject's record and the time in, a new record or a verdict out.

Two kinds of subject are counted, each for itself on each connector:

- An *address* (an IPv6 one stands for its /64) that fails too often is banned: it cannot log in.
- An *account* that fails too often, from wherever, is closed to addresses that it has not been used from lately. Its
  usual addresses go on: otherwise anybody could lock a user out by failing in their name.

A ban lasts its time, whatever else is tried meanwhile; then the count begins anew. A success takes no failure back,
or else one good account would let its owner guess at the others for ever.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple
from unicodedata import category, normalize

from postroad_transport.config import Bans
from postroad_transport.policy.networks import Network, holds, parse_address

#: Seconds for which an address counts as usual for an account after a login.
USUAL_FOR = 30 * 86_400.0
_LONGEST_ACCOUNT = 128


class Record(NamedTuple):
    """What is known of one subject. Times are seconds since the epoch."""

    failures: tuple[float, ...] = ()
    """When it failed within the window, oldest first; never more than the limit."""
    since: float = 0.0
    until: float = 0.0
    """The ban lasts from `since` to `until`; both 0: none."""


NOTHING = Record()


def is_banned(record: Record, now: float) -> bool:
    """Tell whether the ban stands. A clock that was set back ends it: better than one that never ends."""
    return record.since <= now < record.until


def recent_failures(record: Record, now: float, window: float) -> tuple[float, ...]:
    """Return the failures that count at `now`."""
    return tuple(time for time in record.failures if now - window < time <= now)


def after_failure(record: Record, now: float, limit: int, bans: Bans) -> Record:
    """Return the record after one more failed login.

    Parameters
    ----------
    limit
        Failures within ``bans.window`` that ban the subject; 0: it is never banned, and nothing is recorded.
    """
    if not limit or is_banned(record, now):
        return record
    failures = (*recent_failures(record, now, bans.window), now)[-limit:]
    if len(failures) < limit:
        return Record(failures)
    return Record((), now, now + bans.duration)


def address_subject(ip: str) -> str:
    """Return what an address is counted as: itself, or its /64; an IPv4-mapped one is IPv4."""
    address = parse_address(ip)
    if address is None:
        return ip
    version, number = address
    if version == 4:
        return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
    words = [f"{number >> shift & 0xFFFF:x}" for shift in (112, 96, 80, 64)]
    return ":".join(words) + "::/64"


def account_subject(name: str) -> str:
    """Return what an account is counted as, whether or not it exists: bounded, and in one form.

    Directories take names for the same that differ in case, blanks, invisible or compatible characters (RFC 4518
    section 2): with a new spelling each time nobody could be counted.
    """
    folded = normalize("NFKC", name).casefold()
    if not folded.isascii() or not folded.isprintable() or " " in folded:
        visible = "".join(character for character in folded if category(character)[0] not in "CZ")
        folded = normalize("NFKC", visible).casefold()
    if len(folded) <= _LONGEST_ACCOUNT:
        return folded
    return f"{folded[:32]}...{hashlib.sha256(folded.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def is_allowed(ip: str, ranges: tuple[Network, ...]) -> bool:
    """Tell whether `ip` is in a range that is never banned."""
    address = parse_address(ip)
    return address is not None and any(holds(network, address) for network in ranges)
