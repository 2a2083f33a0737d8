"""A running tier, looked at by those who look for weak TLS: sslscan, testssl.sh and openssl."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest
from running_tier import Manifests, Tier, document

SUITES = {
    *("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"),
    *(
        f"ECDHE-{key}-{cipher}"
        for key in ("ECDSA", "RSA")
        for cipher in ("AES256-GCM-SHA384", "AES128-GCM-SHA256", "CHACHA20-POLY1305")
    ),
}
GROUPS = {"X25519MLKEM768", "x25519", "secp256r1 (NIST P-256)", "secp384r1 (NIST P-384)"}
NOT_WEAK = {"OK", "INFO", "DEBUG"}
#: A private authority publishes no revocation lists, and testssl.sh's openssl may lack engines.
NOT_ABOUT_TLS = ("cert_revocation", "engine_problem", "old_fart", "scanTime")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"NO {program.upper()}: install it (Debian)")


@pytest.fixture(scope="module")
def tier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    """A tier with an ECDSA and an RSA certificate for its name, and one more for another name."""
    directory = tmp_path_factory.mktemp("tier")
    manifests = Manifests(directory / "manifests")
    spec = {"ca": {}, "privateKey": {"algorithm": "RSA"}}
    manifests.put("rsa", document("TransportCertificate", "mail-rsa", {"dnsNames": ["mail.example"], **spec}))
    manifests.put("other", document("TransportCertificate", "other", {"dnsNames": ["mail.other.example"], "ca": {}}))
    tier = Tier(manifests, directory / "state")
    try:
        yield tier.start()
    finally:
        tier.stop()


@needs("sslscan")
def test_sslscan_finds_nothing_weak(tier: Tier, tmp_path: Path) -> None:
    for mode, port in (([], tier.manifests.smtps), (["--starttls-smtp"], tier.manifests.submission)):
        output = tmp_path / f"{port}.xml"
        command = ["sslscan", f"--xml={output}", "--sni-name=mail.example", *mode, f"127.0.0.1:{port}"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        found = ElementTree.parse(output).getroot().find("ssltest")
        assert found is not None
        protocols = {
            f"{item.get('type')}{item.get('version')}": item.get("enabled") for item in found.iter("protocol")
        }
        assert {name for name, enabled in protocols.items() if enabled == "1"} == {"tls1.2", "tls1.3"}
        assert {item.get("cipher") for item in found.iter("cipher")} == SUITES
        groups = {item.get("name") for item in found.iter("group")}
        assert {"x25519", "secp256r1 (NIST P-256)"} <= groups <= GROUPS
        assert [item.get("supported") for item in found.iter("renegotiation")] == ["0"]
        assert {item.get("supported") for item in found.iter("compression")} <= {"0", None}
        assert {item.get("vulnerable") for item in found.iter("heartbleed")} == {"0"}


@needs("testssl")
def test_testssl_finds_nothing_weak(tier: Tier, tmp_path: Path) -> None:
    def scan(port: int, *mode: str) -> list[dict[str, str]]:
        output = tmp_path / f"{port}.json"
        # All of it takes minutes on a busy machine.
        command = ["testssl", "--quiet", "--warnings", "off", "--color", "0", "--nodns", "min", "--ip", "127.0.0.1"]
        command += ["--protocols", "--jsonfile", str(output), *mode, f"mail.example:{port}"]
        subprocess.run(command, check=False, capture_output=True, timeout=600, stdin=subprocess.DEVNULL, cwd=tmp_path)
        return list(json.loads(output.read_text()))

    manifests = tier.manifests
    with ThreadPoolExecutor() as threads:
        scans = (
            threads.submit(scan, manifests.smtps, "--std"),
            threads.submit(scan, manifests.submission, "-t", "smtp"),
        )
    for finished in scans:
        findings = {item["id"]: item for item in finished.result()}
        weak = [
            f"{name}: {item['severity']} {item['finding']}"
            for name, item in findings.items()
            if item["severity"] not in NOT_WEAK and not name.startswith(NOT_ABOUT_TLS)
        ]
        assert weak == []
        assert findings["TLS1_3"]["finding"].startswith("offered")
        assert findings["TLS1_1"]["finding"] == "not offered"


@needs("openssl")
@pytest.mark.parametrize(
    ("options", "signature"),
    [
        (("-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"), "RSA-PSS"),
        (("-tls1_3", "-sigalgs", "ecdsa_secp256r1_sha256"), "ECDSA"),
        (("-tls1_3",), "ECDSA"),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"), "RSA-PSS|RSA"),
        (("-tls1_2", "-sigalgs", "RSA+SHA256"), "RSA"),
        (("-tls1_2",), "ECDSA"),
    ],
)
def test_openssl_gets_the_certificate_of_the_kind_it_offers(tier: Tier, options: tuple, signature: str) -> None:
    said = s_client(tier, *options, "-servername", "mail.example", "-verify_hostname", "mail.example")
    assert re.search(rf"^Peer signature type: ({signature})$", said, re.MULTILINE), said


@needs("openssl")
def test_openssl_gets_the_certificate_of_the_name_it_asks_for(tier: Tier) -> None:
    for name in ("mail.example", "mail.other.example"):
        s_client(tier, "-servername", name, "-verify_hostname", name)
    said = s_client(tier, "-servername", "nobody.example", "-verify_hostname", "mail.example")
    assert "Verification: OK" in said


def s_client(tier: Tier, *options: str) -> str:
    """Connect with STARTTLS, the certificate checked; return what openssl says."""
    address = f"127.0.0.1:{tier.manifests.submission}"
    command = ["openssl", "s_client", "-connect", address, "-starttls", "smtp", "-verify_return_error"]
    command += ["-CAfile", tier.run["ca"], *options]
    done = subprocess.run(command, check=False, capture_output=True, timeout=30, input=b"QUIT\r\n")
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
