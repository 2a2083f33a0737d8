"""What a listener's TLS presents and lets resume, by what the client offers: real engines over memory."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest
from certificate_kit import request as certificate_request
from certificate_kit import shake, write

from postroad_operator.certificates import KeyAlgorithm, create_authority, issue
from postroad_operator.certificates.material import describe
from postroad_transport.config import AuthMechanism, Binding, Certificate, ReceiveConnector
from postroad_transport.config.files import SECRETS_DIRECTORY, ConfigError
from postroad_transport.policy.certificate import names_served, select
from postroad_transport.tls import native
from postroad_transport.tls.presenting import Presented, present
from postroad_transport.tls.server import server_context

NOW = 1_800_000_000.0
AUTHORITY = create_authority("Test CA", NOW)
TLS = (AuthMechanism.TLS,)
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
RSA_ONLY, ECDSA_ONLY, BOTH = "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE+AESGCM"


class Store:
    """Certificates of one tier, as a configuration and its secrets hold them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / SECRETS_DIRECTORY).mkdir()
        self.certificates: list[Certificate] = []

    def add(self, name: str, *dns_names: str, algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA) -> Certificate:
        material = issue(AUTHORITY, certificate_request(*dns_names, name=name, algorithm=algorithm), NOW)
        chain, key = write(self.directory / SECRETS_DIRECTORY, material, name)
        found = describe(
            name,
            f"TransportCertificate/default/{name}",
            material.chain_pem,
            has_key=True,
            services=["SMTP"],
            chain_file=chain.name,
            key_file=key.name,
        )
        self.certificates.append(found)
        return found

    def presented(self, fqdn: str = "mail.example", *, asks: bool = False, logs_in: bool = False) -> Presented:
        connector = ReceiveConnector(
            name="c", source="s", bindings=(Binding(port=0),), remote_ip_ranges=(), fqdn=fqdn, auth_mechanisms=TLS
        )
        names = names_served(self.certificates, now=NOW)
        selection = select(fqdn, self.certificates, TLS, now=NOW)
        found = present(connector, selection, names, self.directory, asks=asks, logs_in=logs_in)
        assert found is not None
        return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def client(version: ssl.TLSVersion = TLS13, ciphers: str = BOTH) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return context


def shown(client_side: ssl.SSLObject) -> str:
    der = client_side.getpeercert(True)
    assert der is not None
    return hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize("asks", [False, True])
def test_the_client_gets_the_certificate_whose_kind_of_key_it_offers(store, asks):
    rsa = store.add("rsa", "mail.example", algorithm=KeyAlgorithm.RSA)
    ecdsa = store.add("ecdsa", "mail.example")
    context = store.presented(asks=asks).context
    assert shown(shake(context, client(TLS12, RSA_ONLY))[0]) == rsa.thumbprint
    assert shown(shake(context, client(TLS12, ECDSA_ONLY))[0]) == ecdsa.thumbprint
    for version in (TLS12, TLS13):
        # It is faster.
        assert shown(shake(context, client(version))[0]) == ecdsa.thumbprint


def test_with_one_kind_of_key_a_client_that_wants_the_other_fails(store):
    store.add("ecdsa", "mail.example")
    with pytest.raises(ssl.SSLError):
        shake(store.presented().context, client(TLS12, RSA_ONLY))


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("mail.example", "own"),
        (None, "own"),
        ("elsewhere.example", "own"),
        ("mail.other.example", "other"),
        ("MAIL.other.example.", "other"),
        ("x.wild.example", "wild"),
        ("y.x.wild.example", "own"),
        ("exact.wild.example", "other"),
    ],
)
def test_the_certificate_is_the_one_for_the_name_asked_else_the_connectors(store, asks, asked, expected):
    # Made first, so that the tie is settled by the thumbprint: an exact name is no better than a wildcard.
    known = {
        "own": store.add("own", "mail.example"),
        "wild": store.add("wild", "*.wild.example"),
        "other": store.add("other", "mail.other.example", "exact.wild.example"),
    }
    context = store.presented(asks=asks).context
    client_side, _ = shake(context, client(), asked)
    if asked == "exact.wild.example":
        expected = select(asked, store.certificates, TLS, now=NOW).certificate.name
    assert shown(client_side) == known[expected].thumbprint


def test_for_a_name_asked_there_are_both_kinds_of_keys_too(store):
    store.add("own", "mail.example")
    rsa = store.add("rsa", "mx.example", algorithm=KeyAlgorithm.RSA)
    ecdsa = store.add("ecdsa", "mx.example")
    context = store.presented().context
    assert shown(shake(context, client(TLS12, RSA_ONLY), "mx.example")[0]) == rsa.thumbprint
    assert shown(shake(context, client(TLS12), "mx.example")[0]) == ecdsa.thumbprint


def test_nobody_is_asked_for_a_name_where_it_makes_no_difference(store):
    store.add("own", "mail.example", "hub1.example")
    assert store.presented().context.sni_callback is None
    store.add("other", "mail.other.example")
    assert store.presented().context.sni_callback is not None


def test_a_damaged_certificate_beside_the_choice_is_left_out_and_reported(store):
    rsa = store.add("rsa", "mail.example", algorithm=KeyAlgorithm.RSA)
    ecdsa = store.add("ecdsa", "mail.example")
    own, other = sorted((rsa, ecdsa), key=lambda item: item.thumbprint)
    (store.directory / SECRETS_DIRECTORY / other.key_file).write_bytes(b"garbage")
    presented = store.presented()
    assert len(presented.unusable) == 1
    assert presented.unusable[0].startswith(other.source)
    assert shown(shake(presented.context, client())[0]) == own.thumbprint
    (store.directory / SECRETS_DIRECTORY / own.key_file).unlink()
    with pytest.raises(ConfigError):
        # Contexts are cached by path, and this one has another path.
        server_context(store.directory / SECRETS_DIRECTORY / own.chain_file, Path("absent"))


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("ciphers", [RSA_ONLY, ECDSA_ONLY])
def test_a_login_is_bound_to_the_certificate_that_the_client_was_shown(store, asks, ciphers):
    if native._library() is None:
        pytest.skip("this Python keeps OpenSSL's sessions out of reach")
    store.add("rsa", "mail.example", algorithm=KeyAlgorithm.RSA)
    store.add("ecdsa", "mail.example")
    presented = store.presented(asks=asks, logs_in=True)
    client_side, server_side = shake(presented.context, client(TLS12, ciphers))
    assert presented.end_point(server_side) == hashlib.sha256(client_side.getpeercert(True)).digest()


def test_a_login_is_bound_to_the_certificate_of_the_name_that_was_asked(store):
    if native._library() is None:
        pytest.skip("this Python keeps OpenSSL's sessions out of reach")
    store.add("own", "mail.example")
    store.add("other", "mail.other.example")
    presented = store.presented(logs_in=True)
    for asked in ("mail.example", "mail.other.example"):
        client_side, server_side = shake(presented.context, client(), asked)
        assert presented.end_point(server_side) == hashlib.sha256(client_side.getpeercert(True)).digest()


def test_a_resumed_session_tells_no_certificate_where_there_are_several(store):
    store.add("own", "mail.example")
    store.add("other", "mail.other.example")
    presented = store.presented()
    context = client()
    first, _ = shake(presented.context, context, "mail.example")
    again, server_side = shake(presented.context, context, "mail.example", first.session)
    assert again.session_reused
    assert presented.end_point(server_side) is None


def resumes(server: ssl.SSLContext, version: ssl.TLSVersion, *, tickets: bool = True) -> bool:
    context = client(version)
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
    first, _ = shake(server, context)
    again, _ = shake(server, context, session=first.session)
    assert shown(again) == shown(first)
    return bool(again.session_reused)


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("tickets", [True, False])
def test_sessions_are_resumed_where_nobody_shows_a_certificate(store, version, tickets):
    store.add("own", "mail.example")
    assert resumes(store.presented(logs_in=True).context, version, tickets=tickets)


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("tickets", [True, False])
def test_sessions_are_never_resumed_where_certificates_are_asked_for(store, version, tickets):
    store.add("own", "mail.example")
    assert not resumes(store.presented(asks=True).context, version, tickets=tickets)


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("tickets", [True, False])
def test_sessions_are_not_resumed_where_a_login_may_be_bound_to_one_of_several_certificates(store, version, tickets):
    store.add("rsa", "mail.example", algorithm=KeyAlgorithm.RSA)
    store.add("ecdsa", "mail.example")
    assert not resumes(store.presented(logs_in=True).context, version, tickets=tickets)
    assert resumes(store.presented(logs_in=False).context, version, tickets=tickets)


def test_a_renewed_certificate_resumes_no_session_of_the_one_before(store, tmp_path_factory):
    store.add("own", "mail.example")
    context = client()
    first, _ = shake(store.presented().context, context)
    renewed = Store(tmp_path_factory.mktemp("renewed"))
    renewed.add("own", "mail.example")
    again, _ = shake(renewed.presented().context, context, session=first.session)
    assert not again.session_reused
    assert shown(again) == renewed.certificates[0].thumbprint
