"""Certificates and loopback handshakes for tests."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from typing import NamedTuple

from postroad_operator.certificates import CertificateRequest, KeySource, Material

NOW = 1_790_000_000.0
DAY = 86_400.0


def request(*names: str, source: KeySource = KeySource.CA, name: str = "mail", **fields) -> CertificateRequest:
    return CertificateRequest(
        name=name,
        source=f"TransportCertificate/default/{name}",
        dns_names=names,
        key_source=source,
        **fields,
    )


def write(directory: Path, material: Material, name: str = "mail") -> tuple[Path, Path]:
    chain, key = directory / f"{name}.crt", directory / f"{name}.key"
    chain.write_bytes(material.chain_pem)
    key.write_bytes(material.key_pem)
    return chain, key


class MemoryStore:
    """A certificate store that forgets with the test."""

    def __init__(self) -> None:
        self.bundles: dict[str, bytes] = {}

    def load(self, name: str) -> bytes | None:
        return self.bundles.get(name)

    def save(self, name: str, bundle: bytes) -> None:
        self.bundles[name] = bundle

    def names(self) -> tuple[str, ...]:
        return tuple(self.bundles)

    def remove(self, name: str) -> None:
        self.bundles.pop(name, None)


class Handshake(NamedTuple):
    peer: dict
    version: str
    cipher: str
    compression: str | None


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, dialled: str | None) -> Handshake:
    """Handshake over TCP on loopback and read a line; raise the client's error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            raw, _ = listener.accept()
            with contextlib.suppress(OSError), raw, server.wrap_socket(raw, server_side=True) as wrapped:
                wrapped.sendall(b"220 ready\r\n")
                wrapped.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as raw,
                client.wrap_socket(raw, server_hostname=dialled) as wrapped,
            ):
                assert wrapped.recv(64) == b"220 ready\r\n"
                return Handshake(wrapped.getpeercert(), wrapped.version(), wrapped.cipher()[0], wrapped.compression())
        finally:
            thread.join(10)


def shake(
    server: ssl.SSLContext,
    context: ssl.SSLContext,
    name: str | None = None,
    session: ssl.SSLSession | None = None,
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands over memory, and exchange a word, which brings the tickets of TLS 1.3; return client and server."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = context.wrap_bio(back, there, server_hostname=name, session=session)
    two = server.wrap_bio(there, back, server_side=True)
    for _ in range(3):
        for side in (one, two):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    two.write(b"220")
    assert one.read(3) == b"220"
    return one, two
