"""AUTH EXTERNAL in a running tier: curl and openssl with client certificates, good, bad and none."""

from __future__ import annotations

import base64
import datetime
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from running_tier import Manifests, Tier, document, free_port, wait_for

DAY = datetime.timedelta(days=1)


class Authority:
    """Issues client certificates."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._builder(self.name, self.key, DAY).sign(self.key, hashes.SHA256())

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, directory: Path, file: str, email: str, *, until: datetime.timedelta = DAY) -> x509.Certificate:
        """Write certificate and key to `file` in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([]), key, until)
        names = x509.SubjectAlternativeName([x509.RFC822Name(email)])
        made = builder.add_extension(names, critical=True).sign(self.key, hashes.SHA256())
        (directory / file).write_bytes(
            made.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return made

    def revoke(self, *certificates: x509.Certificate) -> str:
        """Return a list of revoked certificates in PEM."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
        builder = builder.last_update(now - DAY).next_update(now + DAY)
        for certificate in certificates:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now - DAY).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime.timedelta
    ) -> x509.CertificateBuilder:
        end = datetime.datetime.now(datetime.UTC) + until
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - 3 * DAY)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=key is self.key, path_length=None), critical=True)
        )


@dataclass
class Site:
    tier: Tier
    port: int
    directory: Path

    def curl(self, certificate: str, recipient: str = "nobody") -> subprocess.CompletedProcess[str]:
        """Submit a message from alice; `certificate` is a file, or empty."""
        message = self.directory / "message"
        message.write_text("From: alice@mail.example\r\nSubject: external\r\n\r\nhello\r\n")
        command = ["curl", "--silent", "--show-error", "--verbose", "--max-time", "30", "--ssl-reqd", "--ipv4"]
        command += ["--cacert", self.tier.run["ca"], "--url", f"smtp://localhost:{self.port}/client.example"]
        command += ["--mail-from", "alice@mail.example", "--mail-rcpt", f"{recipient}@mail.example"]
        command += ["--user", "alice@mail.example:", "--login-options", "AUTH=EXTERNAL"]
        if certificate:
            command += ["--cert", str(self.directory / certificate)]
        return subprocess.run([*command, "--upload-file", str(message)], capture_output=True, text=True, check=False)

    def refused(self, reason: str) -> bool:
        """Wait for the event of a refused login."""
        return bool(
            wait_for(
                lambda: any(
                    (event.get("event"), event.get("reason")) == ("auth.failed", reason)
                    for event in self.tier.events()
                ),
                what=f"a login refused for {reason}",
            )
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("external")
    ours, theirs = Authority("Ours"), Authority("Theirs")
    ours.issue(directory, "alice.pem", "alice@mail.example")
    ours.issue(directory, "mallory.pem", "mallory@mail.example")
    ours.issue(directory, "old.pem", "alice@mail.example", until=-DAY)
    theirs.issue(directory, "strange.pem", "alice@mail.example")
    stolen = ours.issue(directory, "stolen.pem", "alice@mail.example")
    manifests, port = Manifests(directory / "manifests"), free_port()
    trust = {"ca.pem": ours.pem, "crl.pem": ours.revoke(stolen)}
    manifests.put(
        "clients", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "clients"}, "data": trust}
    )
    spec = {
        "usage": "Client",
        "fqdn": "localhost",
        "bindings": [{"port": port}],
        "authMechanisms": ["TLS"],
        "requireTLS": True,
        "authentication": {
            "clientCertificates": {
                "caBundleConfigMapRef": {"name": "clients", "key": "ca.pem"},
                "revocation": {"crlConfigMapRef": {"name": "clients", "key": "crl.pem"}},
            }
        },
        "limits": {"tarpit": "0s"},
    }
    manifests.put("external", document("ReceiveConnector", "external", spec))
    tier = Tier(manifests, directory / "state", workers=1).start()
    try:
        yield Site(tier, port, directory)
    finally:
        tier.stop()


def test_curl_submits_with_a_client_certificate_and_no_password(site: Site):
    done = site.curl("alice.pem", "bob")
    assert done.returncode == 0, done.stderr
    assert "250 AUTH EXTERNAL" in done.stderr
    (message,) = wait_for(lambda: site.tier.mailbox("bob"), what="the message")
    assert b"X-MS-Exchange-Organization-AuthAs: Internal" in message
    assert site.tier.metric("postroad_authentications_total", mechanism="EXTERNAL", result="ok") == 1


def test_external_is_offered_to_nobody_else_and_the_session_goes_on_without(site: Site):
    done = site.curl("")
    assert "SSL connection using" in done.stderr
    assert "EXTERNAL" not in done.stderr.replace("AUTH=EXTERNAL", "")
    assert "530 5.7.1" in done.stderr or done.returncode == 67


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [("strange.pem", "untrusted"), ("old.pem", "expired"), ("stolen.pem", "revoked")],
)
def test_certificate_that_is_not_good_is_refused_after_the_handshake(site: Site, certificate: str, reason: str):
    done = site.curl(certificate)
    assert "535 5.7.3" in done.stderr
    assert done.returncode != 0
    assert site.refused(reason)


def test_certificate_of_somebody_else_does_not_act_as_alice(site: Site):
    assert "535 5.7.3" in site.curl("mallory.pem").stderr
    assert site.refused("authorization_identity")


def test_openssl_logs_in_with_and_without_an_authorization_identity(site: Site):
    for identity in ("=", base64.b64encode(b"alice@mail.example").decode()):
        command = ["openssl", "s_client", "-starttls", "smtp", "-quiet", "-crlf", "-ign_eof"]
        command += ["-connect", f"127.0.0.1:{site.port}", "-cert", str(site.directory / "alice.pem")]
        command += ["-key", str(site.directory / "alice.pem"), "-CAfile", site.tier.run["ca"]]
        dialogue = f"EHLO client.example\nAUTH EXTERNAL {identity}\nQUIT\n"
        done = subprocess.run(command, input=dialogue, capture_output=True, text=True, check=False, timeout=30)
        assert "235 2.7.0" in done.stdout, (done.stdout, done.stderr)
