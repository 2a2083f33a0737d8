"""SASL lines as RFC 4954 frames them; PLAIN and LOGIN; several sources behind them."""

from __future__ import annotations

import asyncio
from base64 import b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad_transport.auth.accounts import Account, AuthUnavailableError, parse_accounts
from postroad_transport.auth.authenticator import Authenticator
from postroad_transport.auth.exchange import Accepted, Channel, Exchange, Rejected
from postroad_transport.auth.fair_queue import ANYBODY, Origin
from postroad_transport.auth.password_sources import PasswordSources
from postroad_transport.auth.plain import Login, Plain
from postroad_transport.auth.sasl import MAX_RESPONSE, Challenge, SaslError, decode
from postroad_transport.auth.sources import Sources

words = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=60)
CHANNEL = Channel("192.0.2.1")


class Known:
    """A source that knows one user and records what it is asked."""

    def __init__(self, username: str = "", password: str = "", *, down: bool = False) -> None:
        self.user = username, password
        self.down = down
        self.asked: list[tuple[str, str]] = []

    async def verify(self, username: str, password: str, _: Origin = ANYBODY, /) -> Account | None:
        self.asked.append((username, password))
        if self.down:
            raise AuthUnavailableError
        return Account(username) if (username, password) == self.user else None


def exchange(name: str, source: Known | None = None) -> Exchange:
    source = source or Known()
    return Plain(source) if name == "PLAIN" else Login(source)


async def failure(server: Exchange, response: bytes) -> str:
    with pytest.raises(SaslError) as caught:
        await server.step(response)
    return caught.value.reply.line


@settings(deadline=None)
@given(words, words, st.booleans(), st.booleans())
async def test_plain_round_trips_with_and_without_an_initial_response(username, password, initial, repeat_identity):
    server = exchange("PLAIN", Known(username, password))
    authzid = username if repeat_identity else ""
    if not initial:
        assert await server.step(None) == Challenge(b"")
    assert await server.step(f"{authzid}\0{username}\0{password}".encode()) == Accepted(Account(username), username)


@settings(deadline=None)
@given(words, words, st.booleans())
async def test_login_round_trips_with_and_without_an_initial_response(username, password, initial):
    server = exchange("LOGIN", Known(username, password))
    if not initial:
        assert (await server.step(None)).encode() == b"334 VXNlcm5hbWU6\r\n"
    assert (await server.step(username.encode())).encode() == b"334 UGFzc3dvcmQ6\r\n"
    assert await server.step(password.encode()) == Accepted(Account(username), username)


@pytest.mark.parametrize("name", ["PLAIN", "LOGIN"])
async def test_a_wrong_password_names_the_user_it_was_for(name):
    server = exchange(name)
    if name == "LOGIN":
        await server.step(b"kim")
    answer = await server.step(b"wrong" if name == "LOGIN" else b"\0kim\0wrong")
    assert answer == Rejected("kim")


async def test_acting_as_somebody_else_fails_like_a_wrong_password():
    source = Known("user", "password")
    answer = await exchange("PLAIN", source).step(b"admin\0user\0password")
    assert answer == Rejected("user", "authorization_identity")
    assert source.asked == []


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"user",
        b"user\0password",
        b"\0\0password",
        b"\0user\0",
        b"\0user\0pass\0word",
        b"\0us\xffer\0password",
        b"\0user\0\xc3(",
        b"\0\xed\xa0\x80\0password",
    ],
)
async def test_a_malformed_plain_message_gets_501_5_5_2(message):
    assert (await failure(exchange("PLAIN"), message)).startswith("501 5.5.2 ")


@pytest.mark.parametrize("message", [b"", b"us\0er", b"\xff"])
async def test_a_malformed_login_name_gets_501_5_5_2(message):
    assert (await failure(exchange("LOGIN"), message)).startswith("501 5.5.2 ")


@settings(deadline=None)
@given(st.sampled_from(["PLAIN", "LOGIN"]), st.lists(st.none() | st.binary(max_size=60), min_size=1, max_size=4))
async def test_arbitrary_messages_raise_nothing_but_sasl_errors(name, messages):
    source = Known()
    server = exchange(name, source)
    for message in messages:
        try:
            answer = await server.step(message)
        except SaslError:
            return
        if isinstance(answer, Rejected):
            assert all(map(all, source.asked))
            return


@pytest.mark.parametrize(
    "response",
    [b"!!!!", b"QQ", b"QQ==QQ==", b"====", b"QUJD\tQUJD", b" QUJD", b"\xff\xfe", b"A" * (MAX_RESPONSE - 2) + b"*="],
)
@pytest.mark.parametrize("initial", [True, False])
def test_bad_base64_gets_501_5_5_2(response, initial):
    with pytest.raises(SaslError) as caught:
        decode(response, initial=initial)
    assert caught.value.reply.line.startswith("501 5.5.2 ")


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_every_response_is_read_as_it_was_meant(data, initial):
    assert decode(b64encode(data) or (b"=" if initial else b""), initial=initial) == data


def test_an_asterisk_cancels_but_is_no_initial_response():
    with pytest.raises(SaslError, match=r"^501 5\.7\.0 Authentication cancelled$"):
        decode(b"*")
    with pytest.raises(SaslError, match=r"^501 5\.5\.2 "):
        decode(b"*", initial=True)


def test_a_line_of_the_greatest_length_is_taken_and_a_longer_one_is_not():
    longest = b"A" * (MAX_RESPONSE // 4 * 4)
    assert len(decode(longest)) == MAX_RESPONSE // 4 * 3
    with pytest.raises(SaslError, match=r"^500 5\.5\.6 "):
        decode(b"A" * (MAX_RESPONSE + 1))


@pytest.mark.parametrize("name", ["", "CRAM-MD5", "PLAINX", "\uff30LAIN"])
def test_an_unknown_mechanism_gets_504(name):
    authenticator = Authenticator({"PLAIN": lambda _: exchange("PLAIN")})
    assert isinstance(authenticator.begin("PLAIN", CHANNEL), Plain)
    with pytest.raises(SaslError, match=r"^504 5\.5\.4 Unrecognized authentication type$"):
        authenticator.begin(name, CHANNEL)


async def test_a_listed_name_is_never_looked_up_elsewhere():
    accounts = parse_accounts(b"kim:$2b$04$abcdefghijklmnopqrstuuTi6yk6h5vNS5vQHj4UMi5g8hhtcSZTe")
    directory = Known("kim", "directory password")
    assert await PasswordSources(accounts, [directory]).verify("kim", "directory password") is None
    assert directory.asked == []


async def test_the_first_directory_that_takes_the_password_counts():
    first, second = Known("kim", "a"), Known("kim", "b")
    sources = PasswordSources(parse_accounts(b""), [first, second])
    assert await sources.verify("kim", "b") == Account("kim")
    assert await sources.verify("kim", "a") == Account("kim")
    assert second.asked == [("kim", "b")]
    assert await sources.verify("kim", "c") is None


async def test_a_directory_that_is_down_makes_a_failure_unclear_and_stops_no_other_one():
    sources = PasswordSources(None, [Known(down=True), Known("kim", "a")])
    assert await sources.verify("kim", "a") == Account("kim")
    with pytest.raises(AuthUnavailableError):
        await sources.verify("kim", "b")


class Pool:
    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


async def settled(sources: Sources) -> None:
    while sources._closing:
        await asyncio.gather(*sources._closing)
    await asyncio.sleep(0)


async def test_a_source_outlives_a_reload_and_ends_with_its_last_user():
    sources = Sources()
    old, new = sources.lease(), sources.lease()
    pool, gone = old.use("ldap a", Pool), old.use("ldap b", Pool)
    assert new.use("ldap a", Pool) is pool
    assert old.use("ldap a", Pool) is pool
    assert gone is not pool
    del old
    await asyncio.sleep(0)
    await settled(sources)
    assert (pool.closed, gone.closed, len(sources)) == (False, True, 1)
    del new
    await asyncio.sleep(0)
    await settled(sources)
    assert (pool.closed, len(sources)) == (True, 0)


async def test_closing_closes_what_is_in_use():
    sources = Sources()
    lease = sources.lease()
    pool = lease.use("ldap", Pool)
    await sources.close()
    assert pool.closed
