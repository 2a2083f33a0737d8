"""SCRAM with clients that people use: GNU SASL and msmtp."""

from __future__ import annotations

import asyncio
import datetime
import shutil

import pytest
from conftest import connector, tier_config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from postroad_transport.auth.scram_keys import derive
from postroad_transport.config import (
    Authentication,
    AuthMechanism,
    Certificate,
    Grant,
    Permission,
    Principal,
    ReceiveLimits,
)

pytestmark = pytest.mark.skipif(shutil.which("gsasl") is None, reason="needs Debian's gsasl (apt-get install gsasl)")

NAME = "localhost"


@pytest.fixture
async def tier(make_tier, tmp_path):
    """A tier with STARTTLS, the account ``user`` / ``pencil`` with SCRAM keys, and ``old`` / ``pencil`` without."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (secrets / "c.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (secrets / "c.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    lines = [
        f"user:{derive('pencil', iterations=4096)}",
        "old:$2b$04$abcdefghijklmnopqrstuuTi6yk6h5vNS5vQHj4UMi5g8hhtcSZTe",
    ]
    (secrets / "users").write_text("\n".join(lines))
    certificate = Certificate(
        name="c",
        source="TransportCertificate/mail/c",
        thumbprint="00",
        dns_names=(NAME,),
        self_signed=True,
        not_before=0.0,
        not_after=4e9,
        chain_file="c.crt",
        key_file="c.key",
    )
    served = connector(
        fqdn=NAME,
        authentication=Authentication(accounts_file="users"),
        auth_mechanisms=(AuthMechanism.TLS, AuthMechanism.BASIC_AUTH_REQUIRE_TLS),
        grants=(Grant(principal=Principal.AUTHENTICATED_USERS, permission=Permission.SUBMIT),),
        limits=ReceiveLimits(tarpit=0.01),
    )
    return await make_tier(config=tier_config(served, certificates=(certificate,)))


async def run(program: str, *arguments: str, message: bytes = b"") -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(message), 20)
    return process.returncode, output.decode(errors="replace")


def gsasl(tier, tmp_path, *arguments: str, user: str = "user", password: str = "pencil"):
    return run(
        "gsasl",
        "--smtp",
        "--starttls",
        f"--connect={NAME}:{tier.ports[0]}",
        f"--x509-ca-file={tmp_path / 'secrets' / 'c.crt'}",
        "--authentication-id=" + user,
        "--password=" + password,
        *arguments,
    )


PRIORITIES = {
    "TLSv1.3": ("--priority=NORMAL:-VERS-ALL:+VERS-TLS1.3",),
    "TLSv1.2": ("--priority=NORMAL:-VERS-ALL:+VERS-TLS1.2",),
}


@pytest.mark.parametrize(
    ("mechanism", "version"),
    [("SCRAM-SHA-256-PLUS", "TLSv1.3"), ("SCRAM-SHA-256-PLUS", "TLSv1.2"), ("SCRAM-SHA-256", "TLSv1.3")],
)
async def test_gnu_sasl_logs_in(tier, tmp_path, mechanism, version):
    """It binds with tls-exporter under TLS 1.3 and with tls-unique under TLS 1.2."""
    binding = () if mechanism.endswith("-PLUS") else ("--no-cb",)
    code, output = await gsasl(tier, tmp_path, f"--mechanism={mechanism}", *binding, *PRIORITIES[version])
    assert code == 0, output
    assert tier.count("postroad_authentications_total", mechanism=mechanism, result="ok") == 1


async def test_gnu_sasl_chooses_a_scram_by_itself(tier, tmp_path):
    code, output = await gsasl(tier, tmp_path)
    assert code == 0, output
    assert tier.count("postroad_authentications_total", mechanism="SCRAM-SHA-256-PLUS", result="ok") == 1


@pytest.mark.parametrize(("user", "password"), [("user", "Pencil"), ("nobody", "pencil"), ("old", "pencil")])
async def test_gnu_sasl_is_refused_without_the_password_or_the_keys(tier, tmp_path, user, password):
    code, output = await gsasl(tier, tmp_path, "--mechanism=SCRAM-SHA-256", "--no-cb", user=user, password=password)
    assert code != 0
    assert "535 5.7.3" in output
    assert tier.count("postroad_authentications_total", mechanism="SCRAM-SHA-256", result="failed") == 1


async def test_a_plain_client_logs_in_with_the_same_account(tier, tmp_path):
    code, output = await gsasl(tier, tmp_path, "--mechanism=PLAIN", "--no-cb")
    assert code == 0, output
    assert tier.count("postroad_authentications_total", mechanism="PLAIN", result="ok") == 1


@pytest.mark.skipif(shutil.which("msmtp") is None, reason="needs Debian's msmtp (apt-get install msmtp)")
async def test_msmtp_sends_with_scram(tier, tmp_path):
    code, output = await run(
        "msmtp",
        "--file=/dev/null",
        f"--host={NAME}",
        f"--port={tier.ports[0]}",
        "--tls=on",
        f"--tls-trust-file={tmp_path / 'secrets' / 'c.crt'}",
        "--auth=scram-sha-256",
        "--user=user",
        "--passwordeval=echo pencil",
        "--from=user@example.com",
        "someone@example.com",
        message=b"From: user@example.com\n\nHello\n",
    )
    assert code == 0, output
    assert tier.count("postroad_authentications_total", mechanism="SCRAM-SHA-256", result="ok") == 1
