"""TLS contexts, tried with real handshakes on loopback."""

from __future__ import annotations

import ssl
import time

import pytest
from certificate_kit import handshake, request, write
from cryptography.hazmat.primitives import serialization as s

from postroad_operator.certificates import KeyAlgorithm, create_authority, issue, self_signed
from postroad_transport.config import TlsAuthLevel
from postroad_transport.config.files import ConfigError
from postroad_transport.tls.client import client_context, verify_name
from postroad_transport.tls.server import server_context

# Handshakes look at the machine's clock, so these certificates start from it.
NOW = time.time()
AUTHORITY = create_authority("Test CA", NOW)
OTHER = create_authority("Other CA", NOW)
TRUST = AUTHORITY.trust_pem.decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    material = issue(AUTHORITY, request("mail.example.com", "*.hub.example.com"), NOW)
    return server_context(*write(tmp_path_factory.mktemp("tls"), material))


@pytest.mark.parametrize("level", [None, TlsAuthLevel.ENCRYPTION_ONLY])
def test_opportunistic_levels_encrypt_and_verify_nothing(server, level):
    done = handshake(server, client_context(level), "whatever.example")
    assert done.version == "TLSv1.3"
    assert done.peer == {}


@pytest.mark.parametrize("level", [TlsAuthLevel.CERTIFICATE_VALIDATION, TlsAuthLevel.DOMAIN_VALIDATION])
@pytest.mark.parametrize("trust", ["", OTHER.trust_pem.decode()], ids=["system store only", "another authority"])
def test_an_untrusted_chain_is_refused(server, level, trust):
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        handshake(server, client_context(level, trust=trust), "mail.example.com")


@pytest.mark.parametrize("level", [TlsAuthLevel.CERTIFICATE_VALIDATION, TlsAuthLevel.DOMAIN_VALIDATION])
@pytest.mark.parametrize("dialled", ["elsewhere.example", "127.0.0.1", None])
def test_after_a_handshake_with_any_host_the_name_can_be_verified(server, level, dialled):
    done = handshake(server, client_context(level, trust=TRUST), dialled)
    for name in ("mail.example.com", "MAIL.example.com", "a.hub.example.com"):
        assert verify_name(done.peer, [name])
    for name in ("example.com", "hub.example.com", "a.b.hub.example.com", "elsewhere.example", "127.0.0.1"):
        assert not verify_name(done.peer, [name])


def test_a_self_signed_certificate_is_trusted_by_holding_it(tmp_path):
    material = self_signed(request("mail.example.com"), NOW)
    context = server_context(*write(tmp_path, material))
    level = TlsAuthLevel.DOMAIN_VALIDATION
    handshake(context, client_context(level, trust=material.chain_pem.decode()), "mail.example.com")
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        handshake(context, client_context(level, trust=TRUST), "mail.example.com")


def test_an_expired_certificate_is_served_and_refused_by_validation(tmp_path):
    authority = create_authority("Old CA", NOW - 1000)
    material = issue(authority, request("mail.example.com", duration=500.0), NOW - 1000)
    context = server_context(*write(tmp_path, material))
    handshake(context, client_context(None), "mail.example.com")
    trust = authority.trust_pem.decode()
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(context, client_context(TlsAuthLevel.CERTIFICATE_VALIDATION, trust=trust), "mail.example.com")


@pytest.mark.parametrize("algorithm", list(KeyAlgorithm))
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_every_key_algorithm_works_with_both_versions(tmp_path, algorithm, version):
    material = issue(AUTHORITY, request("mail.example.com", algorithm=algorithm), NOW)
    client = ssl.create_default_context(cadata=TRUST)
    client.maximum_version = version
    done = handshake(server_context(*write(tmp_path, material)), client, "mail.example.com")
    assert done.version.replace(".", "_") == version.name
    assert "GCM" in done.cipher or "CHACHA20" in done.cipher
    assert done.compression is None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_are_refused(server):
    client = client_context.__wrapped__(None)
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        handshake(server, client, None)


def test_weak_ciphers_are_refused(server):
    client = client_context.__wrapped__(None)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES128-SHA:AES128-SHA:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        handshake(server, client, None)


def test_contexts_are_built_once(server, tmp_path):
    material = issue(AUTHORITY, request("mail.example.com"), NOW)
    chain, key = write(tmp_path, material)
    first = server_context(chain, key)
    chain.unlink()
    assert server_context(chain, key) is first
    assert client_context(None) is client_context(None)


def test_any_client_certificate_is_taken_when_asked_for_and_none_is_demanded(tmp_path):
    material = issue(AUTHORITY, request("mail.example.com"), NOW)
    chain, key = write(tmp_path, material)
    asking = server_context(chain, key, asks=True)
    client = ssl.create_default_context(cadata=TRUST)
    handshake(asking, client, "mail.example.com")
    client.load_cert_chain(chain, key)
    handshake(asking, client, "mail.example.com")
    stranger = ssl.create_default_context(cadata=TRUST)
    stranger.load_cert_chain(*write(tmp_path, issue(OTHER, request("x.example"), NOW), "stranger"))
    handshake(asking, stranger, "mail.example.com")


def test_a_missing_file_is_named(tmp_path):
    chain, key = write(tmp_path, issue(AUTHORITY, request("mail.example.com"), NOW))
    with pytest.raises(ConfigError, match=r"absent\.key: no such file"):
        server_context(chain, tmp_path / "absent.key")
    with pytest.raises(ConfigError, match=r"absent\.crt: no such file"):
        server_context(tmp_path / "absent.crt", key)


def test_a_foreign_key_is_refused_by_name(tmp_path):
    chain, _ = write(tmp_path, issue(AUTHORITY, request("mail.example.com"), NOW))
    _, other = write(tmp_path, issue(AUTHORITY, request("mail.example.com"), NOW), "other")
    with pytest.raises(ConfigError, match=r"other\.key: the private key does not belong"):
        server_context(chain, other)


def test_a_key_with_a_passphrase_is_refused_without_asking_for_it(tmp_path):
    material = issue(AUTHORITY, request("mail.example.com"), NOW)
    chain, key = write(tmp_path, material)
    loaded = s.load_pem_private_key(material.key_pem, None)
    key.write_bytes(
        loaded.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"passphrase"))
    )
    with pytest.raises(ConfigError):
        server_context(chain, key)


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\x00\xff", b"-----BEGIN CERTIFICATE-----\nxx\n"])
def test_garbage_is_refused(tmp_path, garbage):
    chain, key = write(tmp_path, issue(AUTHORITY, request("mail.example.com"), NOW))
    chain.write_bytes(garbage)
    with pytest.raises(ConfigError):
        server_context(chain, key)


@pytest.mark.parametrize("trust", ["garbage", "-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n", "é"])
def test_a_trust_bundle_that_is_not_pem_is_refused(trust):
    with pytest.raises(ConfigError, match="trust bundle"):
        client_context(TlsAuthLevel.CERTIFICATE_VALIDATION, trust=trust)


def test_a_trust_bundle_may_hold_comments_in_any_script():
    client_context(TlsAuthLevel.CERTIFICATE_VALIDATION, trust=f"# Autorité 기관\n{TRUST}")


def peer(*sans: tuple[str, str]) -> dict:
    return {"subject": ((("commonName", "cn.example.com"),),), "subjectAltName": sans}


@pytest.mark.parametrize(
    ("sans", "names", "expected"),
    [
        ([("DNS", "a.example")], ["a.example"], True),
        ([("DNS", "A.Example")], ["b.example", "a.EXAMPLE."], True),
        ([("DNS", "a.example")], ["b.example"], False),
        ([("DNS", "a.example")], [], False),
        ([("DNS", "*.a.example")], ["x.a.example"], True),
        ([("DNS", "*.a.example")], ["a.example"], False),
        ([("DNS", "*.a.example")], ["y.x.a.example"], False),
        ([("DNS", "*.example")], ["a.example"], False),
        ([("DNS", "*")], ["localhost"], False),
        ([("DNS", "x*.a.example")], ["xy.a.example"], False),
        ([], ["cn.example.com"], False),
        ([("email", "a.example")], ["a.example"], False),
        ([("IP Address", "192.0.2.1")], ["192.0.2.1"], True),
        ([("IP Address", "2001:DB8:0:0:0:0:0:1")], ["2001:db8::1"], True),
        ([("DNS", "192.0.2.1")], ["192.0.2.1"], False),
        ([("DNS", "a.example")], ["192.0.2.1"], False),
    ],
)
def test_names_are_looked_up_in_the_san_only(sans, names, expected):
    assert verify_name(peer(*sans), names) is expected


@pytest.mark.parametrize("unverified", [None, {}])
def test_no_name_matches_a_certificate_that_was_not_verified(unverified):
    assert not verify_name(unverified, ["a.example"])
