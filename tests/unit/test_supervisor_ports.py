"""Ports are asked for before workers share them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from postroad_transport.supervisor import ports


@pytest.fixture
def shared_port() -> Iterator[socket.socket]:
    """A listener as a worker has it: whoever sets SO_REUSEPORT too could join."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_a_port_that_another_tier_shares_counts_as_taken(shared_port: socket.socket) -> None:
    number = shared_port.getsockname()[1]
    assert ports.taken(["127.0.0.1"], [number]) == [f"127.0.0.1:{number}: Address already in use"]


async def test_waiting_ends_when_the_port_is_let_go(shared_port: socket.socket) -> None:
    number = shared_port.getsockname()[1]
    asyncio.get_running_loop().call_later(0.05, shared_port.close)
    await ports.require_free(["127.0.0.1"], [number])


async def test_a_port_that_stays_taken_is_named(shared_port: socket.socket) -> None:
    number = shared_port.getsockname()[1]
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{number}: Address already in use"):
        await ports.require_free(["127.0.0.1"], [number], patience=0.0)
