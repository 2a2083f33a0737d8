"""Certificates of a running tier: renewed under open sessions, requested by hand from an openssl CA."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import smtplib
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running_tier import Manifests, Tier, document, wait_for


@contextlib.contextmanager
def session(tier: Tier, context: ssl.SSLContext | None = None) -> Iterator[tuple[smtplib.SMTP, str]]:
    """Open a session under TLS at the MX port, certificate checked; yield it with the thumbprint that was shown."""
    with smtplib.SMTP("127.0.0.1", tier.manifests.mx, timeout=30) as client:
        client._host = "mail.example"
        client.starttls(context=context or tier.tls_context())
        sock = client.sock
        assert isinstance(sock, ssl.SSLSocket)
        certificate = sock.getpeercert(binary_form=True)
        assert certificate is not None
        yield client, hashlib.sha256(certificate).hexdigest()


def thumbprints(tier: Tier) -> list[str]:
    """Return what all workers serve; empty while they differ."""
    configz = json.loads(tier.http("/configz"))
    return list(configz["thumbprints"]) if configz["hash"] else []


def certificate(**spec: object) -> dict[str, object]:
    return document("TransportCertificate", "mail", {"dnsNames": ["mail.example", "localhost"], **spec})


def test_a_certificate_is_renewed_by_the_clock_while_a_session_is_open(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    # Renewal falls four seconds after issue.
    manifests.put("cert", certificate(ca={}, duration="1h", renewBefore="59m56s"))
    tier = start_tier(manifests)
    pids = tier.pids()
    with session(tier) as (client, before):
        client.ehlo("client.example")
        assert client.mail("bob@client.example")[0] == 250
        wait_for(lambda: thumbprints(tier) not in ([], [before]), timeout=30, what="a renewal")
        with session(tier) as (other, after):
            assert after != before
            assert other.noop()[0] == 250
        assert client.rcpt("alice@mail.example")[0] == 250
        assert client.data(b"Subject: across a renewal\r\n\r\nhello\r\n")[0] == 250
    wait_for(lambda: any(b"across a renewal" in message for message in tier.mailbox()), what="the message")
    assert tier.pids() == pids


@pytest.mark.skipif(shutil.which("openssl") is None, reason="NO OPENSSL: install it to request from a real CA")
def test_by_hand_from_the_printed_request_to_what_is_served(
    manifests: Manifests, start_tier: Callable[..., Tier], tmp_path: Path
) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    manifests.put("cert", certificate(request={}, subject={"O": "Example", "OU": ["Mail", "Hub"]}))
    tier = start_tier(manifests)
    state = ("--state-dir", str(tier.state_dir))
    wait_for(lambda: "certificates request" in tier.output.read_text(), what="the line that tells how")
    printed = tier.command("certificates", "request", *state, "mail")
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "mail.csr").write_text(printed.stdout)
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"),
        *("-subj", "/CN=Corporate CA", "-keyout", "ca.key", "-out", "ca.crt"),
    )
    openssl(
        *("x509", "-req", "-in", "mail.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", "20"),
        *("-copy_extensions", "copy", "-out", "mail.crt"),
    )
    signed = (tmp_path / "mail.crt").read_text()
    manifests.put("cert", certificate(request={"signedCertificate": signed}))
    served = wait_for(lambda: thumbprints(tier), what="the certificate to be served")
    corporate = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with session(tier, corporate) as (_, shown):
        assert [shown] == served
    # What cannot be served is told and changes nothing.
    manifests.put("cert", certificate(request={"signedCertificate": (tmp_path / "ca.crt").read_text()}))
    wait_for(lambda: "is for another key" in tier.output.read_text(), what="a refusal")
    with session(tier, corporate) as (_, shown):
        assert [shown] == served
    manifests.put("cert", certificate(request={"signedCertificate": signed}))
    # It is kept with its key: a restart serves it.
    tier.stop()
    tier.start()
    with session(tier, corporate) as (_, shown):
        assert [shown] == served
    listed = tier.command("certificates", "list", *state)
    assert shown in listed.stdout
    assert "SMTP" in listed.stdout
    missing = tier.command("certificates", "request", *state, "nobody")
    assert missing.returncode == 2
    assert "no request" in missing.stderr
