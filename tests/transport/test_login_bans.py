"""Automatic bans as clients see them."""

from __future__ import annotations

import asyncio
import base64
import time

import bcrypt
import pytest
from conftest import INTERNET, connector
from scramp import ScramClient

from postroad_transport.auth import authenticator
from postroad_transport.auth.accounts import Account
from postroad_transport.auth.ban_store import ADDRESS, BanStore
from postroad_transport.auth.check_gate import CheckGate, OverloadedError
from postroad_transport.auth.fair_queue import ANYBODY, Origin
from postroad_transport.auth.scram_keys import derive
from postroad_transport.config import (
    Authentication,
    AuthMechanism,
    Bans,
    Binding,
    Grant,
    Permission,
    Principal,
    ReceiveLimits,
    TlsMode,
)
from postroad_transport.smtp import sessions

USERS_ONLY = (Grant(principal=Principal.AUTHENTICATED_USERS, permission=Permission.SUBMIT),)
BANNED = "421 4.7.0 Too many failed logins from your address, try again later"
CLOSED = "454 4.7.0 Too many failed logins to this account, try again later"


def plain(user: str = "user", password: str = "pencil") -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()


@pytest.fixture
def store(tmp_path):
    opened = BanStore.open(tmp_path / "bans.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def make(make_tier, tmp_path, store):
    (tmp_path / "secrets").mkdir()
    hashed = bcrypt.hashpw(b"pencil", bcrypt.gensalt(4)).decode()
    lines = [f"user:{hashed}", f"kim:{derive('pencil', iterations=4096)}"]
    (tmp_path / "secrets" / "users").write_text("\n".join(lines))

    async def make(*, grants=USERS_ONLY, tarpit=0.0, tls=TlsMode.STARTTLS, **bans):
        return await make_tier(
            connector(
                grants=grants,
                bindings=(Binding(port=0, tls=tls),),
                auth_mechanisms=(AuthMechanism.BASIC_AUTH,),
                limits=ReceiveLimits(tarpit=tarpit),
                authentication=Authentication(
                    accounts_file="users", bans=Bans(**{"failures": 3, "account_failures": 0, **bans})
                ),
            ),
            bans=store,
        )

    return make


async def from_address(tier, ip: str):
    line = await tier.connect(local_addr=(ip, 0))
    await line.start()
    return line


async def test_a_banned_address_is_refused_at_connect_where_nothing_can_be_done_without_a_login(make):
    tier = await make()
    line = await from_address(tier, "127.0.0.2")
    replies = await line.script(*[plain("user", "wrong")] * 3)
    assert [reply[:3] for reply in replies] == ["535"] * 3
    again = await tier.connect(local_addr=("127.0.0.2", 0))
    assert await again.reply() == BANNED
    assert await again.at_end()
    good = await from_address(tier, "127.0.0.3")
    assert (await good.ask(plain()))[:3] == "235"
    assert tier.count("postroad_sessions_refused_total", reason="banned") == 1
    assert tier.count("postroad_bans_total", kind="address") == 1
    assert tier.count("postroad_ban_refusals_total", kind="address") == 1
    assert tier.events().count('"session.refused"') == 0


@pytest.mark.parametrize("grants", [USERS_ONLY, USERS_ONLY + INTERNET], ids=["at connect", "at its login"])
async def test_a_banned_address_waits_for_its_refusal_so_that_it_does_not_come_again_at_once(make, grants):
    tier = await make(grants=grants, tarpit=0.05, failures=1)
    line = await from_address(tier, "127.0.0.2")
    await line.ask(plain("user", "wrong"))
    clock = asyncio.get_running_loop().time
    began = clock()
    if grants == USERS_ONLY:
        again = await tier.connect(local_addr=("127.0.0.2", 0))
        assert await again.reply() == BANNED
    else:
        assert await line.ask(plain()) == BANNED
    assert clock() - began >= 0.15


async def test_a_banned_address_waits_on_an_implicit_tls_port_too(make, store):
    tier = await make(tarpit=0.05, tls=TlsMode.IMPLICIT)
    await store.add_failure("internet", {ADDRESS: ("127.0.0.2", 1)}, Bans(), time.time())
    clock = asyncio.get_running_loop().time
    began = clock()
    line = await tier.connect(local_addr=("127.0.0.2", 0))
    assert await line.at_end()
    assert clock() - began >= 0.15
    assert tier.count("postroad_sessions_refused_total", reason="banned") == 1


async def test_a_login_that_had_no_turn_waits_for_its_reply_as_long_and_is_no_failed_one(make, monkeypatch):
    async def sent_away(*_: object) -> None:
        raise OverloadedError

    monkeypatch.setattr(CheckGate, "run", sent_away)
    tier = await make(tarpit=0.05)
    line = await from_address(tier, "127.0.0.2")
    clock = asyncio.get_running_loop().time
    began = clock()
    assert (await line.ask(plain("user", "wrong")))[:9] == "454 4.7.0"
    assert clock() - began >= 0.15
    assert tier.count("postroad_authentications_total", result="overloaded") == 1
    assert tier.count("postroad_authentications_total", result="failed") == 0


async def test_only_so_many_banned_clients_are_kept_waiting(make, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_HELD", 1)
    tier = await make(tarpit=600.0, failures=1)
    guess = asyncio.create_task((await from_address(tier, "127.0.0.2")).ask(plain("user", "wrong")))
    while not tier.count("postroad_bans_total", kind="address"):
        await asyncio.sleep(0)
    held = await tier.connect(local_addr=("127.0.0.2", 0))
    while not tier.count("postroad_sessions_refused_total", reason="banned"):
        await asyncio.sleep(0)
    again = await tier.connect(local_addr=("127.0.0.2", 0))
    assert await again.reply() == BANNED
    guess.cancel()
    held.writer.close()


async def test_a_banned_address_may_still_send_what_needs_no_login(make):
    tier = await make(grants=USERS_ONLY + INTERNET)
    line = await from_address(tier, "127.0.0.2")
    await line.script(*[plain("user", "wrong")] * 3)
    again = await from_address(tier, "127.0.0.2")
    replies = await again.script("MAIL FROM:<a@client.example>", "RCPT TO:<b@example.com>", "RSET", plain())
    assert [reply[:3] for reply in replies] == ["250", "250", "250", "421"]
    assert replies[-1] == BANNED
    assert await again.at_end()


async def test_a_session_that_was_open_before_the_ban_cannot_log_in_either(make):
    tier = await make()
    waiting = await from_address(tier, "127.0.0.2")
    line = await from_address(tier, "127.0.0.2")
    await line.script(*[plain("user", "wrong")] * 3)
    assert await waiting.ask(plain()) == BANNED


@pytest.mark.parametrize("password", ["pencil", "wrong"])
async def test_a_closed_account_answers_alike_whatever_the_password(make, password):
    tier = await make(failures=0, account_failures=3)
    for n, user in enumerate(["user", "User", "user"]):
        line = await from_address(tier, f"127.0.1.{n}")
        await line.ask(plain(user, "wrong"))
    line = await from_address(tier, "127.0.0.9")
    assert await line.ask(plain("user", password)) == CLOSED
    assert await line.ask(plain("kim")) == "235 2.7.0 Authentication successful"
    assert tier.count("postroad_ban_refusals_total", kind="account") == 1


async def test_the_usual_address_of_an_attacked_account_goes_on(make):
    tier = await make(failures=0, account_failures=3)
    home = await from_address(tier, "127.0.0.5")
    assert (await home.ask(plain()))[:3] == "235"
    for n in range(4):
        line = await from_address(tier, f"127.0.1.{n}")
        await line.ask(plain("user", "wrong"))
    assert (await (await from_address(tier, "127.0.0.5")).ask(plain()))[:3] == "235"
    assert await (await from_address(tier, "127.0.0.6")).ask(plain()) == CLOSED


async def test_scram_tells_nothing_of_the_password_of_a_closed_account(make):
    tier = await make(failures=0, account_failures=1)
    await (await from_address(tier, "127.0.1.1")).ask(plain("kim", "wrong"))
    line = await from_address(tier, "127.0.0.9")
    first = ScramClient(["SCRAM-SHA-256"], "kim", "pencil").get_client_first()
    assert await line.ask("AUTH SCRAM-SHA-256 " + base64.b64encode(first.encode()).decode()) == CLOSED


async def test_good_credentials_without_the_permission_are_no_guess(make):
    tier = await make(grants=(), failures=2)
    line = await from_address(tier, "127.0.0.2")
    await line.script(plain(), plain())
    assert (await (await from_address(tier, "127.0.0.2")).ask(plain()))[:3] == "535"
    assert tier.count("postroad_bans_total") == 0


class Aliases:
    """A directory that knows one account by two names."""

    async def verify(self, username: str, password: str, _: Origin = ANYBODY, /) -> Account | None:
        good = username in ("zoe", "zoe@mail.example") and password == "pencil"
        return Account("zoe") if good else None


@pytest.fixture
def aliases(monkeypatch):
    monkeypatch.setattr(authenticator, "password_sources", lambda *_: [Aliases()])


async def test_an_account_that_is_closed_by_one_of_its_names_takes_no_right_password_by_it(make, aliases):
    tier = await make(failures=0, account_failures=2)
    for n in range(2):
        await (await from_address(tier, f"127.0.1.{n}")).ask(plain("zoe@mail.example", "wrong"))
    for password in ("wrong", "pencil"):
        assert await (await from_address(tier, "127.0.0.9")).ask(plain("zoe@mail.example", password)) == CLOSED


async def test_an_address_is_usual_for_the_name_that_the_user_gives_and_for_the_account(make, aliases):
    tier = await make(failures=0, account_failures=2)
    home = await from_address(tier, "127.0.0.5")
    assert (await home.ask(plain("zoe@mail.example")))[:3] == "235"
    for name in ("zoe@mail.example", "zoe") * 2:
        await (await from_address(tier, "127.0.1.1")).ask(plain(name, "wrong"))
    for name in ("zoe@mail.example", "zoe"):
        assert (await (await from_address(tier, "127.0.0.5")).ask(plain(name)))[:3] == "235"
        assert await (await from_address(tier, "127.0.0.6")).ask(plain(name)) == CLOSED
