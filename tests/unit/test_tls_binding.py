"""Channel bindings: both ends of a TLS session find the same, and no other session does."""

from __future__ import annotations

import datetime
import hashlib
import ssl
from pathlib import Path

import pytest
from certificate_kit import shake
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from postroad_transport.tls import native
from postroad_transport.tls.binding import binding, end_point, end_point_of_chain
from postroad_transport.tls.server import server_context


def certificate(key: ec.EllipticCurvePrivateKey, algorithm: hashes.HashAlgorithm) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.example")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(key, algorithm)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("binding")
    key = ec.generate_private_key(ec.SECP256R1())
    chain, secret = directory / "chain", directory / "key"
    chain.write_bytes(certificate(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM) * 2)
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, secret


def session(files, version: ssl.TLSVersion, *, asks: bool = False) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return both ends of a session: server, client."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    client, server = shake(server_context(*files, asks=asks), context)
    return server, client


@pytest.mark.parametrize(
    ("kind", "version"),
    [("tls-exporter", ssl.TLSVersion.TLSv1_3), ("tls-unique", ssl.TLSVersion.TLSv1_2)],
)
@pytest.mark.parametrize("asks", [False, True])
def test_both_ends_agree_and_no_two_sessions_do(files, kind, version, asks):
    if kind == "tls-exporter" and native._library() is None:
        pytest.skip("this Python keeps OpenSSL's exporter out of reach")
    found = []
    for _ in range(2):
        server, client = session(files, version, asks=asks)
        data = binding(server, kind, None)
        assert data
        assert data == binding(client, kind, None)
        found.append(data)
    assert found[0] != found[1]
    assert None not in found


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("tls-exporter", ssl.TLSVersion.TLSv1_2),
        ("tls-unique", ssl.TLSVersion.TLSv1_3),
        ("tls-server-end-point", ssl.TLSVersion.TLSv1_3),
        ("tls-unique-for-telnet", ssl.TLSVersion.TLSv1_2),
    ],
)
def test_a_kind_that_the_session_has_not_is_none(files, kind, version):
    server, _ = session(files, version)
    assert binding(server, kind, None) is None


def test_the_end_point_is_the_hash_of_the_first_certificate_by_its_own_algorithm(files):
    chain = files[0].read_bytes()
    server, client = session(files, ssl.TLSVersion.TLSv1_3)
    presented = client.getpeercert(True)
    expected = hashlib.sha384(presented).digest()
    assert end_point(presented) == end_point_of_chain(b"comment\n" + chain) == expected
    assert binding(server, "tls-server-end-point", expected) == expected
    with pytest.raises(ValueError, match="no certificate"):
        end_point_of_chain(b"")


def test_no_exporter_where_the_session_cannot_be_proven_to_be_one(files, monkeypatch):
    server, _ = session(files, ssl.TLSVersion.TLSv1_3)
    monkeypatch.setattr(native, "_pointer", lambda held_by, offset: id(held_by))
    if (library := native._library()) is not None:
        monkeypatch.setattr(library, "SSL_get_SSL_CTX", lambda session: 1)
    assert native.export(server, b"EXPORTER-Channel-Binding", 32) is None
    monkeypatch.setattr(native, "_library", lambda: None)
    assert native.export(server, b"EXPORTER-Channel-Binding", 32) is None
