"""Stapling on a running tier: OpenSSL's own responder on one side, its client on the other."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from ocsp_kit import Responder, authority
from partner_kit import Issued
from running_tier import Manifests, Tier, document, free_port, secret, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")]

NONE = "OCSP response: no response sent"
SUCCESS = ("OCSP Response Status: successful", "Cert Status: good")


def serve(manifests: Manifests, issued: Issued) -> None:
    """Have the tier present this certificate."""
    pem = {"tls.crt": issued.chain_pem.decode(), "tls.key": issued.key_pem.decode()}
    manifests.put("tls", {**secret("tls", **pem), "type": "kubernetes.io/tls"})
    spec = {"secretRef": {"name": "tls"}, "dnsNames": ["mail.example"]}
    manifests.put("cert", document("TransportCertificate", "mail", spec))


def seen(port: int, *options: str) -> str:
    """Return what a client that asks for the status has to say."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-status", *options]
    done = subprocess.run(command, input="QUIT\r\n", capture_output=True, text=True, check=False, timeout=30)
    assert "BEGIN CERTIFICATE" in done.stdout, done.stderr
    return done.stdout


def serial(issued: Issued) -> str:
    number = f"{issued.certificate.serial_number:X}"
    return f"Serial Number: {number.zfill(len(number) + len(number) % 2)}"


def reasons(tier: Tier) -> set[str]:
    return {event["reason"] for event in tier.events() if event["event"] == "ocsp.failed"}


def test_a_certificate_is_stapled_once_its_responder_is_up_and_never_when_it_was_revoked(
    tmp_path: Path, manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    responder = Responder(tmp_path / "responder", free_port())
    ca = authority(time.time(), responder.url)
    good, revoked = ca.issue("mail.example"), ca.issue("mail.example")
    signer = ca.issue("responder", usage=[ExtendedKeyUsageOID.OCSP_SIGNING])
    responder.publish(ca, signer, good, revoked=(revoked,))
    serve(manifests, good)
    tier = start_tier(manifests, workers=1)

    wait_for(lambda: tier.metric("postroad_ocsp_fetches_total", result="unreachable") >= 1, what="a failure")
    assert NONE in seen(manifests.mx, "-starttls", "smtp")

    with responder.running():
        # The first retry is ten seconds after the failure.
        wait_for(
            lambda: tier.metric("postroad_ocsp_staple_expiry_timestamp_seconds") > 0, timeout=30, what="a staple"
        )
        for version in ("-tls1_2", "-tls1_3"):
            for port, options in ((manifests.mx, ("-starttls", "smtp")), (manifests.smtps, ())):
                found = seen(port, version, *options)
                assert all(line in found for line in (*SUCCESS, serial(good))), found

        serve(manifests, revoked)
        wait_for(lambda: tier.metric("postroad_ocsp_fetches_total", result="revoked") >= 1, what="an answer")
        found = seen(manifests.mx, "-starttls", "smtp")
        assert NONE in found
        assert revoked.certificate.public_bytes(Encoding.PEM).decode() in found
    wait_for(lambda: reasons(tier) == {"unreachable", "revoked"}, what="events with the reasons, and no others")


def test_a_renewed_certificate_that_demands_a_response_is_never_seen_without_one(
    tmp_path: Path, manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    responder = Responder(tmp_path / "responder", free_port())
    ca = authority(time.time(), responder.url)
    ca.must_staple = True
    first, renewed = ca.issue("mail.example"), ca.issue("mail.example")
    responder.publish(ca, ca.issue("responder", usage=[ExtendedKeyUsageOID.OCSP_SIGNING]), first, renewed)
    serve(manifests, first)
    with responder.running():
        start_tier(manifests, workers=2)
        assert all(line in seen(manifests.smtps) for line in (*SUCCESS, serial(first)))
        serve(manifests, renewed)
        pem = renewed.certificate.public_bytes(Encoding.PEM).decode()

        def is_served() -> bool:
            found = seen(manifests.smtps)
            assert all(line in found for line in SUCCESS), found
            return pem in found

        wait_for(is_served, what="the renewed certificate")
