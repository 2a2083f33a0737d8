"""The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt). Reads no byte beyond the header."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from typing import NamedTuple

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_LIMIT = 107
V2_LIMIT = 4096
"""Bytes of addresses and TLVs taken; the largest that load balancers send is far below."""

_SHORTEST = len(b"PROXY UNKNOWN\r\n")


class ProxyHeaderError(Exception):
    """There is no valid header; the connection is dropped without an answer."""


class Endpoint(NamedTuple):
    """The client as the proxy saw it."""

    host: str
    port: int


def parse_v1(line: bytes) -> Endpoint | None:
    """Return the client named in a version 1 line (CRLF included); None for UNKNOWN: the peer itself counts.

    Raises
    ------
    ProxyHeaderError
        The line is malformed.
    """
    if not line.endswith(b"\r\n") or len(line) > V1_LIMIT or not line.isascii():
        raise ProxyHeaderError("malformed version 1 line")
    words = line[:-2].decode("ascii").split(" ")
    if words[:2] == ["PROXY", "UNKNOWN"]:
        return None
    if len(words) != 6 or words[0] != "PROXY" or words[1] not in {"TCP4", "TCP6"}:
        raise ProxyHeaderError("malformed version 1 line")
    version = 4 if words[1] == "TCP4" else 6
    try:
        source, destination = ipaddress.ip_address(words[2]), ipaddress.ip_address(words[3])
        ports = [int(port) for port in words[4:] if port.isdigit() and (port == "0" or port[0] != "0")]
    except ValueError:
        raise ProxyHeaderError("malformed address") from None
    if source.version != version or destination.version != version:
        raise ProxyHeaderError("address of the other family")
    if len(ports) != 2 or max(ports) > 65535:
        raise ProxyHeaderError("malformed port")
    return Endpoint(str(source), ports[0])


def parse_v2(command_family: bytes, body: bytes) -> Endpoint | None:
    """Return the client of a version 2 header; None for LOCAL and for families without addresses.

    Parameters
    ----------
    command_family : bytes
        Bytes 13 and 14 of the header.
    body : bytes
        What follows the length: addresses, then TLVs.

    Raises
    ------
    ProxyHeaderError
        The header is malformed or of another version.
    """
    version_command, family = command_family
    if version_command not in {0x20, 0x21}:
        raise ProxyHeaderError("unknown version or command")
    if version_command == 0x20 or family == 0x00:
        return None
    layout = {0x11: "!4s4sHH", 0x21: "!16s16sHH"}.get(family)
    if layout is None:
        raise ProxyHeaderError("unsupported family or transport")
    if len(body) < struct.calcsize(layout):
        raise ProxyHeaderError("truncated address")
    source, _, port, _ = struct.unpack_from(layout, body)
    return Endpoint(str(ipaddress.ip_address(source)), port)


async def read_header(sock: socket.socket) -> Endpoint | None:
    """Read a header from a non-blocking socket that nothing was read from yet.

    Only the header is taken, so that whatever follows (a TLS hello, say) is left for the next reader.

    Raises
    ------
    ProxyHeaderError
        What came is not a header, or the peer closed.
    """
    # No header is shorter than the shortest version 1 line, so this much can be read at once.
    start = await _exactly(sock, _SHORTEST)
    if start.startswith(SIGNATURE):
        rest = await _exactly(sock, 1)
        length = int.from_bytes(start[14:15] + rest, "big")
        if length > V2_LIMIT:
            raise ProxyHeaderError("header too long")
        return parse_v2(start[12:14], await _exactly(sock, length))
    if not start.startswith(b"PROXY "):
        raise ProxyHeaderError("no header")
    line = bytearray(start)
    while not line.endswith(b"\n"):
        if len(line) >= V1_LIMIT:
            raise ProxyHeaderError("version 1 line too long")
        line += await _exactly(sock, 1)
    return parse_v1(bytes(line))


async def _exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = bytearray()
    while len(received) < count:
        piece = await loop.sock_recv(sock, count - len(received))
        if not piece:
            raise ProxyHeaderError("closed before the end of the header")
        received += piece
    return bytes(received)
