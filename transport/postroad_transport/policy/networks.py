"""IP addresses and ranges as policy compares them: an IPv4-mapped IPv6 address or range is IPv4."""

from __future__ import annotations

import ipaddress
import socket

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED_BITS = 96
_MAPPED_PREFIX = 0xFFFF


def parse_network(text: str) -> Network:
    """Return the network that a CIDR or an address names; host bits are ignored.

    Raises
    ------
    ValueError
        `text` is neither.
    """
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def parse_address(text: str) -> tuple[int, int] | None:
    """Return IP version and number of an address, its zone ignored; None where `text` is no address."""
    try:
        if ":" not in text:
            return 4, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
        number = int.from_bytes(socket.inet_pton(socket.AF_INET6, text.partition("%")[0]), "big")
    except (OSError, ValueError):
        return None
    if number >> 32 == _MAPPED_PREFIX:
        return 4, number & 0xFFFFFFFF
    return 6, number


def holds(network: Network, address: tuple[int, int]) -> bool:
    """Tell whether `network` holds an address that `parse_address` returned."""
    version, number = address
    shift = network.max_prefixlen - network.prefixlen
    return network.version == version and number >> shift == int(network.network_address) >> shift


def collapse(ranges: tuple[str, ...]) -> list[Network]:
    """Parse ranges of both families and join those that touch."""
    networks = [parse_network(text) for text in ranges]
    return [
        *ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv4Network)),
        *ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv6Network)),
    ]


def within(network: Network, others: list[Network]) -> bool:
    """Tell whether one of `others` holds all of `network`."""
    if isinstance(network, ipaddress.IPv4Network):
        return any(isinstance(other, ipaddress.IPv4Network) and network.subnet_of(other) for other in others)
    return any(isinstance(other, ipaddress.IPv6Network) and network.subnet_of(other) for other in others)
