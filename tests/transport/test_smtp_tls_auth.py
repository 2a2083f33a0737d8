"""TLS, AUTH and PROXY over real sockets, under both event loops."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import smtplib
import socket
import ssl
import struct

import bcrypt
import pytest
from conftest import connector, tier_config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from postroad_transport.auth.accounts import Accounts, AuthUnavailableError
from postroad_transport.config import (
    Authentication,
    AuthMechanism,
    Binding,
    Certificate,
    Grant,
    Permission,
    Principal,
    ProxyProtocol,
    ReceiveLimits,
    TlsMode,
)

NAME = "mail.example.com"


@pytest.fixture(scope="module")
def pem() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


@pytest.fixture
def client_tls(pem) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=pem[0].decode())


@pytest.fixture
def tls_tier(make_tier, tmp_path, pem):
    """Make a tier with one connector that has a certificate and the account ``user`` / ``pencil``."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "c.crt").write_bytes(pem[0])
    (secrets / "c.key").write_bytes(pem[1])
    (secrets / "users").write_bytes(b"user:" + bcrypt.hashpw(b"pencil", bcrypt.gensalt(4)) + b":user@example.com\n")
    certificate = Certificate(
        name="c",
        source="TransportCertificate/mail/c",
        thumbprint="00",
        dns_names=(NAME,),
        self_signed=True,
        not_before=0.0,
        not_after=4e9,
        chain_file="c.crt",
        key_file="c.key",
    )

    async def make(**fields):
        defaults = {
            "authentication": Authentication(accounts_file="users"),
            "auth_mechanisms": (AuthMechanism.TLS, AuthMechanism.BASIC_AUTH_REQUIRE_TLS),
            "grants": tuple(
                Grant(principal=Principal.AUTHENTICATED_USERS, permission=permission)
                for permission in (Permission.SUBMIT, Permission.ACCEPT_ANY_RECIPIENT)
            ),
            "limits": ReceiveLimits(tarpit=0.01),
        }
        return await make_tier(config=tier_config(connector(**defaults | fields), certificates=(certificate,)))

    return make


def plain(user: str = "user", password: str = "pencil") -> str:
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


async def secure(line, client_tls) -> None:
    await line.start()
    assert await line.ask("STARTTLS") == "220 2.0.0 Ready to start TLS"
    await line.writer.start_tls(client_tls, server_hostname=NAME)


async def test_starttls_begins_the_session_anew_and_auth_comes_with_it(tls_tier, client_tls):
    tier = await tls_tier()
    line = await tier.connect()
    await line.reply()
    ehlo = await line.ask("EHLO c.example")
    assert "STARTTLS" in ehlo
    assert "AUTH" not in ehlo
    assert (await line.ask("AUTH PLAIN " + plain())).startswith("538 5.7.11 Encryption required")
    assert await line.ask("MAIL FROM:<>") == "530 5.7.1 Client was not authenticated"
    assert await line.ask("STARTTLS now") == "501 5.5.4 This command takes no argument"
    await line.ask("STARTTLS")
    await line.writer.start_tls(client_tls, server_hostname=NAME)
    assert await line.ask("MAIL FROM:<>") == "503 5.5.1 Send EHLO or HELO first"
    ehlo = await line.ask("EHLO c.example")
    assert "AUTH PLAIN LOGIN" in ehlo
    assert "STARTTLS" not in ehlo
    assert await line.ask("STARTTLS") == "503 5.5.1 TLS is on already"
    assert await line.ask("AUTH PLAIN " + plain()) == "235 2.7.0 Authentication successful"
    assert await line.ask("AUTH PLAIN " + plain()) == "503 5.5.1 Authenticated already"
    replies = await line.script("MAIL FROM:<user@example.com>", "RCPT TO:<x@else.example>", "DATA")
    assert replies[-1][:3] == "354"
    await line.send(b"From: user@example.com\r\n\r\n.\r\n")
    assert (await line.reply())[:3] == "250"
    envelope, content = tier.store.messages[0]
    assert envelope.account == "user"
    assert b"with ESMTPSA id" in content
    assert b"(TLSv1.3 TLS_" in content
    assert tier.count("postroad_tls_handshakes_total", direction="in", version="TLSv1.3", result="ok") == 1
    assert tier.count("postroad_authentications_total", mechanism="PLAIN", result="ok") == 1


async def test_commands_pipelined_behind_starttls_are_dropped(tls_tier, client_tls):
    tier = await tls_tier(grants=(Grant(principal=Principal.ANONYMOUS, permission=Permission.SUBMIT),))
    line = await tier.connect()
    await line.start()
    await line.send(b"STARTTLS\r\nEHLO injected.example\r\nMAIL FROM:<evil@c.example>\r\n")
    assert await line.reply() == "220 2.0.0 Ready to start TLS"
    await line.writer.start_tls(client_tls, server_hostname=NAME)
    assert await line.ask("NOOP") == "250 2.0.0 OK"
    assert await line.ask("RCPT TO:<b@example.com>") == "503 5.5.1 Send MAIL first"
    assert tier.count("postroad_refusals_total", rule="pipelined") == 1


async def test_failed_handshake_is_counted_and_closes_without_a_word(tls_tier):
    tier = await tls_tier()
    line = await tier.connect()
    await line.start()
    await line.ask("STARTTLS")
    await line.send(b"this is no TLS hello, this is no TLS hello\r\n")
    said = await asyncio.wait_for(line.reader.read(), 5)
    assert b"250" not in said
    assert b"5" not in said[:1]
    while not tier.count("postroad_tls_handshakes_total", direction="in"):
        await asyncio.sleep(0.005)
    assert tier.count("postroad_tls_handshakes_total", result="ok") == 0


async def test_auth_login_asks_for_both_and_can_be_cancelled(tls_tier, client_tls):
    tier = await tls_tier()
    line = await tier.connect()
    await secure(line, client_tls)
    await line.ask("EHLO c.example")
    assert await line.ask("AUTH LOGIN") == "334 VXNlcm5hbWU6"
    assert await line.ask("*") == "501 5.7.0 Authentication cancelled"
    assert await line.ask("AUTH CRAM-MD5") == "504 5.5.4 Unrecognized authentication type"
    assert await line.ask("AUTH PLAIN %%%") == "501 5.5.2 Cannot decode the response"
    assert await line.ask("AUTH") == "501 5.5.4 Syntax: AUTH mechanism [initial-response]"
    await line.ask("AUTH LOGIN")
    assert await line.ask(base64.b64encode(b"user")) == "334 UGFzc3dvcmQ6"
    assert await line.ask(base64.b64encode(b"pencil")) == "235 2.7.0 Authentication successful"


async def test_bad_credentials_get_535_and_the_third_time_421(tls_tier, client_tls):
    tier = await tls_tier()
    line = await tier.connect()
    await secure(line, client_tls)
    await line.ask("EHLO c.example")
    for user, password in (("user", "wrong"), ("nobody", "pencil"), ("user", "Pencil")):
        assert await line.ask("AUTH PLAIN " + plain(user, password)) == "535 5.7.3 Authentication unsuccessful"
    assert await line.reply() == "421 4.7.0 Too many failed authentication attempts"
    assert tier.count("postroad_authentications_total", result="failed") == 3
    assert "encil" not in tier.events()


async def test_user_without_submit_gets_535(tls_tier, client_tls):
    tier = await tls_tier(grants=())
    line = await tier.connect()
    await secure(line, client_tls)
    await line.ask("EHLO c.example")
    assert await line.ask("AUTH PLAIN " + plain()) == "535 5.7.3 Authentication unsuccessful"


async def test_account_source_that_fails_gives_454(tls_tier, client_tls, monkeypatch):
    tier = await tls_tier()

    async def unavailable(*_) -> None:
        raise AuthUnavailableError

    monkeypatch.setattr(Accounts, "verify", unavailable)
    line = await tier.connect()
    await secure(line, client_tls)
    await line.ask("EHLO c.example")
    assert await line.ask("AUTH PLAIN " + plain()) == "454 4.7.0 Temporary authentication failure"


async def test_basic_auth_is_offered_in_clear_where_the_connector_says_so(tls_tier):
    tier = await tls_tier(auth_mechanisms=(AuthMechanism.BASIC_AUTH,))
    line = await tier.connect()
    await line.reply()
    ehlo = await line.ask("EHLO c.example")
    assert "AUTH PLAIN LOGIN" in ehlo
    assert "STARTTLS" not in ehlo
    assert (await line.ask("AUTH PLAIN " + plain()))[:3] == "235"


async def test_implicit_tls_offers_auth_at_once(tls_tier, client_tls):
    tier = await tls_tier(bindings=(Binding(port=0, tls=TlsMode.IMPLICIT),))

    def send() -> None:
        client_tls.check_hostname = False
        with smtplib.SMTP_SSL("127.0.0.1", tier.ports[0], context=client_tls, timeout=10) as client:
            client.login("user", "pencil")
            client.sendmail("user@example.com", ["x@else.example"], b"From: user@example.com\r\n\r\nhi\r\n")

    await asyncio.to_thread(send)
    assert b"with ESMTPSA id" in tier.store.messages[0][1]
    assert [bound.tls for bound in tier.listeners.bound()] == ["Implicit"]


async def test_tls_client_that_closes_after_the_dot_still_gets_its_commit(tls_tier, client_tls):
    tier = await tls_tier()
    line = await tier.connect()
    await secure(line, client_tls)
    await line.script("EHLO c", "AUTH PLAIN " + plain(), "MAIL FROM:<>", "RCPT TO:<b@example.com>", "DATA")
    tier.store.gate = asyncio.Event()
    await line.send(b"From: user@example.com\r\n\r\n.\r\n")
    await asyncio.wait_for(tier.store.entered.wait(), 5)
    line.writer.close()
    tier.store.gate.set()
    await asyncio.wait_for(tier.store.arrived.wait(), 5)


async def test_connector_without_certificate_says_12014_and_offers_no_starttls(make_tier):
    tier = await make_tier(connector(auth_mechanisms=(AuthMechanism.TLS,)))
    line = await tier.connect()
    await line.reply()
    assert "STARTTLS" not in await line.ask("EHLO c.example")
    assert tier.count("postroad_certificate_events_total", connector="internet", event="12014") == 1
    assert '"code":12014' in tier.events()


PROXIED = Binding(port=0, proxy_protocol=ProxyProtocol(trusted_ranges=("127.0.0.0/8",)))
HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n"


async def test_client_address_comes_from_a_trusted_proxy(make_tier):
    tier = await make_tier(connector(bindings=(PROXIED,), remote_ip_ranges=("192.0.2.0/24",)))
    line = await tier.connect()
    await line.send(HEADER + b"EHLO early.example\r\n")
    assert (await line.reply())[:3] == "220"
    assert (await line.reply())[:3] == "250"
    await line.script("MAIL FROM:<>", "RCPT TO:<b@example.com>", "DATA")
    await line.send(b".\r\n")
    await line.reply()
    envelope, content = tier.store.messages[0]
    assert envelope.client == "192.0.2.7"
    assert b"([192.0.2.7])" in content


async def test_proxy_header_comes_before_implicit_tls(tls_tier, client_tls):
    binding = Binding(port=0, tls=TlsMode.IMPLICIT, proxy_protocol=PROXIED.proxy_protocol)
    tier = await tls_tier(bindings=(binding,), remote_ip_ranges=("192.0.2.0/24",))
    line = await tier.connect()
    line.writer.write(HEADER)
    await line.writer.start_tls(client_tls, server_hostname=NAME)
    assert await line.reply() == "220 mail.example.com ESMTP Postroad"
    assert "AUTH PLAIN LOGIN" in await line.ask("EHLO c.example")


@pytest.mark.parametrize("header", [b"EHLO c.example\r\nNOOP\r\n", b"PROXY TCP4 nonsense nonsense\r\n"])
async def test_trusted_proxy_without_a_valid_header_is_dropped(make_tier, header):
    tier = await make_tier(connector(bindings=(PROXIED,)))
    line = await tier.connect()
    await line.send(header)
    with contextlib.suppress(ConnectionResetError):
        assert await line.reader.read() == b""
    assert tier.count("postroad_sessions_refused_total", reason="proxy_header") == 1


async def test_header_of_an_untrusted_peer_is_just_a_bad_command(make_tier):
    binding = Binding(port=0, proxy_protocol=ProxyProtocol(trusted_ranges=("192.0.2.1/32",)))
    tier = await make_tier(connector(bindings=(binding,)))
    line = await tier.connect()
    assert (await line.reply())[:3] == "220"
    await line.send(HEADER)
    assert await line.reply() == "500 5.5.1 Command not recognized"


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def old(pem) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=pem[0].decode())
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA")
    return context


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: mail.example.com\r\n\r\n", "not_tls"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "protocol_error"),
        (b"", "disconnected"),
        (b"\x16\x03\x01\x01\x00\x01", "disconnected"),
    ],
)
async def test_a_failed_handshake_is_counted_and_logged_by_its_reason(tls_tier, mode, said, reason):
    tier = await tls_tier(bindings=(Binding(port=0, tls=mode),))
    line = await tier.connect()
    if mode is TlsMode.STARTTLS:
        await line.start()
        await line.ask("STARTTLS")
    await line.send(said)
    if reason == "disconnected":
        line.close()
    await until(lambda: tier.count("postroad_tls_handshakes_total", direction="in", version="", result=reason))
    await until(lambda: len(tier.listeners.sessions) == 0)
    assert tier.count("postroad_sessions_open") == 0
    assert '"tls.failed"' in tier.events()
    assert f'"reason":"{reason}"' in tier.events()
    assert '"connector":"internet","client":"127.0.0.1"' in tier.events()


async def test_a_suite_that_the_policy_forbids_is_a_reason_of_its_own(tls_tier, pem):
    tier = await tls_tier()
    line = await tier.connect()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await secure(line, old(pem))
    await until(lambda: tier.count("postroad_tls_handshakes_total", result="no_shared_cipher"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_that_refuses_the_certificate_is_counted_as_such(tls_tier, version):
    tier = await tls_tier()
    distrusting = ssl.create_default_context()
    distrusting.maximum_version = version

    def connect() -> None:
        # asyncio's own client hangs up without sending its alert.
        with smtplib.SMTP("127.0.0.1", tier.ports[0], timeout=10) as client:
            client.starttls(context=distrusting)

    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.to_thread(connect)
    await until(lambda: tier.count("postroad_tls_handshakes_total", result="certificate_refused"))


async def test_a_flood_of_failed_handshakes_is_counted_whole_and_logged_in_part(tls_tier):
    tier = await tls_tier(bindings=(Binding(port=0, tls=TlsMode.IMPLICIT),))
    for _ in range(50):
        line = await tier.connect()
        await line.send(b"EHLO this.is.no.tls\r\n")
        line.close()
    await until(lambda: tier.count("postroad_tls_handshakes_total", direction="in") == 50)
    assert tier.events().count('"tls.failed"') == 10


async def test_clients_that_never_finish_their_handshake_count_towards_the_caps(tls_tier, client_tls):
    tier = await tls_tier(
        bindings=(Binding(port=0, tls=TlsMode.IMPLICIT),), limits=ReceiveLimits(connections_per_source=2)
    )
    mute = [await tier.connect() for _ in range(2)]
    await until(lambda: sum(tier.listeners.sessions._by_source.values()) == 2)
    refused = await tier.connect()
    assert await refused.at_end()
    assert tier.count("postroad_sessions_refused_total", reason="connections_per_source") == 1
    mute[0].close()
    await until(lambda: sum(tier.listeners.sessions._by_source.values()) == 1)
    line = await tier.connect(ssl=client_tls, server_hostname=NAME)
    assert (await line.reply()).startswith("220")
    assert sum(tier.listeners.sessions._by_source.values()) == 2
    assert (await line.ask("QUIT")).startswith("221")
    await until(lambda: sum(tier.listeners.sessions._by_source.values()) == 1)


async def test_a_connection_that_is_reset_in_the_middle_of_its_handshake_leaves_no_session_behind(tls_tier):
    tier = await tls_tier()
    for _ in range(5):
        line = await tier.connect()
        await line.start()
        await line.ask("STARTTLS")
        # Closing with unread input, or with linger 0, sends a reset.
        sock = line.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await line.send(b"\x16\x03\x01")
        line.writer.transport.abort()
    await until(lambda: tier.count("postroad_tls_handshakes_total", direction="in", result="disconnected") == 5)
    await until(lambda: len(tier.listeners.sessions) == 0)
    assert tier.count("postroad_sessions_open") == 0
