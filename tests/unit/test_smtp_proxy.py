"""PROXY headers, both versions, from a socket byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.smtp.proxy import SIGNATURE, Endpoint, ProxyHeaderError, parse_v1, parse_v2, read_header


def v2(family: int, body: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(body)) + body


V4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + struct.pack("!HH", 4711, 25)
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") * 2 + struct.pack("!HH", 4711, 25)

GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n", Endpoint("192.0.2.7", 4711)),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 25\r\n", Endpoint("2001:db8::7", 4711)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    (v2(0x11, V4), Endpoint("192.0.2.7", 4711)),
    (v2(0x11, V4 + b"\x04\x00\x01x"), Endpoint("192.0.2.7", 4711)),
    (v2(0x21, V6), Endpoint("2001:db8::7", 4711)),
    (v2(0x00, b"", command=0x20), None),
    (v2(0x00, b"rest"), None),
]


async def read(data: bytes, *, pieces: int) -> tuple[Endpoint | None, bytes]:
    """Read a header sent in `pieces`; return it and what was left on the socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reading = asyncio.ensure_future(read_header(ours))
        step = max(1, len(data) // pieces)
        for start in range(0, len(data), step):
            theirs.send(data[start : start + step])
            await asyncio.sleep(0)
        theirs.shutdown(socket.SHUT_WR)
        endpoint = await asyncio.wait_for(reading, 5)
        return endpoint, ours.recv(1000)


@pytest.mark.parametrize(("header", "endpoint"), GOOD, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("pieces", [1, 5, 1000])
async def test_header_is_read_and_not_a_byte_more(header, endpoint, pieces):
    assert await read(header + b"\x16\x03\x01 hello", pieces=pieces) == (endpoint, b"\x16\x03\x01 hello")


@pytest.mark.parametrize(
    "header",
    [
        b"EHLO client.example\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25 6\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 65536\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 04711 25\r\n",
        b"PROXY TCP4 192.0.2.700 198.51.100.1 4711 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\n" + b"x" * 20,
        b"PROXY UDP4 192.0.2.7 198.51.100.1 4711 25\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        b"PROXY",
        v2(0x11, V4[:-1]),
        v2(0x31, b"x" * 216),
        v2(0x11, V4, command=0x31),
        v2(0x11, V4, command=0x22),
        v2(0x11, V4 + bytes(5000)),
        v2(0x11, V4)[:-3],
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_anything_else_is_refused(header):
    with pytest.raises(ProxyHeaderError):
        await read(header, pieces=1)


@given(line=st.binary(max_size=120))
def test_version_1_parser_raises_nothing_else(line):
    with contextlib.suppress(ProxyHeaderError):
        parse_v1(b"PROXY TCP4 " + line + b"\r\n")


@given(head=st.binary(min_size=2, max_size=2), body=st.binary(max_size=60))
def test_version_2_parser_raises_nothing_else(head, body):
    with contextlib.suppress(ProxyHeaderError):
        parse_v2(head, body)
