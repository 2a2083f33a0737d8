"""Certificates and trusted stores for tests of direct trust."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from postroad_transport.config import Certificate, DirectTrust, Principal, TrustedServer
from postroad_transport.config.files import SECRETS_DIRECTORY

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Party:
    """Someone with a certificate."""

    name: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def thumbprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def files(self, directory: Path) -> tuple[str, str]:
        """Write certificate and key where a configuration's secrets lie; return the files' names."""
        secrets = directory / SECRETS_DIRECTORY
        secrets.mkdir(exist_ok=True)
        names = f"{self.name}.{self.thumbprint[:12]}.crt", f"{self.name}.{self.thumbprint[:12]}.key"
        (secrets / names[0]).write_text(self.pem)
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (secrets / names[1]).write_bytes(key)
        return names

    def listening(self, directory: Path) -> ssl.SSLContext:
        """Return a server's context that presents the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*(directory / SECRETS_DIRECTORY / name for name in self.files(directory)))
        return context


def party(
    name: str, *, issuer: Party | None = None, expired: bool = False, authority: bool = False, client: bool = True
) -> Party:
    """Make a certificate: self-signed, or issued by `issuer`; without `client` it is for servers only."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    end = now - DAY if expired else now + DAY
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else [])]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - 5 * DAY)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    )
    return Party(name, builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def trust(directory: Path, own: Party, **servers: Party) -> DirectTrust:
    """Return a store in which `own` is presented, and each of `servers` is known: hub..., edge... by their names."""
    chain_file, key_file = own.files(directory)
    identity = Certificate(
        name="server",
        source="",
        thumbprint=own.thumbprint,
        dns_names=(),
        self_signed=True,
        not_before=0.0,
        not_after=0.0,
        chain_file=chain_file,
        key_file=key_file,
    )
    return DirectTrust(identity=identity, servers=tuple(_entry(name, server) for name, server in servers.items()))


def _entry(name: str, server: Party) -> TrustedServer:
    principal = Principal.EDGE_TRANSPORT_SERVERS if name.startswith("edge") else Principal.HUB_TRANSPORT_SERVERS
    return TrustedServer(
        thumbprint=server.thumbprint,
        principal=principal,
        source=f"TransportCertificate/mail/{name}",
        certificate=server.pem,
        not_after=server.certificate.not_valid_after_utc.timestamp(),
    )
