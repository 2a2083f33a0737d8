"""Logins checked by a real OpenLDAP, over StartTLS and LDAPS."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path

import directory_server
import pytest
from directory_server import BASE, SEARCHER, SEARCHER_PASSWORD, Directory
from login_kit import Pki, over_tls, submission
from trust_kit import party

from postroad_transport.config import Authentication
from postroad_transport.config.directories import Ldap, LdapServer, LdapTls

pytestmark = pytest.mark.skipif(bool(directory_server.missing()), reason=directory_server.missing() or "-")
TEMPORARY = "454 4.7.0"


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory, pki):
    server = Directory(tmp_path_factory.mktemp("slapd"), pki.chain_file, pki.key_file).prepare().start()
    yield server
    server.stop()


@pytest.fixture
def make(make_tier, tmp_path, pki, directory):
    """Make a tier that asks the directory; the fields of Ldap can be replaced."""

    async def make(tls: LdapTls = LdapTls.STARTTLS, **fields):
        pki.server.files(tmp_path)
        credentials = {"username": SEARCHER, "password": SEARCHER_PASSWORD}
        Path(tmp_path / "secrets" / "search.json").write_text(json.dumps(credentials))
        port = directory.ldaps_port if tls is LdapTls.LDAPS else directory.starttls_port
        defaults = {
            "servers": (LdapServer(host="localhost", port=port, tls=tls),),
            "base_dn": BASE,
            "filter": "(&(objectClass=person)(|(uid={user})(mail={user})))",
            "account_attribute": "uid",
            "address_attributes": ("mail", "proxyAddresses"),
            "credentials_file": "search.json",
            "ca_bundle": pki.authority.pem,
        }
        return await submission(make_tier, pki, Authentication(ldap=Ldap(**defaults | fields)))

    return make


async def login(tier, pki, name: str, password: str) -> str:
    line, _ = await over_tls(tier, pki)
    return await line.ask("AUTH PLAIN " + base64.b64encode(f"\0{name}\0{password}".encode()).decode())


@pytest.mark.parametrize("tls", [LdapTls.STARTTLS, LdapTls.LDAPS])
async def test_a_user_logs_in_by_name_or_address_and_sends_as_the_addresses_of_the_entry(make, pki, tls):
    tier = await make(tls)
    for name in ("alice", "alice@example.com"):
        line, offered = await over_tls(tier, pki)
        assert "AUTH PLAIN LOGIN" in offered
        credentials = base64.b64encode(f"\0{name}\0pencil".encode()).decode()
        assert (await line.ask(f"AUTH PLAIN {credentials}"))[:3] == "235"
        assert (await line.ask("MAIL FROM:<bob@example.com>"))[:9] == "550 5.7.1"
        await line.script("MAIL FROM:<sales@example.com>", "RCPT TO:<x@else.example>", "DATA")
        await line.send(b"From: sales@example.com\r\n\r\n.\r\n")
        assert (await line.reply())[:3] == "250"
    assert {envelope.account for envelope, _ in tier.store.messages} == {"alice"}


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice", "wrong"),
        ("nobody", "pencil"),
        ("*", "pencil"),
        ("a*", "pencil"),
        ("alice)(uid=*", "pencil"),
        ("twins@example.com", "pencil"),
        ("nopass", "pencil"),
        (":=alice", "pencil"),
    ],
)
async def test_who_is_not_known_or_not_alone_or_has_another_password_is_refused_alike(make, pki, name, password):
    assert await login(await make(), pki, name, password) == "535 5.7.3 Authentication unsuccessful"


async def test_a_name_with_every_special_character_and_a_password_beyond_ascii_work(make, pki):
    assert (await login(await make(), pki, "bob(*)\\", "bär"))[:3] == "235"


async def test_an_anonymous_bind_in_disguise_is_no_login(make, pki):
    tier = await make()
    line, _ = await over_tls(tier, pki)
    await line.ask("AUTH LOGIN")
    await line.ask(base64.b64encode(b"alice").decode())
    assert (await line.ask(""))[:1] == "5"
    # A soft hyphen is nothing to SASLprep (RFC 4013): prepared, this password would be empty.
    assert (await login(tier, pki, "alice", "\u00ad"))[:3] == "535"


@pytest.mark.parametrize(
    "fields",
    [
        {"ca_bundle": party("stranger", authority=True).pem},
        {"servers": (LdapServer(host="127.0.0.2", port=1, tls=LdapTls.LDAPS),)},
        {"base_dn": "dc=elsewhere"},
        {"credentials_file": ""},
    ],
    ids=["unknown CA", "nobody listens", "no such base", "anonymous search"],
)
async def test_a_directory_that_cannot_tell_is_a_temporary_failure(make, pki, fields):
    tier = await make(**fields)
    assert (await login(tier, pki, "alice", "pencil")).startswith(TEMPORARY)
    assert tier.count("postroad_authentication_lookups_total", source="ldap", result="unavailable") == 1


async def test_a_certificate_for_another_name_is_not_taken(make, pki, directory):
    other = LdapServer(host="127.0.0.1", port=directory.ldaps_port, tls=LdapTls.LDAPS)
    assert (await login(await make(servers=(other,)), pki, "alice", "pencil")).startswith(TEMPORARY)


async def test_without_starttls_the_directory_sees_no_password(make, pki):
    # This slapd refuses binds in clear; that it is not even asked for the user's is in the unit tests.
    assert (await login(await make(LdapTls.CLEAR), pki, "alice", "pencil")).startswith(TEMPORARY)


async def test_the_next_server_is_asked_where_the_first_is_down(make, pki, directory):
    down = LdapServer(host="localhost", port=directory_server.free_port(), tls=LdapTls.LDAPS)
    up = LdapServer(host="localhost", port=directory.ldaps_port, tls=LdapTls.LDAPS)
    assert (await login(await make(servers=(down, up)), pki, "alice", "pencil"))[:3] == "235"


async def test_a_directory_that_hangs_holds_no_login_longer_than_its_limit_and_heals(make, pki, directory):
    tier = await make(timeout=2.0, operation_timeout=1.0)
    assert (await login(tier, pki, "alice", "pencil"))[:3] == "235"
    directory.pause()
    try:
        begun = time.monotonic()
        replies = await asyncio.gather(*(login(tier, pki, "bob@example.com", str(number)) for number in range(12)))
        assert {reply[:9] for reply in replies} == {TEMPORARY}
        assert time.monotonic() - begun < 8
        # Those whose password was right a moment ago do not notice.
        assert (await login(tier, pki, "alice", "pencil"))[:3] == "235"
    finally:
        directory.resume()
    async with asyncio.timeout(30):
        while (await login(tier, pki, "bob@example.com", "wrong")).startswith(TEMPORARY):
            await asyncio.sleep(0.2)


async def test_neither_log_nor_metrics_hold_a_password(make, pki, caplog):
    tier = await make()
    caplog.set_level("DEBUG")
    await login(tier, pki, "alice", "hush-hush")
    await login(tier, pki, "alice", "pencil")
    assert "hush-hush" not in tier.events() + caplog.text
    assert SEARCHER_PASSWORD not in tier.events() + caplog.text
