"""Which OCSP response goes with the certificate that a client gets: real engines over memory."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from ocsp_kit import stapled
from OpenSSL import SSL
from partner_kit import HOUR, Ca, Issued
from test_tls_presenting import NOW, TLS12, TLS13, client, shake

from postroad_transport.tls import native
from postroad_transport.tls.server import KeyPair, server_context

pytestmark = pytest.mark.skipif(native._library() is None, reason="this Python keeps OpenSSL's sessions out of reach")

RSA_ONLY, ECDSA_ONLY = "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"


def part(tag: int, content: bytes) -> bytes:
    size = len(content)
    return bytes([tag, size] if size < 128 else [tag, 0x82, *divmod(size, 256)]) + content


def response(content: bytes) -> bytes:
    """Return an OCSPResponse (RFC 6960 section 4.2.1) of some type with `content`."""
    return part(0x30, b"\x0a\x01\x00" + part(0xA0, part(0x30, b"\x06\x01\x2a" + part(0x04, content))))


class Shown:
    """Says in a response which certificate it was asked for."""

    def __init__(self) -> None:
        self.missing: set[str] = set()

    def staple(self, certificate: bytes) -> bytes | None:
        name = x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
        return None if name in self.missing else response(name.encode())


@pytest.fixture
def shown() -> Shown:
    return Shown()


def files(directory: Path, name: str, *, with_rsa: bool = False) -> KeyPair:
    ca = Ca("CA", NOW)
    issued = ca.issue(name)
    if with_rsa:
        key = rsa.generate_private_key(65537, 2048)
        issued = Issued(ca._build(name, key, ca, NOW - HOUR, NOW + HOUR, names=(name,)), key)
    chain, key_file = directory / f"{name}.crt", directory / f"{name}.key"
    chain.write_bytes(issued.certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(issued.key_pem)
    return KeyPair(chain, key_file)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("asks", [False, True])
def test_a_client_that_asks_gets_the_response_on_the_certificate(tmp_path, shown, version, asks):
    context = server_context(*files(tmp_path, "mail.example"), asks=asks, staple=shown.staple)
    assert stapled(context, version=version) == response(b"CN=mail.example")
    shown.missing.add("CN=mail.example")
    assert stapled(context, version=version) == b""


@pytest.mark.parametrize("asks", [False, True])
def test_each_of_two_certificates_side_by_side_has_its_own(tmp_path, shown, asks):
    beside = files(tmp_path, "rsa.example", with_rsa=True)
    context = server_context(*files(tmp_path, "ec.example"), beside=(beside,), asks=asks, staple=shown.staple)
    for ciphers, name in ((RSA_ONLY, b"CN=rsa.example"), (ECDSA_ONLY, b"CN=ec.example")):
        assert stapled(context, version=SSL.TLS1_2_VERSION, ciphers=ciphers) == response(name)
    assert stapled(context) == response(b"CN=ec.example")


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("asks", [False, True])
def test_the_response_is_on_the_certificate_for_the_name_that_was_asked(tmp_path, shown, version, asks):
    names = (("other.example", (files(tmp_path, "other.example"),)),)
    context = server_context(*files(tmp_path, "mail.example"), names=names, asks=asks, staple=shown.staple)
    assert stapled(context, version=version, name="other.example") == response(b"CN=other.example")
    assert stapled(context, version=version, name="mail.example") == response(b"CN=mail.example")


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_client_that_does_not_ask_gets_none_and_sessions_are_resumed(tmp_path, version):
    asked = []
    context = server_context(*files(tmp_path, "mail.example"), staple=asked.append)
    who = client(version)
    first, _ = shake(context, who)
    assert shake(context, who, session=first.session)[0].session_reused
    assert asked == []


def test_a_fault_in_finding_the_response_ends_no_handshake(tmp_path, caplog):
    def broken(_: bytes) -> bytes:
        raise RuntimeError("broken")

    context = server_context(*files(tmp_path, "mail.example"), staple=broken)
    assert stapled(context) == b""
    assert "cannot be stapled" in caplog.text


def test_without_openssl_in_reach_there_is_no_response_and_all_else_works(tmp_path, shown, monkeypatch):
    monkeypatch.setattr(native, "_library", lambda: None)
    context = server_context(*files(tmp_path, "mail.example"), staple=shown.staple)
    assert stapled(context) == b""


def test_many_handshakes_with_a_response_as_large_as_is_taken_leave_memory_alone(tmp_path):
    context = server_context(*files(tmp_path, "mail.example"), staple=lambda _: response(b"x" * 15_000))
    for _ in range(20):
        assert len(stapled(context)) > 15_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(300):
        stapled(context)
    # What leaked would be 4.5 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3_000
