"""Logging in at smart hosts (spec.md 2.2): which mechanism, over what, and what happens where it fails."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from smart_host import PASSWORD, USER, needs_smart_host, running_smart_host
from smtp_peer import CLOSE, EXTENSIONS, Peer, deliver, hop_to, limits, settings
from trust_kit import party

from postroad_transport.config import AuthMechanism, Revocation, TlsTrust
from postroad_transport.delivery.hop import Result
from postroad_transport.delivery.smtp_login import Credentials, LoginError, Terms, advance, choose, run

BASIC, BASIC_TLS = AuthMechanism.BASIC_AUTH, AuthMechanism.BASIC_AUTH_REQUIRE_TLS
DAY = datetime.timedelta(days=1)
MINE = Credentials(username="me", password="secret")
TOKEN = Credentials(username="me@example.test", access_token="ya29.token")


class Authority:
    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        self.pem = self._make(self.name, self.key, self.key, [], DAY).decode()

    def issue(self, *names: x509.GeneralName, until: datetime.timedelta = DAY, self_signed: bool = False):
        """Return certificate and key in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._make(x509.Name([]), key, key if self_signed else self.key, list(names), until)
        return certificate, key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def revoke(self, certificate: bytes) -> str:
        """Return a list that holds `certificate`, in PEM."""
        now = datetime.datetime.now(datetime.UTC)
        serial = x509.load_pem_x509_certificate(certificate).serial_number
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY).build()
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).add_revoked_certificate(revoked)
        made = builder.last_update(now - DAY).next_update(now + DAY).sign(self.key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM).decode()

    def _make(self, subject, key, signer, names, until) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if signer is key else self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + until - 3 * DAY)
            .not_valid_after(now + until)
            .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not list(subject))
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
ELSEWHERE = x509.DNSName("elsewhere.example")


def with_credentials(authority: Authority | None = None, **credentials: str):
    secret = json.dumps(credentials or {"username": USER, "password": PASSWORD}).encode()
    return settings(read_secret=lambda name: secret, trust_bundle=authority.pem if authority else "")


async def attempt(port: int, mechanism: AuthMechanism, given, **fields):
    hop = hop_to(
        port,
        given=given,
        auth_mechanism=mechanism,
        credentials_file="c.json",
        limits=limits(command_timeout=15, data_timeout=15, connect_timeout=15),
        **fields,
    )
    (outcome,) = await deliver(hop)
    await hop.close()
    return outcome


def logins(given, mechanism: str, result: str) -> float:
    return given.metrics.outbound_logins.labels("out", mechanism, result)._value.get()


# A real smart host


@needs_smart_host
@pytest.mark.parametrize(
    ("mechanisms", "used", "tls"),
    [
        ("plain login", "PLAIN", True),
        ("login", "LOGIN", True),
        ("plain scram-sha-256", "SCRAM-SHA-256", True),
        ("plain login", "PLAIN", False),
    ],
)
async def test_strongest_mechanism_that_dovecot_offers_is_used(authority, mechanisms, used, tls):
    certificate, key = authority.issue(LOOPBACK) if tls else (b"", b"")
    given = with_credentials(authority)
    async with Peer() as sink:
        with running_smart_host(sink.port, mechanisms=mechanisms, certificate=certificate, key=key) as port:
            outcome = await attempt(port, BASIC_TLS if tls else BASIC, given)
        assert outcome.result is Result.DELIVERED
        assert bool(outcome.tls) == tls
        assert len(sink.taken) == 1
    assert logins(given, used, "ok") == 1


@needs_smart_host
@pytest.mark.parametrize(
    ("credentials", "mechanisms", "used"),
    [
        ({"username": USER, "password": "wrong"}, "plain", "PLAIN"),
        ({"username": USER, "password": "wrong"}, "scram-sha-256", "SCRAM-SHA-256"),
    ],
)
async def test_wrong_credentials_send_nothing_and_say_why(authority, credentials, mechanisms, used):
    certificate, key = authority.issue(LOOPBACK)
    given = with_credentials(authority, **credentials)
    async with Peer() as sink:
        with running_smart_host(sink.port, mechanisms=mechanisms, certificate=certificate, key=key) as port:
            outcome = await attempt(port, BASIC_TLS, given)
        assert (outcome.result, outcome.reply[:9]) == (Result.DEFERRED, "454 4.7.0")
        assert f"failed: {used}: 535" in outcome.reply
        assert credentials["password"] not in outcome.reply
        assert not sink.taken
    assert logins(given, used, "refused") == 1


@needs_smart_host
async def test_mechanisms_that_no_password_fits_are_named(authority):
    certificate, key = authority.issue(LOOPBACK)
    given = with_credentials(authority)
    async with Peer() as sink:
        with running_smart_host(sink.port, mechanisms="cram-md5", certificate=certificate, key=key) as port:
            outcome = await attempt(port, BASIC_TLS, given)
        assert outcome.result is Result.DEFERRED
        assert "offers only AUTH CRAM-MD5" in outcome.reply
        assert not sink.taken
    assert logins(given, "", "not-offered") == 1


@needs_smart_host
@pytest.mark.parametrize("kind", ["other-name", "expired", "self-signed", "unknown-authority", "revoked"])
async def test_credentials_are_kept_from_a_smart_host_that_proves_nothing_unless_basic_auth_says_so(authority, kind):
    issued = {
        "other-name": lambda: authority.issue(ELSEWHERE),
        "expired": lambda: authority.issue(LOOPBACK, until=-DAY),
        "self-signed": lambda: authority.issue(LOOPBACK, self_signed=True),
        "unknown-authority": lambda: Authority().issue(LOOPBACK),
    }
    certificate, key = issued.get(kind, lambda: authority.issue(LOOPBACK))()
    trust = TlsTrust(revocation=Revocation(crls=authority.revoke(certificate))) if kind == "revoked" else TlsTrust()
    given = with_credentials(authority)
    async with Peer() as sink:
        with running_smart_host(sink.port, certificate=certificate, key=key) as port:
            refused = await attempt(port, BASIC_TLS, given, tls_trust=trust)
            assert (refused.result, refused.reply[:9]) == (Result.DEFERRED, "454 4.7.5")
            assert kind != "revoked" or "was revoked" in refused.reply
            assert not sink.taken
            # With BasicAuth and requireTLS the credentials go over TLS, and the certificate is not looked at.
            assert (await attempt(port, BASIC, given, require_tls=True)).result is Result.DELIVERED
    assert logins(given, "PLAIN", "ok") == 1


# A scripted one


@pytest.mark.parametrize(("submitter", "said"), [("", "<>"), ("e+3Dmc2@o.example", "e+3Dmc2@o.example")])
async def test_smart_host_that_we_logged_in_at_is_told_who_submitted_the_message(submitter, said):
    async with Peer(extensions=("AUTH PLAIN",)) as peer:
        for mechanism in (BASIC, AuthMechanism.NONE):
            hop = hop_to(peer.port, given=with_credentials(), auth_mechanism=mechanism, credentials_file="c.json")
            await deliver(hop, submitter=submitter)
            await hop.close()
        assert [taken.mail for taken in peer.taken] == [
            f"MAIL FROM:<s@o.example> AUTH={said}",
            "MAIL FROM:<s@o.example>",
        ]


@pytest.mark.parametrize("extensions", [("AUTH PLAIN", "PIPELINING"), ("AUTH PLAIN",)])
async def test_smart_host_that_does_not_know_auth_of_mail_is_asked_again_without_it(extensions):
    async with Peer(extensions=extensions) as peer:
        peer.answers["MAIL"] = [b"555 5.5.4 parameter not recognized\r\n", b"250 2.1.0 ok\r\n"]
        hop = hop_to(peer.port, given=with_credentials(), auth_mechanism=BASIC, credentials_file="c.json")
        for _ in range(2):
            (outcome,) = await deliver(hop)
            assert outcome.result is Result.DELIVERED
        await hop.close()
        assert [command for command in peer.commands if command.startswith("MAIL")] == [
            "MAIL FROM:<s@o.example> AUTH=<>",
            "MAIL FROM:<s@o.example>",
            "MAIL FROM:<s@o.example>",
        ]


@pytest.mark.parametrize("end", [b"421 4.3.0 too much\r\n", CLOSE, b"555 5.5.4 no\r\n"])
async def test_smart_host_that_refuses_mail_for_good_is_not_asked_a_third_time(end):
    async with Peer(extensions=("AUTH PLAIN",)) as peer:
        peer.answers["MAIL"] = [b"555 5.5.4 parameter not recognized\r\n", end]
        hop = hop_to(peer.port, given=with_credentials(), auth_mechanism=BASIC, credentials_file="c.json")
        (outcome,) = await deliver(hop)
        assert outcome.result is Result.FAILED
        assert peer.connections == 1
        await hop.close()


@pytest.mark.parametrize("extensions", [("AUTH PLAIN",), ("AUTH GSSAPI",), ()])
async def test_session_that_cannot_log_in_ends_with_quit(extensions):
    answers = {"AUTH": b"535 5.7.8 no\r\n"}
    async with Peer(extensions=(*EXTENSIONS, *extensions), answers=answers) as peer:
        await attempt(peer.port, BASIC, with_credentials())
        while peer.open:
            await asyncio.sleep(0.001)
        assert peer.commands[-1] == "QUIT"
        assert not [command for command in peer.commands if command.startswith("MAIL")]


@pytest.mark.parametrize("tls", [True, False])
async def test_scram_that_fails_is_followed_by_the_password_itself_under_tls_only(authority, tmp_path, tls):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "pem").write_bytes(b"".join(authority.issue(LOOPBACK)))
    context.load_cert_chain(tmp_path / "pem")
    async with Peer(
        extensions=(*EXTENSIONS, "AUTH SCRAM-SHA-256 PLAIN", *(["STARTTLS"] if tls else [])),
        answers={"AUTH": [b"535 5.7.8 no such key\r\n", b"235 2.7.0 ok\r\n"]},
        tls_context=context,
    ) as peer:
        outcome = await attempt(peer.port, BASIC, with_credentials())
        assert outcome.result is (Result.DELIVERED if tls else Result.DEFERRED)
        assert any(command.startswith("AUTH PLAIN") for command in peer.commands) == tls


@pytest.mark.parametrize(
    "challenges",
    [
        [b"235 2.7.0 trust me\r\n"],
        [b"334 " + base64.b64encode(b"r=x,s=QUFBQUFBQUFBQUFBQUFBQQ==,i=4096") + b"\r\n"],
        [b"334 !!!\r\n"],
        [b"334 \r\n"],
    ],
)
async def test_server_that_does_not_prove_itself_gets_no_mail(challenges):
    async with Peer(extensions=(*EXTENSIONS, "AUTH SCRAM-SHA-256"), answers={"AUTH": challenges}) as peer:
        given = with_credentials()
        outcome = await attempt(peer.port, BASIC, given)
        assert (outcome.result, outcome.reply[:9]) == (Result.DEFERRED, "454 4.7.0")
        assert not peer.taken
    assert logins(given, "SCRAM-SHA-256", "broken") == 1


@pytest.mark.parametrize(
    ("offer", "verb", "said"),
    [
        (
            "AUTH PLAIN LOGIN XOAUTH2",
            "XOAUTH2",
            b"user=me@example.test\x01auth=Bearer ya29.token\x01\x01",
        ),
        (
            "AUTH OAUTHBEARER XOAUTH2",
            "OAUTHBEARER",
            b"n,a=me@example.test,\x01host=127.0.0.1\x01port=%d\x01auth=Bearer ya29.token\x01\x01",
        ),
    ],
)
async def test_token_goes_by_the_bearer_mechanism_that_is_offered(tmp_path, offer, verb, said):
    given = with_credentials(username="me@example.test", accessToken="ya29.token")
    context = party("smart").listening(tmp_path)
    async with Peer(extensions=(*EXTENSIONS, offer, "STARTTLS"), tls_context=context) as peer:
        assert (await attempt(peer.port, BASIC, given)).result is Result.DELIVERED
        _, used, response = next(command for command in peer.commands if command.startswith("AUTH")).split()
        assert used == verb
        assert base64.b64decode(response) == (said % peer.port if b"%d" in said else said)


async def test_no_token_goes_in_clear():
    given = with_credentials(username="me@example.test", accessToken="ya29.token")
    async with Peer(extensions=(*EXTENSIONS, "AUTH OAUTHBEARER XOAUTH2")) as peer:
        outcome = await attempt(peer.port, BASIC, given)
    assert outcome.result is Result.DEFERRED
    assert outcome.reply.endswith("offers only AUTH OAUTHBEARER XOAUTH2: no way to log in without TLS")
    assert not any(command.startswith("AUTH") for command in peer.commands)


@pytest.mark.parametrize("credentials", [{"username": "me"}, {"username": "", "password": "x"}, {"password": "x"}])
async def test_half_of_the_credentials_is_none(credentials):
    async with Peer(extensions=(*EXTENSIONS, "AUTH PLAIN")) as peer:
        given = with_credentials(**credentials)
        outcome = await attempt(peer.port, BASIC, given)
        assert outcome.reply.startswith("454 4.7.0 no credentials for")
        assert not [command for command in peer.commands if command.startswith("AUTH")]
    assert logins(given, "", "no-credentials") == 1


# The choice


@given(st.frozensets(st.sampled_from(["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "NTLM", "XOAUTH2"])))
def test_what_is_tried_is_offered_and_a_password_never_follows_scram_in_clear(offered):
    for tls in (True, False):
        names = choose(offered, MINE, tls=tls, bound=tls)
        usable = {"PLAIN", "LOGIN", "SCRAM-SHA-256", *(["SCRAM-SHA-256-PLUS"] if tls else [])}
        assert set(names) <= offered - {"NTLM", "XOAUTH2"}
        assert bool(names) == bool(offered & usable)
        scram = [name for name in names if name.startswith("SCRAM")]
        assert tls or not (scram and len(names) > 1)
        assert len(scram) <= 1
        assert list(names[: len(scram)]) == scram
    assert choose(offered, TOKEN, tls=True) == (("XOAUTH2",) if "XOAUTH2" in offered else ())
    assert choose(offered, TOKEN, tls=False) == ()


def test_server_cannot_have_us_work_for_long():
    answers = run("SCRAM-SHA-256", MINE, Terms("h", 25))
    nonce = advance(answers, None).decode().rpartition("r=")[2]
    with pytest.raises(LoginError, match="too many"):
        advance(answers, f"r={nonce}x,s=QUFBQUFBQUFBQUFBQUFBQQ==,i=9999999".encode())


def test_secrets_do_not_show():
    assert "secret" not in repr(MINE)
    assert "ya29" not in repr(TOKEN)
