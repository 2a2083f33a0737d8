"""Authorities with revocation lists, certificates of partners, and a server of lists on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

HOUR = 3600.0


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@dataclass
class Issued:
    """A certificate with its key and the chain that is presented with it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[x509.Certificate, ...] = ()

    @property
    def chain_pem(self) -> bytes:
        return b"".join(c.public_bytes(Encoding.PEM) for c in (self.certificate, *self.above))

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def presented(self) -> list[bytes]:
        return [c.public_bytes(Encoding.DER) for c in (self.certificate, *self.above)]


@dataclass
class Ca:
    """An authority. ``crl_url``, ``ocsp_url`` and ``must_staple`` go into what it issues; ``revoked`` are serials."""

    name: str
    now: float
    crl_url: str = ""
    parent: Ca | None = None
    revoked: list[int] = field(default_factory=list)
    ocsp_url: str = ""
    must_staple: bool = False

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer = self.parent or self
        self.certificate = self._build(
            self.name, self.key, signer, self.now - HOUR, self.now + 1000 * HOUR, authority=True
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, *names: str, start: float = -HOUR, end: float = 100 * HOUR, usage: Any = None) -> Issued:
        """Issue for DNS names; `start` and `end` are seconds from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._build(
            names[0] if names else "nobody", key, self, self.now + start, self.now + end, names=names, usage=usage
        )
        return Issued(certificate, key, (self.certificate,) if self.parent else ())

    def _build(
        self,
        subject: str,
        key: ec.EllipticCurvePrivateKey,
        signer: Ca,
        start: float,
        end: float,
        *,
        names: tuple[str, ...] = (),
        usage: Any = None,
        authority: bool = False,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(signer.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_at(start))
            .not_valid_after(_at(end))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(san, critical=False)
        if not authority:
            purposes = usage or [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if (signer.crl_url and signer is not self) or (signer.crl_url and not authority):
            point = x509.DistributionPoint([x509.UniformResourceIdentifier(signer.crl_url)], None, None, None)
            builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
        if signer.ocsp_url and not authority:
            location = x509.UniformResourceIdentifier(signer.ocsp_url)
            access = x509.AuthorityInformationAccess(
                [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, location)]
            )
            builder = builder.add_extension(access, critical=False)
        if signer.must_staple and not authority:
            builder = builder.add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False)
        return builder.sign(signer.key, hashes.SHA256())

    def crl(
        self,
        *,
        start: float = -HOUR,
        end: float = HOUR,
        now: float | None = None,
        key: Any = None,
        extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> x509.CertificateRevocationList:
        """Make a list, valid from `start` to `end` seconds from now."""
        now = self.now if now is None else now
        builder = x509.CertificateRevocationListBuilder().issuer_name(_name(self.name)).last_update(_at(now + start))
        builder = builder.next_update(_at(now + end))
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_at(now - HOUR))
            builder = builder.add_revoked_certificate(entry.build())
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(key or self.key, hashes.SHA256())

    def crl_der(self, **fields: Any) -> bytes:
        return self.crl(**fields).public_bytes(Encoding.DER)


@dataclass
class CrlServer:
    """Serves ``files`` by path; a path that is not there is a 404, and nothing is answered while ``down``.

    ``answers`` are what responders say to what is posted.
    """

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    down: bool = False

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def crl_server() -> Iterator[CrlServer]:
    """Run the server in a thread."""
    state = CrlServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            if state.down:
                self.close_connection = True
                return
            if self.path in state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects[self.path])
                self.end_headers()
                return
            if self.command == "POST":
                content = state.answers[self.path](self.rfile.read(int(self.headers["Content-Length"])))
            else:
                content = state.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
