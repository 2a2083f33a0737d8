"""X-EXPS GSSAPI with tickets of a real KDC: who is offered it, who gets in, as what (spec.md 1.3 and 2.1)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Line, connector, tier_config
from kdc_kit import Client, Realm, needs_kdc, running_realm
from ticket_login import log_in

from postroad_transport.auth.ban_store import BanStore
from postroad_transport.config import Authentication, AuthMechanism, Bans, Kerberos, Role
from postroad_transport.config.files import SECRETS_DIRECTORY
from postroad_transport.config.model import ReceiveLimits
from postroad_transport.policy.groups import receive_grants

pytestmark = needs_kdc

HOST = "smtp/mail.example.com"
LEGACY, MACHINE, STRANGER = "host/legacy1.mail.example", "LEGACY2$", "host/stranger.mail.example"
EXCHANGE, INTEGRATED = AuthMechanism.EXCHANGE_SERVER, AuthMechanism.INTEGRATED
SERVERS, USERS = receive_grants("ExchangeLegacyServers", Role.HUB), receive_grants("ExchangeUsers", Role.HUB)
OK, BAD = "235 2.7.0 Authentication successful", "535 5.7.3 Authentication unsuccessful"


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Realm]:
    with running_realm(tmp_path_factory.mktemp("kdc")) as made:
        for principal in (LEGACY, MACHINE, STRANGER):
            made.add(principal, "secret")
        made.add(HOST)
        made.keytab(HOST)
        with made.in_process():
            yield made


@pytest.fixture
def make_hub(make_tier, tmp_path: Path, realm: Realm):
    """Start a tier with LEGACY and MACHINE listed; keyword arguments replace fields of its connector."""

    async def make(*, servers=(LEGACY, MACHINE), bans=None, store=None, **fields):
        (tmp_path / SECRETS_DIRECTORY).mkdir(exist_ok=True)
        (tmp_path / SECRETS_DIRECTORY / "keytab").write_bytes((realm.directory / "service.keytab").read_bytes())
        kerberos = Kerberos(keytab_file="keytab", legacy_servers=tuple(f"{name}@{realm.name}" for name in servers))
        given = {
            "auth_mechanisms": (EXCHANGE,),
            "grants": SERVERS,
            "limits": ReceiveLimits(tarpit=0.0),
            "authentication": Authentication(kerberos=kerberos, bans=bans or Bans(failures=0, account_failures=0)),
        }
        return await make_tier(config=tier_config(connector(**given | fields)), bans=store)

    return make


@pytest.fixture
def client(realm: Realm):
    """Make the Kerberos client of a principal."""
    return lambda principal: Client(realm.log_in(principal, "secret"), HOST, realm.name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BanStore]:
    opened = BanStore.open(tmp_path / "bans.sqlite")
    yield opened
    opened.close()


async def greeted(tier) -> tuple[Line, list[str]]:
    """Return a connection, and what EHLO offers on it."""
    line = await tier.connect()
    await line.reply()
    return line, await offers(line)


async def offers(line: Line) -> list[str]:
    return [offer[4:] for offer in (await line.ask("EHLO legacy1.mail.example")).split("\n")]


def failures(tier) -> list[tuple[str, str, str]]:
    found = [event for event in map(json.loads, tier.events().splitlines()) if event["event"] == "auth.failed"]
    return [(event["account"], event["mechanism"], event["reason"]) for event in found]


@pytest.mark.parametrize("initial", [False, True], ids=["asked", "at once"])
@pytest.mark.parametrize("principal", [LEGACY, MACHINE])
async def test_a_listed_principal_becomes_a_legacy_server(make_hub, client, principal, initial):
    tier = await make_hub()
    line, offered = await greeted(tier)
    assert "X-EXPS GSSAPI" in offered
    assert not [offer for offer in offered if offer.startswith(("AUTH", "XEXCH50"))]
    assert await log_in(line, client(principal), initial=initial) == OK
    assert "XEXCH50" in await offers(line)
    replies = await line.script("MAIL FROM:<boss@example.com>", "RCPT TO:<x@elsewhere.example>", "DATA")
    assert [reply[:3] for reply in replies] == ["250", "250", "354"]
    await line.send(b"From: boss@example.com\r\nX-MS-Exchange-Organization-SCL: -1\r\n\r\nbody\r\n.\r\n")
    assert (await line.reply())[:3] == "250"
    ((_, content),) = tier.store.messages
    assert b"X-MS-Exchange-Organization-AuthAs: Internal\r\n" in content
    assert b"X-MS-Exchange-Organization-AuthMechanism: X-EXPS GSSAPI\r\n" in content
    assert b"SCL" not in content
    assert tier.count("postroad_authentications_total", mechanism="X-EXPS GSSAPI", result="ok") == 1
    assert failures(tier) == []


async def test_a_principal_that_is_not_listed_is_refused_as_everyone_else(make_hub, client, realm):
    tier = await make_hub()
    line, _ = await greeted(tier)
    assert await log_in(line, client(STRANGER)) == BAD
    assert await line.ask("MAIL FROM:<>") == "530 5.7.1 Client was not authenticated"
    assert failures(tier) == [(f"{STRANGER}@{realm.name}", "X-EXPS GSSAPI", "not_listed")]
    assert tier.count("postroad_authentications_total", mechanism="X-EXPS GSSAPI", result="failed") == 1


async def test_the_same_name_in_another_realm_is_another_principal(make_hub, client, realm):
    kerberos = Kerberos(keytab_file="keytab", legacy_servers=(LEGACY, f"{LEGACY}@OTHER.TEST"), realms=(realm.name,))
    tier = await make_hub(authentication=Authentication(kerberos=kerberos))
    line, _ = await greeted(tier)
    assert await log_in(line, client(LEGACY)) == BAD


async def test_failures_end_the_connection_and_ban_the_address(make_hub, client, store):
    tier = await make_hub(bans=Bans(failures=3, account_failures=0), store=store)
    line, _ = await greeted(tier)
    assert [await log_in(line, client(STRANGER)) for _ in range(2)] == [BAD, BAD]
    assert await log_in(line, client(STRANGER)) == BAD
    assert await line.reply() == "421 4.7.0 Too many failed authentication attempts"
    again = await tier.connect()
    # Nothing but a login leads anywhere here, so that a banned address need not even be greeted.
    assert await again.reply() == "421 4.7.0 Too many failed logins from your address, try again later"


async def test_by_auth_a_listed_principal_is_an_ordinary_account(make_hub, client):
    tier = await make_hub(auth_mechanisms=(EXCHANGE, INTEGRATED), grants=SERVERS + USERS)
    line, offered = await greeted(tier)
    assert {"X-EXPS GSSAPI", "AUTH GSSAPI"} <= set(offered)
    assert await log_in(line, client(LEGACY), "AUTH GSSAPI") == OK
    assert "XEXCH50" not in await offers(line)
    not_as_sender = "550 5.7.1 Client does not have permission to send as this sender"
    assert await line.ask("MAIL FROM:<boss@example.com>") == not_as_sender


async def test_who_has_logged_in_one_way_does_not_log_in_again(make_hub, client):
    tier = await make_hub(auth_mechanisms=(EXCHANGE, INTEGRATED), grants=SERVERS + USERS)
    for first in ("X-EXPS GSSAPI", "AUTH GSSAPI"):
        line, _ = await greeted(tier)
        assert await log_in(line, client(LEGACY), first) == OK
        again = await line.script("X-EXPS GSSAPI", "AUTH GSSAPI")
        assert again == ["503 5.5.1 Authenticated already"] * 2


async def test_a_legacy_server_that_may_not_submit_is_told_so_at_mail(make_hub, client):
    tier = await make_hub(grants=())
    line, _ = await greeted(tier)
    assert await log_in(line, client(LEGACY)) == OK
    assert await line.ask("MAIL FROM:<>") == "550 5.7.1 Client does not have permission to submit to this server"


@pytest.mark.parametrize(
    "fields", [{"servers": ()}, {"auth_mechanisms": (AuthMechanism.TLS, INTEGRATED)}], ids=["nobody", "no mechanism"]
)
async def test_it_is_not_offered_where_nobody_is_listed_or_exchangeserver_is_off(make_hub, fields):
    tier = await make_hub(**fields)
    line, offered = await greeted(tier)
    assert not [offer for offer in offered if offer.startswith("X-EXPS")]
    assert await line.ask("X-EXPS GSSAPI") == "502 5.5.1 X-EXPS is not offered"
    assert tier.count("postroad_refusals_total", verb="X-EXPS", code="502") == 1


async def test_what_is_no_login_is_told_so(make_hub):
    tier = await make_hub(grants=SERVERS + receive_grants("AnonymousUsers", Role.HUB))
    line, _ = await greeted(tier)
    replies = await line.script("X-EXPS", "X-EXPS NTLM", "X-EXPS GSSAPI !", "X-EXPS GSSAPI a b", "AUTH GSSAPI")
    assert [reply[:3] for reply in replies] == ["501", "504", "501", "501", "502"]
    assert await line.ask("X-EXPS GSSAPI") == "334 "
    assert (await line.ask("*"))[:3] == "501"
    await line.ask("MAIL FROM:<>")
    assert await line.ask("X-EXPS GSSAPI") == "503 5.5.1 Not permitted during a mail transaction"
    old = await tier.connect()
    await old.reply()
    assert await old.ask("X-EXPS GSSAPI") == "503 5.5.1 Send EHLO first"
