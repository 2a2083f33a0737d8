"""Named policies: which versions and suites each takes, tried with real handshakes."""

from __future__ import annotations

import ssl

import pytest
from certificate_kit import request as certificate_request
from certificate_kit import shake, write
from test_tls_presenting import AUTHORITY, NOW, client

from postroad_operator.certificates import KeyAlgorithm, issue
from postroad_transport.config import TlsAuthLevel, TlsPolicy
from postroad_transport.tls import native
from postroad_transport.tls.client import client_context
from postroad_transport.tls.server import server_context

MODERN, INTERMEDIATE, LEGACY = TlsPolicy
TLS10, TLS11, TLS12, TLS13 = (getattr(ssl.TLSVersion, name) for name in ("TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"))

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    material = issue(AUTHORITY, certificate_request("mail.example", algorithm=KeyAlgorithm.RSA), NOW)
    return write(tmp_path_factory.mktemp("policy"), material)


OFFERS = [
    ("TLS 1.3", TLS13, "ALL", {MODERN, INTERMEDIATE, LEGACY}),
    ("AEAD", TLS12, "ECDHE-RSA-AES128-GCM-SHA256", {MODERN, INTERMEDIATE, LEGACY}),
    ("ChaCha20", TLS12, "ECDHE-RSA-CHACHA20-POLY1305", {MODERN, INTERMEDIATE, LEGACY}),
    ("CBC, SHA-2", TLS12, "ECDHE-RSA-AES256-SHA384", {INTERMEDIATE, LEGACY}),
    ("CBC, SHA-1", TLS12, "ECDHE-RSA-AES128-SHA", {INTERMEDIATE, LEGACY}),
    ("no forward secrecy, GCM", TLS12, "AES128-GCM-SHA256", {LEGACY}),
    ("no forward secrecy, CBC", TLS12, "AES256-SHA", {LEGACY}),
    ("TLS 1.1", TLS11, "ECDHE-RSA-AES128-SHA", {LEGACY}),
    ("TLS 1.0", TLS10, "AES128-SHA", {LEGACY}),
    ("finite fields", TLS12, "DHE-RSA-AES128-GCM-SHA256", set()),
    ("CCM", TLS12, "AES128-CCM", set()),
    ("anonymous", TLS12, "AECDH-AES128-SHA", set()),
    ("Camellia", TLS12, "ECDHE-RSA-CAMELLIA128-SHA256", set()),
]


@pytest.mark.parametrize(("version", "suites", "taken"), [o[1:] for o in OFFERS], ids=[o[0] for o in OFFERS])
@pytest.mark.parametrize("policy", list(TlsPolicy))
@pytest.mark.parametrize("asks", [False, True], ids=["plain", "asking"])
def test_a_listener_takes_what_its_policy_says(pair, policy, asks, version, suites, taken):
    server = server_context(*pair, policy=policy, asks=asks)
    if policy in taken:
        client_side, _ = shake(server, client(version, suites))
        assert client_side.version().replace(".", "_") == version.name
        assert client_side.compression() is None
    else:
        with pytest.raises(ssl.SSLError):
            shake(server, client(version, suites))


@pytest.mark.parametrize(("version", "suites", "taken"), [o[1:] for o in OFFERS], ids=[o[0] for o in OFFERS])
@pytest.mark.parametrize("policy", list(TlsPolicy))
def test_a_client_speaks_what_its_policy_says(pair, policy, version, suites, taken):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = server.maximum_version = version
    server.set_ciphers(f"{suites}:@SECLEVEL=0")
    server.load_cert_chain(*pair)
    if policy in taken:
        shake(server, client_context(None, policy=policy))
    else:
        with pytest.raises(ssl.SSLError):
            shake(server, client_context(None, policy=policy))


@pytest.mark.parametrize("policy", list(TlsPolicy))
def test_what_is_spoken_does_not_depend_on_what_is_verified(policy):
    plain, *verifying = (client_context(level, policy=policy) for level in (None, *TlsAuthLevel))
    for context in verifying:
        assert context.get_ciphers() == plain.get_ciphers()
        assert context.minimum_version == plain.minimum_version


def test_without_a_policy_a_client_that_verifies_nothing_takes_any_suite_from_tls_1_2_on():
    offered = {suite["name"] for suite in client_context(None).get_ciphers()}
    assert {"AES128-SHA", "DHE-RSA-AES128-GCM-SHA256"} <= offered
    assert client_context(None).minimum_version is TLS12
    verifying = {suite["name"] for suite in client_context(TlsAuthLevel.DOMAIN_VALIDATION).get_ciphers()}
    assert "ECDHE-RSA-AES256-SHA384" in verifying
    assert not any(name.startswith("AES") for name in verifying)


@pytest.mark.parametrize("asks", [False, True], ids=["plain", "asking"])
def test_the_server_chooses_the_suite(pair, asks):
    weakest_first = "ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384"
    server = server_context(*pair, policy=LEGACY, asks=asks)
    client_side, _ = shake(server, client(TLS12, weakest_first))
    assert client_side.cipher()[0] == "ECDHE-RSA-AES256-GCM-SHA384"


@pytest.mark.parametrize("policy", list(TlsPolicy))
def test_nobody_renegotiates_or_compresses(pair, policy):
    options = server_context(*pair, policy=policy).options
    assert options & ssl.OP_NO_RENEGOTIATION
    assert options & ssl.OP_NO_COMPRESSION


@pytest.mark.parametrize("policy", list(TlsPolicy))
@pytest.mark.parametrize(("group", "taken"), [("prime256v1", True), ("secp384r1", True), ("secp521r1", False)])
def test_keys_are_agreed_on_by_groups_that_cost_little(pair, policy, group, taken):
    if native._library() is None:
        pytest.skip("this Python keeps OpenSSL's settings out of reach")
    context = client(TLS13)
    context.set_ecdh_curve(group)
    if taken:
        shake(server_context(*pair, policy=policy), context)
    else:
        with pytest.raises(ssl.SSLError):
            shake(server_context(*pair, policy=policy), context)
