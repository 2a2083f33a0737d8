"""STARTTLS and AUTH as client, against a scripted peer, aiosmtpd and smtp-sink (spec.md 2.2 and 4)."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import shutil
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from smtp_peer import EXTENSIONS, Peer, connector, deliver, dns_hop, hop_to, limits, settings

from postroad_transport.config import AuthMechanism, Host, SmartHostRouting, TlsAuthLevel
from postroad_transport.delivery.hop import Result
from postroad_transport.delivery.outbound_tls import TlsDemand, tls_demand
from postroad_transport.routing.mx import MailExchanger
from postroad_transport.routing.table import Route

BASIC, BASIC_TLS = AuthMechanism.BASIC_AUTH, AuthMechanism.BASIC_AUTH_REQUIRE_TLS
SECRET = "hunter2 with spaces ü"


pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:pytest.PytestDeprecationWarning")


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request):
    return request.param()


@dataclass
class Authority:
    pem: str
    directory: Path
    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    def context(self, *names: x509.GeneralName) -> ssl.SSLContext:
        """A server context with a certificate for `names`."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(x509.Name([]), key, self.name, self.key, names)
        path = self.directory / f"{abs(hash(names))}.pem"
        path.write_bytes(
            certificate
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _certificate(subject, key, issuer, issuer_key, names) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=True)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
    return Authority(_certificate(name, key, name, key, ()).decode(), tmp_path_factory.mktemp("ca"), key, name)


@pytest.fixture
def localhost_context(authority):
    return authority.context(x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("relay.example"))


@pytest.fixture
def other_context(authority):
    return authority.context(x509.DNSName("other.example"))


def with_credentials(authority: Authority | None = None):
    secret = json.dumps({"username": "me", "password": SECRET}).encode()
    return settings(read_secret=lambda name: secret, trust_bundle=authority.pem if authority else "")


def offering(*more: str) -> tuple[str, ...]:
    return (*EXTENSIONS, *more)


async def only(hop) -> object:
    (outcome,) = await deliver(hop)
    await hop.close()
    return outcome


# STARTTLS


async def test_offered_starttls_is_used_whatever_the_certificate(other_context):
    given = settings()
    async with Peer(extensions=offering("STARTTLS"), tls_context=other_context) as peer:
        outcome = await only(hop_to(peer.port, given=given))
        assert (outcome.result, outcome.tls) == (Result.DELIVERED, "TLSv1.3")
        assert [command for command in peer.commands if command.startswith("EHLO")] == ["EHLO tier.example"] * 2
    assert given.metrics.tls_handshakes.labels("out", "TLSv1.3", "ok")._value.get() == 1


async def test_ignored_starttls_stays_in_clear(other_context):
    async with Peer(extensions=offering("STARTTLS"), tls_context=other_context) as peer:
        outcome = await only(hop_to(peer.port, ignore_starttls=True))
        assert (outcome.result, outcome.tls) == (Result.DELIVERED, "")
        assert "STARTTLS" not in peer.commands


async def test_failed_opportunistic_handshake_falls_back_to_clear_on_a_new_connection():
    async with Peer(extensions=offering("STARTTLS"), answers={"STARTTLS": [b"220 go\r\n"]}) as peer:
        outcome = await only(hop_to(peer.port, limits=limits(command_timeout=0.5)))
        assert (outcome.result, outcome.tls, peer.connections) == (Result.DELIVERED, "", 2)


async def test_refused_starttls_goes_on_in_clear_unless_required():
    async with Peer(extensions=offering("STARTTLS"), answers={"STARTTLS": b"454 4.7.0 no\r\n"}) as peer:
        assert (await only(hop_to(peer.port))).result is Result.DELIVERED
        assert peer.connections == 1
        outcome = await only(hop_to(peer.port, require_tls=True))
        assert (outcome.result, outcome.reply[:10]) == (Result.DEFERRED, "454 4.7.10")


@pytest.mark.parametrize("extensions", [EXTENSIONS, offering("STARTTLS")], ids=["not-offered", "handshake-fails"])
async def test_required_tls_that_cannot_be_had_defers_and_sends_nothing(extensions):
    async with Peer(extensions=extensions) as peer:
        outcome = await only(hop_to(peer.port, require_tls=True))
        assert outcome.result is Result.DEFERRED
        assert outcome.reply.startswith("454 4.7.")
        assert not [command for command in peer.commands if command.startswith(("MAIL", "AUTH"))]


async def test_clear_text_behind_the_starttls_reply_is_never_read_as_if_encrypted(localhost_context):
    async with Peer(
        extensions=offering("STARTTLS"),
        tls_context=localhost_context,
        answers={"STARTTLS": b"220 go\r\n250 injected\r\n"},
    ) as peer:
        outcome = await only(hop_to(peer.port))
        assert (outcome.result, outcome.reply[:9]) == (Result.DEFERRED, "451 4.5.0")


async def test_validated_chain_is_enough_for_certificate_validation(authority, other_context):
    level = TlsAuthLevel.CERTIFICATE_VALIDATION
    async with Peer(extensions=offering("STARTTLS"), tls_context=other_context) as peer:
        trusted = await only(
            hop_to(peer.port, given=settings(trust_bundle=authority.pem), require_tls=True, tls_auth_level=level)
        )
        unknown = await only(hop_to(peer.port, require_tls=True, tls_auth_level=level))
    assert trusted.result is Result.DELIVERED
    assert unknown.result is Result.DEFERRED
    assert unknown.reply.startswith("454 4.7.5")
    assert len(peer.taken) == 1


@pytest.mark.parametrize(("tls_domain", "delivered"), [("relay.example", True), ("wrong.example", False), ("", True)])
async def test_domain_validation_compares_with_the_tls_domain_or_the_host(
    authority, localhost_context, tls_domain, delivered
):
    async with Peer(extensions=offering("STARTTLS"), tls_context=localhost_context) as peer:
        outcome = await only(
            hop_to(
                peer.port,
                given=settings(trust_bundle=authority.pem),
                tls_auth_level=TlsAuthLevel.DOMAIN_VALIDATION,
                tls_domain=tls_domain,
            )
        )
        assert outcome.result is (Result.DELIVERED if delivered else Result.DEFERRED)
        assert bool(peer.taken) == delivered


async def test_domain_validation_by_mx_compares_with_the_recipients_domain_not_with_the_mx_host(
    authority, localhost_context
):
    class Zone:
        async def mx(self, domain):
            return (MailExchanger(10, "relay.example"),)

        async def addresses(self, host):
            return ("127.0.0.1",)

    given = settings(trust_bundle=authority.pem, resolver=lambda servers: Zone())
    async with Peer(extensions=offering("STARTTLS"), tls_context=localhost_context) as peer:
        for domain, result in (("d.example", Result.DEFERRED), ("relay.example", Result.DELIVERED)):
            hop = dns_hop(domain, peer.port, given, tls_auth_level=TlsAuthLevel.DOMAIN_VALIDATION)
            assert (await only(hop)).result is result


async def test_message_that_requires_tls_waits_for_it():
    async with Peer() as peer:
        hop = hop_to(peer.port)
        (outcome,) = await deliver(hop, require_tls=True)
        assert (outcome.result, outcome.reply[:10]) == (Result.DEFERRED, "451 4.7.10")
        await hop.close()


@pytest.mark.parametrize(
    ("fields", "demand"),
    [
        ({}, TlsDemand()),
        ({"ignore_starttls": True}, TlsDemand(wanted=False)),
        ({"require_tls": True, "ignore_starttls": True}, TlsDemand(required=True)),
        ({"tls_auth_level": TlsAuthLevel.ENCRYPTION_ONLY}, TlsDemand(level=TlsAuthLevel.ENCRYPTION_ONLY)),
        (
            {"tls_auth_level": TlsAuthLevel.CERTIFICATE_VALIDATION},
            TlsDemand(required=True, level=TlsAuthLevel.CERTIFICATE_VALIDATION),
        ),
        ({"auth_mechanism": BASIC, "require_tls": True}, TlsDemand(required=True)),
        (
            {"auth_mechanism": BASIC_TLS},
            TlsDemand(required=True, level=TlsAuthLevel.CERTIFICATE_VALIDATION, names=("one", "two")),
        ),
        (
            {"tls_auth_level": TlsAuthLevel.DOMAIN_VALIDATION},
            TlsDemand(required=True, level=TlsAuthLevel.DOMAIN_VALIDATION, names=("two",)),
        ),
    ],
)
def test_demand_follows_the_connector(fields, demand):
    routing = SmartHostRouting(hosts=(Host(host="one"), Host(host="two")))
    out = connector(routing, **fields)
    assert tls_demand(Route("out", "smarthost:out", routing, out, out.retry), "two") == demand


# AUTH


@pytest.mark.parametrize(("offer", "verb"), [("AUTH PLAIN LOGIN", "AUTH PLAIN"), ("AUTH=PLAIN", "AUTH PLAIN")])
async def test_basic_auth_goes_in_clear_where_no_tls_is_required(offer, verb):
    async with Peer(extensions=offering(offer)) as peer:
        outcome = await only(
            hop_to(peer.port, given=with_credentials(), auth_mechanism=BASIC, credentials_file="c.json")
        )
        assert outcome.result is Result.DELIVERED
        assert [command.startswith(verb) for command in peer.commands[1:2]] == [True]


@pytest.mark.parametrize(
    ("answers", "extensions"),
    [
        ({"AUTH": b"535 5.7.8 no\r\n"}, offering("AUTH PLAIN")),
        ({"AUTH": b"454 4.7.0 later\r\n"}, offering("AUTH PLAIN")),
        ({}, offering("AUTH GSSAPI NTLM")),
        ({}, EXTENSIONS),
    ],
    ids=["refused", "later", "other-mechanisms", "not-offered"],
)
async def test_failed_or_missing_auth_sends_nothing_and_defers(answers, extensions):
    async with Peer(extensions=extensions, answers=answers) as peer:
        outcome = await only(
            hop_to(peer.port, given=with_credentials(), auth_mechanism=BASIC, credentials_file="c.json")
        )
        assert (outcome.result, outcome.reply[:9]) == (Result.DEFERRED, "454 4.7.0")
        assert not [command for command in peer.commands if command.startswith("MAIL")]


async def test_no_secret_shows_in_an_outcome_when_the_peer_hangs_in_auth():
    async with Peer(extensions=offering("AUTH PLAIN"), answers={"AUTH": "hang"}) as peer:
        outcome = await only(
            hop_to(
                peer.port,
                given=with_credentials(),
                auth_mechanism=BASIC,
                credentials_file="c.json",
                limits=limits(command_timeout=0.1),
            )
        )
        sent = next(command for command in peer.commands if command.startswith("AUTH"))
        assert outcome.result is Result.DEFERRED
        assert sent.split()[-1] not in outcome.reply


@pytest.mark.parametrize("secret", [b"", b"{}", b"[1]", b"not json"])
async def test_unreadable_credentials_defer(secret):
    async with Peer(extensions=offering("AUTH PLAIN")) as peer:
        given = settings(read_secret=lambda name: secret)
        outcome = await only(hop_to(peer.port, given=given, auth_mechanism=BASIC, credentials_file="c.json"))
        assert (outcome.result, outcome.reply[:9]) == (Result.DEFERRED, "454 4.7.0")
        outcome = await only(hop_to(peer.port, given=given, auth_mechanism=BASIC))
        assert outcome.result is Result.DEFERRED
        given = settings(read_secret={}.__getitem__)
        outcome = await only(hop_to(peer.port, given=given, auth_mechanism=BASIC, credentials_file="c.json"))
        assert outcome.result is Result.DEFERRED


async def test_exchange_server_authentication_sends_nothing_without_it():
    async with Peer() as peer:
        outcome = await only(hop_to(peer.port, auth_mechanism=AuthMechanism.EXCHANGE_SERVER))
        assert (outcome.result, outcome.reply[:9]) == (Result.DEFERRED, "454 4.7.0")
        assert not peer.taken


async def test_credentials_go_over_tls_only_to_a_certificate_for_a_smart_host(
    authority, localhost_context, other_context
):
    fields = {"auth_mechanism": BASIC_TLS, "credentials_file": "c.json"}
    for context, delivered in ((localhost_context, True), (other_context, False)):
        async with Peer(extensions=offering("STARTTLS", "AUTH PLAIN"), tls_context=context) as peer:
            outcome = await only(hop_to(peer.port, given=with_credentials(authority), **fields))
            assert outcome.result is (Result.DELIVERED if delivered else Result.DEFERRED)
            assert any(command.startswith("AUTH") for command in peer.commands) == delivered
    async with Peer(extensions=offering("AUTH PLAIN")) as peer:
        outcome = await only(hop_to(peer.port, given=with_credentials(authority), **fields))
        assert outcome.result is Result.DEFERRED
        assert not any(command.startswith("AUTH") for command in peer.commands)


async def test_credentials_are_never_offered_to_hosts_found_by_mx():
    class Zone:
        async def mx(self, domain):
            return (MailExchanger(10, "stranger"),)

        async def addresses(self, host):
            return ("127.0.0.1",)

    async with Peer(extensions=offering("AUTH PLAIN")) as peer:
        given = settings(read_secret=lambda name: b'{"username":"u","password":"p"}', resolver=lambda s: Zone())
        hop = dns_hop("d.example", peer.port, given, auth_mechanism=BASIC, credentials_file="c.json")
        assert (await only(hop)).result is Result.DELIVERED
        assert not any(command.startswith("AUTH") for command in peer.commands)


# Real servers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Sink:
    def __init__(self):
        self.taken = []

    async def handle_DATA(self, server, session, received):
        self.taken.append((session.authenticated, session.ssl is not None, received.content))
        return "250 2.0.0 taken"


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_aiosmtpd_takes_mail_after_starttls_and_login(authority, localhost_context, mechanism):
    def check(server, session, envelope, name, data):
        good = (data.login, data.password) == (b"me", SECRET.encode())
        return AuthResult(success=good, handled=False)

    sink = _Sink()
    excluded = ["LOGIN" if mechanism == "PLAIN" else "PLAIN"]

    class Server(Controller):
        def factory(self):
            return SMTP(
                sink,
                tls_context=localhost_context,
                require_starttls=True,
                authenticator=check,
                auth_required=True,
                auth_exclude_mechanism=excluded,
            )

    port = free_port()
    # aiosmtpd's STARTTLS needs asyncio's own loop.
    controller = Server(sink, hostname="127.0.0.1", port=port, loop=asyncio.SelectorEventLoop())
    controller.start()
    try:
        hop = hop_to(
            port,
            given=with_credentials(authority),
            auth_mechanism=BASIC_TLS,
            credentials_file="c.json",
            limits=limits(command_timeout=5, data_timeout=5),
        )
        for _ in range(2):
            (outcome,) = await deliver(hop, content=[b"Subject: x\r\n\r\n.dot\r\n"])
            assert (outcome.result, outcome.tls) == (Result.DELIVERED, "TLSv1.3")
        assert sink.taken == [(True, True, b"Subject: x\r\n\r\n.dot\r\n")] * 2
        await hop.close()
    finally:
        controller.stop()


SMTP_SINK = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


async def _sink(*options: str) -> tuple[asyncio.subprocess.Process, int]:
    port = free_port()
    user = ("-u", "nobody") if os.geteuid() == 0 else ()
    process = await asyncio.create_subprocess_exec(SMTP_SINK, *user, *options, f"127.0.0.1:{port}", "100")
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return process, port


@pytest.mark.skipif(SMTP_SINK is None, reason="Postfix's smtp-sink is not installed")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {Result.DELIVERED}),
        (("-p",), {Result.DELIVERED}),
        (("-e",), {Result.DELIVERED}),
        (("-8", "-E", "-N"), {Result.DELIVERED}),
        (("-L",), {Result.DELIVERED}),
        (("-r", "."), {Result.DEFERRED}),
        (("-f", "."), {Result.FAILED}),
        (("-r", "RCPT"), {Result.DEFERRED}),
        (("-f", "MAIL"), {Result.FAILED}),
        (("-q", "DATA"), {Result.DEFERRED}),
        (("-Q", "RCPT"), {Result.DEFERRED}),
        (("-q", "."), {Result.DEFERRED}),
        (("-A", "0"), {Result.FAILED, Result.DEFERRED}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_smtp_sink_gets_what_its_options_say(options, expected):
    process, port = await _sink(*options)
    try:
        hop = hop_to(port, lmtp="-L" in options, limits=limits(command_timeout=5, data_timeout=5))
        for _ in range(3):
            outcomes = await deliver(hop, "a@d.example", "b@d.example")
            assert {outcome.result for outcome in outcomes} <= expected
        await hop.close()
    finally:
        process.terminate()
        await process.wait()
