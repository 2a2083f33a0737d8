"""SCRAM with clients that people use: GNU SASL and msmtp."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from login_kit import NAME, Pki, submission

from postroad_transport.auth.scram_keys import derive
from postroad_transport.config import Authentication, Grant, Permission, Principal

pytestmark = pytest.mark.skipif(shutil.which("gsasl") is None, reason="needs Debian's gsasl (apt-get install gsasl)")


@pytest.fixture
def pki(tmp_path) -> Pki:
    return Pki.make(tmp_path)


@pytest.fixture
async def tier(make_tier, pki):
    """A tier with STARTTLS, the account ``user`` / ``pencil`` with SCRAM keys, and ``old`` / ``pencil`` without."""
    lines = [
        f"user:{derive('pencil', iterations=4096)}",
        "old:$2b$04$abcdefghijklmnopqrstuuTi6yk6h5vNS5vQHj4UMi5g8hhtcSZTe",
    ]
    pki.chain_file.with_name("users").write_text("\n".join(lines))
    grants = (Grant(principal=Principal.AUTHENTICATED_USERS, permission=Permission.SUBMIT),)
    return await submission(make_tier, pki, Authentication(accounts_file="users"), grants=grants)


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


def gsasl(tier, pki, *arguments: str, user: str = "user", password: str = "pencil"):
    return run(
        "gsasl",
        "--smtp",
        "--starttls",
        f"--connect={NAME}:{tier.ports[0]}",
        f"--x509-ca-file={pki.ca_file}",
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
async def test_gnu_sasl_logs_in(tier, pki, mechanism, version):
    """It binds with tls-exporter under TLS 1.3 and with tls-unique under TLS 1.2."""
    binding = () if mechanism.endswith("-PLUS") else ("--no-cb",)
    code, output = await gsasl(tier, pki, f"--mechanism={mechanism}", *binding, *PRIORITIES[version])
    assert code == 0, output
    assert tier.count("postroad_authentications_total", mechanism=mechanism, result="ok") == 1


async def test_gnu_sasl_chooses_a_scram_by_itself(tier, pki):
    code, output = await gsasl(tier, pki)
    assert code == 0, output
    assert tier.count("postroad_authentications_total", mechanism="SCRAM-SHA-256-PLUS", result="ok") == 1


@pytest.mark.parametrize(("user", "password"), [("user", "Pencil"), ("nobody", "pencil"), ("old", "pencil")])
async def test_gnu_sasl_is_refused_without_the_password_or_the_keys(tier, pki, user, password):
    code, output = await gsasl(tier, pki, "--mechanism=SCRAM-SHA-256", "--no-cb", user=user, password=password)
    assert code != 0
    assert "535 5.7.3" in output
    assert tier.count("postroad_authentications_total", mechanism="SCRAM-SHA-256", result="failed") == 1


async def test_a_plain_client_logs_in_with_the_same_account(tier, pki):
    code, output = await gsasl(tier, pki, "--mechanism=PLAIN", "--no-cb")
    assert code == 0, output
    assert tier.count("postroad_authentications_total", mechanism="PLAIN", result="ok") == 1


@pytest.mark.skipif(shutil.which("msmtp") is None, reason="needs Debian's msmtp (apt-get install msmtp)")
async def test_msmtp_sends_with_scram(tier, pki):
    code, output = await run(
        "msmtp",
        "--file=/dev/null",
        f"--host={NAME}",
        f"--port={tier.ports[0]}",
        "--tls=on",
        f"--tls-trust-file={pki.ca_file}",
        "--auth=scram-sha-256",
        "--user=user",
        "--passwordeval=echo pencil",
        "--from=user@example.com",
        "someone@example.com",
        message=b"From: user@example.com\n\nHello\n",
    )
    assert code == 0, output
    assert tier.count("postroad_authentications_total", mechanism="SCRAM-SHA-256", result="ok") == 1
