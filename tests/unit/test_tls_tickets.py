"""Who resumes whose sessions: contexts built apart, as those of other workers and pods; real engines over memory."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import ssl
from pathlib import Path

import pytest
from certificate_kit import request, shake
from hypothesis import given
from hypothesis import strategies as st

from postroad_operator.certificates import KeyAlgorithm, Material, create_authority, issue
from postroad_operator.certificates.material import describe
from postroad_transport.config import AuthMechanism, Binding, Certificate, ReceiveConnector, TlsPolicy
from postroad_transport.config.files import SECRETS_DIRECTORY, SESSION_TICKETS_FILE
from postroad_transport.policy.certificate import names_served, select
from postroad_transport.tls import native
from postroad_transport.tls.native import set_ticket_keys
from postroad_transport.tls.presenting import Presented, present
from postroad_transport.tls.tickets import identity_of, read_ticket_secret, share_tickets, ticket_keys

NOW = 1_800_000_000.0
AUTHORITY = create_authority("Test CA", NOW)
TLS = (AuthMechanism.TLS,)
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
SECRET, NEXT = b"s" * 32, b"n" * 32
Certificates = dict[str, Material]

needs_openssl = pytest.mark.skipif(native._library() is None, reason="this Python keeps OpenSSL out of reach")


def made(name: str, *dns_names: str, algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA) -> Certificates:
    return {name: issue(AUTHORITY, request(*dns_names, name=name, algorithm=algorithm), NOW)}


OWN = made("own", "mail.example")


class Pods:
    """Each pod has directories of its own, and so none of the contexts that others have."""

    def __init__(self, directory: Path) -> None:
        self._directories = (directory / f"pod-{number}" for number in itertools.count())

    def presented(
        self,
        certificates: Certificates,
        *,
        secret: bytes = SECRET,
        policy: TlsPolicy = TlsPolicy.MODERN,
        asks: bool = False,
        logs_in: bool = False,
    ) -> Presented:
        """Return what one more pod presents for ``mail.example``."""
        directory = next(self._directories)
        (directory / SECRETS_DIRECTORY).mkdir(parents=True)
        described = [_store(directory, name, material) for name, material in certificates.items()]
        connector = ReceiveConnector(
            name="c",
            source="s",
            bindings=(Binding(port=0),),
            remote_ip_ranges=(),
            fqdn="mail.example",
            auth_mechanisms=TLS,
            tls_policy=policy,
        )
        selection, names = select("mail.example", described, TLS, now=NOW), names_served(described, now=NOW)
        found = present(connector, selection, names, directory, asks=asks, logs_in=logs_in)
        assert found is not None
        share(found, secret)
        return found


def _store(directory: Path, name: str, material: Material) -> Certificate:
    files = {f"{name}.crt": material.chain_pem, f"{name}.key": material.key_pem}
    for file, content in files.items():
        (directory / SECRETS_DIRECTORY / file).write_bytes(content)
    chain_file, key_file = files
    source = f"TransportCertificate/default/{name}"
    chain = material.chain_pem
    return describe(name, source, chain, has_key=True, services=["SMTP"], chain_file=chain_file, key_file=key_file)


def share(presented: Presented, secret: bytes) -> None:
    if presented.resumes_as:
        share_tickets({presented.context: presented.resumes_as}, secret)


@pytest.fixture
def pods(tmp_path: Path) -> Pods:
    return Pods(tmp_path)


def client(version: ssl.TLSVersion = TLS13, *, tickets: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
    return context


def resumes(
    first: Presented, then: Presented, version: ssl.TLSVersion = TLS13, *, names: tuple[str, str] | None = None
) -> bool:
    """Tell whether a session that begins with one is resumed by the other; it has to work either way."""
    context = client(version)
    one, two = names or (None, None)
    began, _ = shake(first.context, context, one)
    went_on, _ = shake(then.context, context, two, began.session)
    return bool(went_on.session_reused)


@needs_openssl
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_session_is_resumed_by_whoever_presents_the_same_with_the_same_secret(pods, version):
    first, other = pods.presented(OWN), pods.presented(OWN)
    assert first.context is not other.context
    assert resumes(first, other, version)
    assert resumes(other, first, version)


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_without_a_secret_each_resumes_its_own(pods, version):
    first, other = pods.presented(OWN, secret=b""), pods.presented(OWN, secret=b"")
    assert resumes(first, first, version)
    assert not resumes(first, other, version)


@needs_openssl
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_replaced_secret_costs_one_whole_handshake_and_no_session(pods, version):
    first, other = pods.presented(OWN), pods.presented(OWN)
    context = client(version)
    began, server_side = shake(first.context, context)
    for pod in (first, other):
        share(pod, NEXT)
    # The session that is open goes on.
    server_side.write(b"250")
    assert began.read(3) == b"250"
    again, _ = shake(other.context, context, session=began.session)
    assert not again.session_reused
    resumed, _ = shake(first.context, context, session=again.session)
    assert resumed.session_reused


@needs_openssl
@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize(
    "then",
    [
        made("own", "mail.example"),
        made("other", "*.example"),
        OWN | made("rsa", "mail.example", algorithm=KeyAlgorithm.RSA),
        OWN | made("elsewhere", "mail.elsewhere.example"),
    ],
    ids=["renewed", "another", "one more beside it", "one more for another name"],
)
def test_nothing_is_resumed_where_something_else_is_presented(pods, version, then):
    first, other = pods.presented(OWN), pods.presented(then)
    assert not resumes(first, other, version)
    assert not resumes(other, first, version)
    assert resumes(other, pods.presented(then), version)


@needs_openssl
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_nothing_is_resumed_under_another_policy(pods, version):
    modern, legacy = pods.presented(OWN), pods.presented(OWN, policy=TlsPolicy.LEGACY)
    assert not resumes(legacy, modern, version)
    assert not resumes(modern, legacy, version)


@needs_openssl
def test_with_several_certificates_the_order_of_the_resources_makes_no_difference(pods):
    both = OWN | made("elsewhere", "mail.elsewhere.example")
    first, other = pods.presented(both), pods.presented(dict(reversed(both.items())))
    for name in ("mail.example", "mail.elsewhere.example", "mail.unknown.example"):
        assert resumes(first, other, names=(name, name))


@needs_openssl
@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("asking", ["first", "then", "both"])
def test_clients_that_are_asked_for_a_certificate_never_resume(pods, version, asking):
    first = pods.presented(OWN, asks=asking in ("first", "both"))
    then = pods.presented(OWN, asks=asking in ("then", "both"))
    assert first.resumes_as == b"" or asking == "then"
    assert not resumes(first, then, version)


@needs_openssl
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_where_a_login_may_be_bound_to_one_of_several_certificates_nothing_is_resumed(pods, version):
    several = OWN | made("elsewhere", "mail.elsewhere.example")
    logins = [pods.presented(several, logs_in=True) for _ in range(2)]
    without = pods.presented(several)
    assert [item.resumes_as for item in logins] == [b"", b""]
    assert not resumes(logins[0], logins[1], version)
    # What another connector begins with the same certificates is not resumed there, either.
    assert not resumes(without, logins[0], version)


def test_where_openssl_cannot_be_reached_each_resumes_its_own(pods, monkeypatch):
    monkeypatch.setattr(native, "_library", lambda: None)
    first, other = pods.presented(OWN), pods.presented(OWN)
    assert resumes(first, first)
    assert not resumes(first, other)


@needs_openssl
def test_keys_of_another_length_change_nothing_and_leave_no_error_behind(pods):
    first, other = pods.presented(OWN), pods.presented(OWN)
    set_ticket_keys(first.context, b"short")
    assert resumes(other, first)


@given(st.binary(max_size=64))
def test_only_a_whole_secret_is_taken(tmp_path_factory, content):
    directory = tmp_path_factory.mktemp("config")
    assert read_ticket_secret(directory) == b""
    (directory / SECRETS_DIRECTORY).mkdir()
    (directory / SECRETS_DIRECTORY / SESSION_TICKETS_FILE).write_bytes(content)
    assert read_ticket_secret(directory) == (content if len(content) == 32 else b"")


def hkdf(secret: bytes, info: bytes) -> bytes:
    """Derive 80 bytes as RFC 5869 has it, with SHA-256 and no salt."""
    key, block, out = hmac.digest(bytes(32), secret, "sha256"), b"", b""
    for number in (1, 2, 3):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        out += block
    return out[:80]


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_keys_are_derived_in_the_same_way_by_every_version(secret, identity):
    assert ticket_keys(secret, identity) == hkdf(secret, b"postroad session tickets\0" + identity)


DIGESTS = st.integers(0, 3).map(lambda number: hashlib.sha256(bytes([number])).hexdigest())
CHAINS = st.lists(DIGESTS, max_size=3)
TERMS = st.tuples(
    st.sampled_from(TlsPolicy), CHAINS, st.dictionaries(st.sampled_from(["a.example", "*.example"]), CHAINS)
)


@given(TERMS, TERMS)
def test_contexts_have_one_identity_exactly_when_they_present_the_same_on_the_same_terms(one, other):
    assert (identity_of(*one) == identity_of(*other)) == (one == other)
    policy, chains, names = one
    assert identity_of(policy, chains, dict(reversed(names.items()))) == identity_of(*one)
