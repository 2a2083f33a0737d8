"""Seeing whether a port is free before workers share it.

Workers bind with SO_REUSEPORT, which lets any process of the same user join in: a second tier on the same port
would silently take half of the connections. So the supervisor asks first, without that option.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

from postroad_transport.config import TierConfig

#: Seconds that an earlier tier's workers get to let go of their ports: more than their ``ORPHAN_GRACE``.
PATIENCE = 6.0


def bound_ports(config: TierConfig) -> set[int]:
    """Return the ports that `config` binds."""
    return {binding.port for connector in config.receive_connectors for binding in connector.bindings}


def taken(addresses: Iterable[str], ports: Iterable[int]) -> list[str]:
    """Return each ``address:port`` that cannot be bound, with the reason."""
    found = []
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in sorted(ports):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    probe.bind((address, port))
                except OSError as error:
                    found.append(f"{address}:{port}: {error.strerror}")
    return found


async def require_free(addresses: Iterable[str], ports: Iterable[int], *, patience: float = PATIENCE) -> None:
    """Wait until the ports are free.

    Raises
    ------
    OSError
        One still is not after `patience` seconds; the message names all of them.
    """
    addresses, ports = tuple(addresses), set(ports)
    deadline = asyncio.get_running_loop().time() + patience
    while problems := taken(addresses, ports):
        if asyncio.get_running_loop().time() >= deadline:
            raise OSError("cannot listen on " + "; ".join(problems))
        await asyncio.sleep(0.1)
