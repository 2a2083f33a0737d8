"""OAUTHBEARER and XOAUTH2: what clients send, and how an exchange goes."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.bearer import (
    PARSERS,
    BearerExchange,
    BearerResponse,
    identify,
    parse_oauthbearer,
    parse_xoauth2,
)
from postroad_transport.auth.exchange import Accepted, ErrorChallenge, Rejected
from postroad_transport.auth.sasl import Challenge, SaslError

TOKENS = st.from_regex(r"[A-Za-z0-9._~+/-]{1,80}={0,2}", fullmatch=True)
NAMES = st.text(st.characters(blacklist_characters="\0\x01", blacklist_categories=("Cs",)), min_size=1, max_size=40)
ALICE = Account("alice", ("alice@example.com",))


class Source:
    """Knows one token, or is down."""

    def __init__(self, token: str = "", *, down: bool = False) -> None:
        self.token = token
        self.down = down
        self.asked: list[tuple[str, str]] = []

    async def verify_token(self, token: str, username: str) -> Account | None:
        self.asked.append((token, username))
        if self.down:
            raise AuthUnavailableError("down")
        return ALICE if token == self.token else None


def oauthbearer(token: str, name: str = "", *pairs: str) -> bytes:
    escaped = name.replace("=", "=3D").replace(",", "=2C")
    header = f"n,a={escaped}," if name else "n,,"
    return "\x01".join((header, *pairs, f"auth=Bearer {token}", "", "")).encode()


def xoauth2(token: str, name: str) -> bytes:
    return f"user={name}\x01auth=Bearer {token}\x01\x01".encode()


@given(TOKENS, NAMES | st.just(""))
def test_oauthbearer_gives_back_name_and_token(token: str, name: str) -> None:
    sent = oauthbearer(token, name, "host=mail.example.com", "port=587")
    assert parse_oauthbearer(sent) == BearerResponse(name, token)


@given(TOKENS, NAMES)
def test_xoauth2_gives_back_name_and_token(token: str, name: str) -> None:
    assert parse_xoauth2(xoauth2(token, name)) == BearerResponse(name, token)


@given(st.sampled_from(sorted(PARSERS)), st.binary(max_size=200))
def test_whatever_is_sent_is_read_or_refused_as_malformed(mechanism: str, sent: bytes) -> None:
    with contextlib.suppress(SaslError):
        assert "\x01" not in PARSERS[mechanism](sent).token


@given(st.sampled_from(sorted(PARSERS)), TOKENS, NAMES, st.data())
def test_a_response_cut_short_is_malformed_or_shows_no_other_token(mechanism, token, name, data) -> None:
    whole = (oauthbearer if mechanism == "OAUTHBEARER" else xoauth2)(token, name)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(SaslError):
        PARSERS[mechanism](cut)


@pytest.mark.parametrize(
    "sent",
    [
        b"n,a=alice,\x01auth=Basic YTpi\x01\x01",
        b"p=tls-unique,,\x01auth=Bearer a\x01\x01",
        b"n,a=al=ice,\x01auth=Bearer a\x01\x01",
        b"n,a=al=2cice,\x01auth=Bearer a\x01\x01",
        b"n,,\x01auth=Bearer a\x01auth=Bearer b\x01\x01",
        b"n,,\x01auth=Bearer a b\x01\x01",
        b"n,,\x01auth=Bearer \x01\x01",
        b"n,,\x011=2\x01\x01",
        b"\x01",
        b"",
        b"\xff,,\x01\x01",
    ],
)
def test_a_malformed_oauthbearer_response_is_refused(sent: bytes) -> None:
    with pytest.raises(SaslError) as caught:
        parse_oauthbearer(sent)
    assert caught.value.reply.line == "501 5.5.2 Malformed authentication response"


def test_a_client_may_ask_by_showing_no_token() -> None:
    assert parse_oauthbearer(b"n,,\x01\x01") == BearerResponse("", "")
    assert parse_oauthbearer(b"y,,\x01auth=\x01\x01") == BearerResponse("", "")


def test_the_scheme_is_read_in_any_case() -> None:
    assert parse_xoauth2(b"user=a\x01auth=bEARER t\x01\x01").token == "t"


def test_a_token_does_not_show_in_a_repr() -> None:
    assert "secret" not in repr(parse_xoauth2(xoauth2("secret", "alice")))


@pytest.mark.parametrize(
    ("mechanism", "sent"), [("OAUTHBEARER", oauthbearer("t", "alice")), ("XOAUTH2", xoauth2("t", "alice"))]
)
async def test_a_good_token_logs_in_with_and_without_an_initial_response(mechanism: str, sent: bytes) -> None:
    source = Source("t")
    assert await BearerExchange(mechanism, [source]).step(sent) == Accepted(ALICE)
    exchange = BearerExchange(mechanism, [source])
    assert await exchange.step(None) == Challenge(b"")
    assert await exchange.step(sent) == Accepted(ALICE)
    assert source.asked == [("t", "alice")] * 2


async def test_a_bad_token_is_told_why_and_fails_whatever_the_client_answers() -> None:
    exchange = BearerExchange(
        "OAUTHBEARER", [Source("t")], scopes=["mail"], configuration_url="https://id.example/.well-known/x"
    )
    challenge = await exchange.step(oauthbearer("other", "alice"))
    assert isinstance(challenge, ErrorChallenge)
    assert challenge.rejected == Rejected("alice", "token")
    assert json.loads(challenge.data) == {
        "status": "invalid_token",
        "schemes": "bearer",
        "scope": "mail",
        "openid-configuration": "https://id.example/.well-known/x",
    }
    assert await exchange.step(oauthbearer("t", "alice")) == Rejected("alice", "token")


async def test_xoauth2_tells_of_a_bad_token_as_google_does() -> None:
    challenge = await BearerExchange("XOAUTH2", [Source("t")], scopes=["mail"]).step(xoauth2("other", "alice"))
    assert json.loads(challenge.data) == {"status": "401", "schemes": "bearer", "scope": "mail"}


async def test_asking_without_a_token_asks_no_source() -> None:
    source = Source("")
    assert isinstance(await BearerExchange("OAUTHBEARER", [source]).step(b"n,,\x01\x01"), ErrorChallenge)
    assert source.asked == []


async def test_a_source_that_is_down_matters_only_where_no_other_knows_the_token() -> None:
    assert await identify([Source(down=True), Source("t")], "t", "") == ALICE
    with pytest.raises(AuthUnavailableError):
        await identify([Source(down=True), Source("t")], "other", "")
    assert await identify([Source("t")], "other", "") is None
