"""Ranges as the configuration holds them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Network

from postroad_operator.resources.scalars import networks


def cidrs(ranges: Iterable[str]) -> tuple[str, ...]:
    """Return normalised, unique CIDRs, IPv4 first. IPv4-mapped IPv6 becomes what clients are seen as: IPv4."""
    found = set()
    for text in ranges:
        for network in networks(text):
            if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
                found |= set(networks(f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}"))
            else:
                found.add(network)
    ordered = sorted(found, key=lambda item: (item.version, int(item.network_address), item.prefixlen))
    return tuple(map(str, ordered))
