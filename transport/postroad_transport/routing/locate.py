"""From a destination to addresses: asks the resolvers, leaves the deciding to :mod:`~.mx`."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from random import Random

from postroad_transport.config import Host
from postroad_transport.policy.reply import Reply
from postroad_transport.routing.mx import (
    Addresses,
    LookupFailedError,
    MailExchanger,
    NoExchanger,
    NoSuchDomainError,
    arrange,
    by_family,
    exchangers,
    unanswered,
)
from postroad_transport.routing.resolver import Resolver

EXCHANGERS = 10
"""MX hosts looked at: the best ones. A domain that lists hundreds gets no more lookups out of us."""


async def locate_exchangers(
    domain: str, resolver: Resolver, *, is_local: Callable[[str], bool], random: Random
) -> list[tuple[str, str]] | NoExchanger:
    """Return the ``(host, address)`` pairs that take mail for `domain`, in the order in which to try them.

    `domain` may be an address literal (RFC 5321 section 4.1.3), which needs no lookup.
    """
    if domain.startswith("["):
        return _literal(domain, is_local)
    try:
        records = await resolver.mx(domain)
    except (NoSuchDomainError, LookupFailedError) as error:
        return unanswered(domain, error)
    hosts = exchangers(domain, records)
    if isinstance(hosts, NoExchanger):
        return hosts
    best = sorted(hosts, key=_preference)[:EXCHANGERS]
    names = list(dict.fromkeys(record.host for record in best))
    answers = await asyncio.gather(*(_addresses(name, resolver) for name in names))
    return arrange(domain, best, dict(zip(names, answers, strict=True)), is_local=is_local, random=random)


async def locate_hosts(hosts: Sequence[Host], resolver: Resolver) -> list[tuple[str, str, int]] | NoExchanger:
    """Return ``(host, address, port)`` of configured `hosts`, in their order.

    A host that cannot be found is passed over. When none can, mail waits, whatever the DNS says: the fault is in
    the configuration, and not the sender's.
    """
    found: list[tuple[str, str, int]] = []
    failure = ""
    for host, answer in zip(
        hosts, await asyncio.gather(*(_addresses(host.host, resolver) for host in hosts)), strict=True
    ):
        if isinstance(answer, tuple):
            found.extend((host.host, address, host.port) for address in by_family(answer))
        else:
            failure = str(answer)
    return found or NoExchanger(Reply(451, "4.4.3", f"Next hop not found: {failure or 'no address'}"))


async def _addresses(name: str, resolver: Resolver) -> Addresses:
    try:
        return (str(ipaddress.ip_address(name.strip("[]"))),)
    except ValueError:
        pass
    try:
        return await resolver.addresses(name)
    except (NoSuchDomainError, LookupFailedError) as error:
        return error


def _literal(domain: str, is_local: Callable[[str], bool]) -> list[tuple[str, str]] | NoExchanger:
    try:
        address = str(ipaddress.ip_address(domain.strip("[]").removeprefix("ipv6:")))
    except ValueError:
        return NoExchanger(Reply(550, "5.1.2", f"Not an address literal: {domain!a}"))
    if is_local(address):
        return NoExchanger(Reply(554, "5.4.6", f"Mail for {domain} loops back to this server"))
    return [(address, address)]


def _preference(record: MailExchanger) -> int:
    return record.preference
