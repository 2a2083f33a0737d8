"""Which hosts take mail for a domain, and in what order (RFC 5321 section 5.1, RFC 7505). Pure.

The steps: ask the DNS for MX, :func:`exchangers` reads the answer, ask for the hosts' addresses,
:func:`arrange` puts them in order. Whatever stops this on the way is a :class:`NoExchanger`, permanent or
temporary by its reply.

======================================  =========  ==========================================
what the DNS says                       reply      source
======================================  =========  ==========================================
NXDOMAIN                                550 5.1.2  RFC 3463
null MX                                 556 5.1.10 RFC 7505 section 5
SERVFAIL, timeout                       451 4.4.3  RFC 3463
no MX and no address                    550 5.1.2  RFC 3463
MX hosts, none of which has an address  550 5.4.4  RFC 5321 section 5.1
the best MX is this server              554 5.4.6  RFC 5321 section 5.1, RFC 3463
======================================  =========  ==========================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, zip_longest
from operator import attrgetter
from random import Random

from postroad_transport.policy.reply import Reply


class NoSuchDomainError(Exception):
    """The name does not exist (NXDOMAIN): a permanent answer."""


class LookupFailedError(Exception):
    """The DNS gave no usable answer (SERVFAIL, REFUSED, timeout): ask again later."""


@dataclass(frozen=True, slots=True)
class MailExchanger:
    """One MX record: lower-case host without a final dot (empty for a null MX, RFC 7505) and preference."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class NoExchanger:
    """No host to send to. A 4xx `reply`: for now; a 5xx: for good."""

    reply: Reply


Addresses = tuple[str, ...] | NoSuchDomainError | LookupFailedError
"""The addresses of a host, or why there are none."""


def unanswered(domain: str, error: NoSuchDomainError | LookupFailedError) -> NoExchanger:
    """Return what a failed MX lookup means for mail to `domain`."""
    if isinstance(error, NoSuchDomainError):
        return NoExchanger(Reply(550, "5.1.2", f"Domain {domain} does not exist"))
    return NoExchanger(Reply(451, "4.4.3", f"DNS lookup of {domain} failed: {error}"))


def exchangers(domain: str, records: Sequence[MailExchanger]) -> tuple[MailExchanger, ...] | NoExchanger:
    """Return the hosts that an MX answer names; the domain itself where there are none (the implicit MX).

    A null MX beside real ones breaks RFC 7505 section 3 and is passed over.
    """
    named = tuple(record for record in records if record.host)
    if named:
        return named
    if records:
        return NoExchanger(Reply(556, "5.1.10", f"Domain {domain} does not accept mail (null MX)"))
    return (MailExchanger(0, domain),)


def arrange(
    domain: str,
    hosts: Sequence[MailExchanger],
    addresses: Mapping[str, Addresses],
    *,
    is_local: Callable[[str], bool],
    random: Random,
) -> list[tuple[str, str]] | NoExchanger:
    """Return ``(host, address)`` pairs in the order in which to try them.

    Best preference first, shuffled at equal preference. From the first preference that holds this server on,
    everything is left out, so that mail cannot loop.

    Parameters
    ----------
    domain
        The recipients' domain, for the reply.
    hosts
        What :func:`exchangers` returned.
    addresses
        The answer for every host in `hosts`.
    is_local
        Whether a host name or an address is this server's.
    random
        Source of the shuffle.
    """
    pairs: list[tuple[str, str]] = []
    unsure: LookupFailedError | None = None
    for _, group in groupby(sorted(hosts, key=attrgetter("preference")), key=attrgetter("preference")):
        level = list(group)
        if any(_points_here(record.host, addresses[record.host], is_local) for record in level):
            if pairs or unsure:
                break
            return NoExchanger(Reply(554, "5.4.6", f"Mail for {domain} loops back to this server"))
        random.shuffle(level)
        for record in level:
            found = addresses[record.host]
            if isinstance(found, LookupFailedError):
                unsure = found
            elif not isinstance(found, NoSuchDomainError):
                pairs.extend((record.host, address) for address in by_family(found))
    if pairs:
        return pairs
    if unsure is not None:
        return NoExchanger(Reply(451, "4.4.3", f"No address yet for the mail hosts of {domain}: {unsure}"))
    if len(hosts) == 1 and hosts[0].host == domain:
        return NoExchanger(Reply(550, "5.1.2", f"Domain {domain} has no mail host"))
    return NoExchanger(Reply(550, "5.4.4", f"No mail host of {domain} has an address"))


def by_family(addresses: Sequence[str]) -> list[str]:
    """Return `addresses` with IPv6 and IPv4 taking turns, IPv6 first: a dead family costs one try in two."""
    six = [address for address in addresses if ":" in address]
    four = [address for address in addresses if ":" not in address]
    return [address for address in chain.from_iterable(zip_longest(six, four)) if address is not None]


def _points_here(host: str, found: Addresses, is_local: Callable[[str], bool]) -> bool:
    return is_local(host) or (isinstance(found, tuple) and any(map(is_local, found)))
