"""Real peers: Postfix as client and as server, swaks, openssl."""

from __future__ import annotations

import email
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mail_sink import mail_sink
from postfix_kit import postfix
from running_tier import PASSWORD, Manifests, Tier, free_port, wait_for

pytestmark = pytest.mark.skipif(
    shutil.which("postfix") is None or shutil.which("swaks") is None,
    reason="needs Debian's postfix and swaks (apt-get install postfix libsasl2-modules swaks libnet-ssleay-perl)",
)


def test_postfix_relays_through_us_with_starttls_and_auth(
    manifests: Manifests, start_tier: Callable[..., Tier], postfix_home: Path
) -> None:
    tier = start_tier(manifests)
    ca = postfix_home / "ca.pem"
    shutil.copy(tier.run["ca"], ca)
    server = f"[127.0.0.1]:{manifests.submission}"
    settings = {
        "relayhost": server,
        "smtp_sasl_auth_enable": "yes",
        "smtp_sasl_password_maps": f"inline:{{{{{server} = alice@mail.example:{PASSWORD}}}}}",
        "smtp_sasl_security_options": "noanonymous",
        "smtp_tls_security_level": "secure",
        "smtp_tls_secure_cert_match": "mail.example",
        "smtp_tls_CAfile": str(ca),
    }
    with postfix(postfix_home / "instance", settings) as config:
        subprocess.run(
            ["sendmail", "-C", str(config), "-f", "alice@mail.example", "alice@mail.example"],
            input=b"From: alice@mail.example\nTo: alice@mail.example\nSubject: from postfix\n\nhello\n",
            check=True,
            timeout=30,
        )
        (stored,) = wait_for(tier.mailbox, timeout=30, what="Postfix's message")
    assert b"Subject: from postfix" in stored
    assert b"ESMTPSA" in stored
    # The header firewall: users hold no Accept-Headers-Routing (spec.md 1.3).
    assert b"(Postfix" not in stored
    assert stored.count(b"Received:") == 1
    assert stored.endswith(b"\n\nhello\n")


def test_postfix_takes_our_mail_as_a_smart_host_over_starttls(
    manifests: Manifests, start_tier: Callable[..., Tier], postfix_home: Path, tmp_path: Path
) -> None:
    certificate = postfix_home / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=postfix.example",
         "-keyout", str(certificate), "-out", str(postfix_home / "crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    with certificate.open("ab") as file:
        file.write((postfix_home / "crt").read_bytes())
    port = free_port()
    with mail_sink() as sink:
        settings = {
            "relayhost": f"[127.0.0.1]:{sink.port}",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": str(certificate),
            "smtpd_recipient_restrictions": "permit_mynetworks,reject",
        }
        with postfix(postfix_home / "instance", settings, port=port):
            manifests.smart_host(port)
            tier = start_tier(manifests)
            with tier.submit() as client:
                client.sendmail("alice@mail.example", ["bob@far.example"], b"Subject: out\r\n\r\nover postfix\r\n")
            wait_for(lambda: sink.recipients["bob@far.example"] == 1, timeout=30, what="the message behind Postfix")
            assert tier.metric("postroad_tls_handshakes_total", direction="out", result="ok") == 1
    assert b"with ESMTPS" in sink.bodies[0]


def test_postfix_without_8bitmime_is_sent_7_bit_mail(
    manifests: Manifests, start_tier: Callable[..., Tier], postfix_home: Path
) -> None:
    part = "Content-Type: {}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{}\r\n"
    text = part.format("text/plain; charset=utf-8", ".\r\nSchöne Grüße\r\n-- \r\nü")
    message = (
        'Subject: out\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="=_1"\r\n\r\n'
        f"--=_1\r\n{text}--=_1\r\n{part.format('application/x', 'ä' * 200)}--=_1--\r\n"
    ).encode()
    port = free_port()
    with mail_sink() as sink:
        settings = {
            "relayhost": f"[127.0.0.1]:{sink.port}",
            "smtpd_discard_ehlo_keywords": "8bitmime",
            "smtpd_recipient_restrictions": "permit_mynetworks,reject",
        }
        with postfix(postfix_home / "instance", settings, port=port):
            manifests.smart_host(port)
            tier = start_tier(manifests)
            with tier.submit() as client:
                client.sendmail("alice@mail.example", ["bob@far.example"], message, mail_options=["BODY=8BITMIME"])
            wait_for(lambda: sink.recipients["bob@far.example"] == 1, timeout=30, what="the message behind Postfix")
        (sent,) = wait_for(lambda: [event for event in tier.events() if event["event"] == "SEND"], what="the event")
    assert sent["converted"] == "7BIT"
    assert sink.bodies[0].isascii()
    before, after = email.message_from_bytes(message), email.message_from_bytes(sink.bodies[0])
    for given, arrived in zip(before.get_payload(), after.get_payload(), strict=True):
        assert arrived.get_payload(decode=True) == given.get_payload(decode=True)
        assert arrived["Content-Type"] == given["Content-Type"]
    encodings = [arrived["Content-Transfer-Encoding"] for arrived in after.get_payload()]
    assert encodings == ["quoted-printable", "base64"]


def swaks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["swaks", "--from", "alice@mail.example", "--to", "alice@mail.example", "--timeout", "20", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_swaks_sends_with_every_mechanism_over_every_kind_of_tls(
    manifests: Manifests, start_tier: Callable[..., Tier], mechanism: str, tls: str
) -> None:
    tier = start_tier(manifests)
    port = manifests.submission if tls == "starttls" else manifests.smtps
    option = "--tls" if tls == "starttls" else "--tls-on-connect"
    verify = ["--tls-verify", "--tls-ca-path", tier.run["ca"], "--tls-verify-target", "mail.example"]
    login = ["--auth", mechanism, "--auth-user", "alice@mail.example", "--auth-password", PASSWORD]
    plain = swaks("--server", f"127.0.0.1:{port}", option, *login)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    wait_for(tier.mailbox, what="swaks' message")
    help_text = subprocess.run(["swaks", "--help"], capture_output=True, text=True, check=False).stdout
    if "--tls-verify-target" in help_text:
        verified = swaks("--server", f"127.0.0.1:{port}", option, *verify, *login)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    bad = swaks("--server", f"127.0.0.1:{port}", option, "--auth", mechanism, "--auth-user", "alice@mail.example",
                "--auth-password", "wrong")  # fmt: skip
    assert "535 5.7.3 Authentication unsuccessful" in bad.stdout
    assert bad.returncode == 28


def test_swaks_without_tls_is_told_to_start_it(manifests: Manifests, start_tier: Callable[..., Tier]) -> None:
    start_tier(manifests)
    answer = swaks("--server", f"127.0.0.1:{manifests.submission}")
    assert "451 5.7.3 Must issue a STARTTLS command first" in answer.stdout


@pytest.mark.parametrize(("port", "option"), [("submission", ["-starttls", "smtp"]), ("smtps", [])])
def test_openssl_verifies_the_certificate_for_the_shared_name(
    manifests: Manifests, start_tier: Callable[..., Tier], port: str, option: list[str]
) -> None:
    tier = start_tier(manifests)
    answer = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{getattr(manifests, port)}", *option, "-brief",
         "-CAfile", tier.run["ca"], "-verify_hostname", "mail.example", "-verify_return_error"],
        input=b"QUIT\r\n", capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    text = (answer.stdout + answer.stderr).decode()
    assert "Verification: OK" in text
    assert "Verified peername: mail.example" in text
    assert "TLSv1.3" in text
