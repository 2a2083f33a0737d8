"""OCSP responses made to order, a client that asks for a stapled one, and OpenSSL's own responder."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from OpenSSL import SSL
from partner_kit import HOUR, Ca, Issued

GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
BY_NAME, BY_KEY = ocsp.OCSPResponderEncoding.NAME, ocsp.OCSPResponderEncoding.HASH


def authority(now: float, ocsp_url: str = "http://ocsp.example/") -> Ca:
    """Return an issuer below a root, whose certificates name a responder and come with its own."""
    return Ca("Issuer", now, parent=Ca("Root", now), ocsp_url=ocsp_url)


def response(
    ca: Ca,
    leaf: Issued,
    now: float,
    *,
    status: ocsp.OCSPCertStatus = GOOD,
    start: float = -HOUR,
    end: float | None = HOUR,
    signer: Issued | None = None,
    issuer: x509.Certificate | None = None,
    named: ocsp.OCSPResponderEncoding = BY_NAME,
    shown: Issued | None = None,
    digest: hashes.HashAlgorithm | None = None,
) -> bytes:
    """Make a response, good from `start` to `end` seconds from now.

    It is signed by `ca`, else by `signer`, with the certificate of the latter, else of `shown`, in it.
    """
    revoked = status is REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        leaf.certificate,
        issuer or ca.certificate,
        digest or hashes.SHA1(),
        status,
        datetime.fromtimestamp(now + start, UTC),
        None if end is None else datetime.fromtimestamp(now + end, UTC),
        datetime.fromtimestamp(now - HOUR, UTC) if revoked else None,
        None,
    )
    builder = builder.responder_id(named, signer.certificate if signer else ca.certificate)
    if signer is not None:
        builder = builder.certificates([(shown or signer).certificate])
    made = builder.sign(signer.key if signer else ca.key, hashes.SHA256())
    return made.public_bytes(Encoding.DER)


def stapled(server: Any, *, version: int = SSL.TLS1_3_VERSION, ciphers: str = "", name: str = "") -> bytes:
    """Go through a handshake over memory as a client that asks for the status; return what was stapled."""
    seen: list[bytes] = []
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    if ciphers:
        context.set_cipher_list(ciphers.encode())
    context.set_ocsp_client_callback(lambda _, got, __: seen.append(got) or True)
    client = SSL.Connection(context)
    client.set_connect_state()
    client.request_ocsp()
    if name:
        client.set_tlsext_host_name(name.encode())
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    engine = server.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            there.write(client.bio_read(65_536))
        with contextlib.suppress(ssl.SSLWantReadError):
            engine.do_handshake()
        if back.pending:
            client.bio_write(back.read())
    assert engine.version() is not None
    assert len(seen) == 1, "the client's callback runs once a handshake"
    return seen[0]


class Responder:
    """``openssl ocsp`` on loopback, for one issuer's certificates."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = directory, port
        self.url = f"http://127.0.0.1:{port}/"

    def publish(self, ca: Ca, signer: Issued, *good: Issued, revoked: tuple[Issued, ...] = ()) -> None:
        """Write what the responder reads when it starts."""
        self.directory.mkdir(exist_ok=True)
        (self.directory / "ca.pem").write_text(ca.pem)
        (self.directory / "signer.pem").write_bytes(signer.certificate.public_bytes(Encoding.PEM))
        key = signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.directory / "signer.key").write_bytes(key)
        ended = time.strftime("%y%m%d%H%M%SZ", time.gmtime(time.time() - HOUR))
        lines = [_line(item, "V", "") for item in good] + [_line(item, "R", ended) for item in revoked]
        (self.directory / "index.txt").write_text("".join(lines))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Answer while the block runs."""
        command = ["openssl", "ocsp", "-port", str(self.port), "-index", "index.txt", "-CA", "ca.pem", "-nmin", "60"]
        command += ["-rsigner", "signer.pem", "-rkey", "signer.key", "-ignore_err"]
        output = self.directory / "out"
        with output.open("wb") as out:
            process = subprocess.Popen(command, cwd=self.directory, stdout=out, stderr=out)
        try:
            # It is not to be tried: it serves one at a time, and is stuck with a connection that says nothing.
            deadline = time.monotonic() + 10
            while "waiting for OCSP client" not in output.read_text():
                assert process.poll() is None, output.read_text()
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.02)
            yield
        finally:
            process.kill()
            process.wait()


def _line(issued: Issued, status: str, ended: str) -> str:
    serial = f"{issued.certificate.serial_number:X}"
    serial = serial.zfill(len(serial) + len(serial) % 2)
    return f"{status}\t491231235959Z\t{ended}\t{serial}\tunknown\t/CN={serial}\n"
