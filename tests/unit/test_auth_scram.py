"""SCRAM-SHA-256 and its PLUS, as server (RFC 5802, RFC 7677); stored keys."""

from __future__ import annotations

import re
from base64 import b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramClient

from postroad_transport.auth import scram_keys
from postroad_transport.auth.accounts import Account, Accounts, parse_accounts
from postroad_transport.auth.exchange import Accepted, Channel, Rejected
from postroad_transport.auth.password_verifier import PasswordVerifier
from postroad_transport.auth.passwords import HashFormatError, check_format, check_password, decoy
from postroad_transport.auth.sasl import Challenge, SaslError
from postroad_transport.auth.scram import Scram
from postroad_transport.auth.scram_keys import ScramKeys, derive

# RFC 7677 section 3
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
VERIFIER = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
PENCIL = derive("pencil", iterations=4096, salt=bytes.fromhex("5b6d99689d12358eeca04b141236fa81"))
LINE = f"user:{PENCIL}:User@example.com,*@sales.example"
CLEAR = Channel("192.0.2.1")
SECURE = Channel("192.0.2.1", tls=True, binding={"tls-server-end-point": b"hash", "tls-unique": b"finished"}.get)


def accounts(*lines: str) -> Accounts:
    return parse_accounts("\n".join(lines or (LINE,)).encode())


def server(channel: Channel = CLEAR, *, plus: bool = False, known: Accounts | None = None) -> Scram:
    return Scram((known or accounts()).scram_keys, channel, plus=plus)


async def test_the_example_of_rfc_7677():
    exchange = Scram(accounts().scram_keys, CLEAR, plus=False, nonce=lambda: SERVER_NONCE)
    assert await exchange.step(None) == Challenge(b"")
    assert await exchange.step(FIRST) == Challenge(SERVER_FIRST, username="user")
    assert await exchange.step(FINAL) == Challenge(VERIFIER)
    assert await exchange.step(b"") == Accepted(Account("user", ("user@example.com", "*@sales.example")))


async def converse(exchange: Scram, client: ScramClient) -> Accepted | Rejected:
    answer = await exchange.step(client.get_client_first().encode())
    if not isinstance(answer, Challenge):
        return answer
    client.set_server_first(answer.data.decode())
    answer = await exchange.step(client.get_client_final().encode())
    if not isinstance(answer, Challenge):
        return answer
    client.set_server_final(answer.data.decode())
    return await exchange.step(b"")


def names() -> st.SearchStrategy[str]:
    return st.text(st.sampled_from("ab,=.@é2CD"), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(names(), names(), st.booleans())
async def test_another_implementation_agrees_on_who_knows_the_password(user, password, right):
    known = parse_accounts(b"") if ":" in user else accounts(f"{user}:{derive(password, iterations=4096)}")
    client = ScramClient(["SCRAM-SHA-256"], user, password if right else password + "x")
    answer = await converse(server(known=known), client)
    assert answer == (Accepted(Account(user)) if right else Rejected(user))


@pytest.mark.parametrize("binding", [("tls-server-end-point", b"hash"), ("tls-unique", b"finished")])
async def test_a_binding_to_this_session_is_good(binding):
    client = ScramClient(["SCRAM-SHA-256-PLUS"], "user", "pencil", channel_binding=binding)
    assert isinstance(await converse(server(SECURE, plus=True), client), Accepted)


@pytest.mark.parametrize("binding", [("tls-server-end-point", b"another"), ("tls-unique", b"hash")])
async def test_a_binding_to_another_session_is_not(binding):
    client = ScramClient(["SCRAM-SHA-256-PLUS"], "user", "pencil", channel_binding=binding)
    assert await converse(server(SECURE, plus=True), client) == Rejected("user", "channel_binding")


@pytest.mark.parametrize(
    ("first", "plus", "channel", "reason"),
    [
        (b"y,,n=user,r=abc", False, SECURE, "channel_binding_downgrade"),
        (b"n,,n=user,r=abc", True, SECURE, "channel_binding_missing"),
        (b"y,,n=user,r=abc", True, SECURE, "channel_binding_missing"),
        (b"p=tls-exporter,,n=user,r=abc", True, SECURE, "channel_binding_type"),
        (b"p=tls-unique,,n=user,r=abc", False, SECURE, "channel_binding_type"),
    ],
)
async def test_what_speaks_of_someone_in_between_fails(first, plus, channel, reason):
    assert await server(channel, plus=plus).step(first) == Rejected("user", reason)


@pytest.mark.parametrize("first", [b"n,,n=user,r=abc", b"y,,n=user,r=abc", b"n,a=user,n=user,r=abc,x=more"])
async def test_what_is_in_order_goes_on(first):
    assert isinstance(await server(CLEAR).step(first), Challenge)


async def test_acting_as_somebody_else_fails_after_the_password():
    exchange = Scram(accounts().scram_keys, CLEAR, plus=False, nonce=lambda: SERVER_NONCE)
    first = FIRST.replace(b"n,,", b"n,a=admin,")
    assert isinstance(await exchange.step(first), Challenge)
    final = FINAL.replace(b"biws", b64encode(b"n,a=admin,"))
    assert await exchange.step(final) == Rejected("user", "authorization_identity")


@pytest.mark.parametrize(
    ("final", "reason"),
    [
        (FINAL.replace(b"p=dHz", b"p=AHz"), "credentials"),
        (re.sub(rb"p=.*", b"p=QUJD", FINAL), "credentials"),
        (FINAL.replace(b"r=rO", b"r=Ro"), "nonce"),
        (FINAL.replace(b"biws", b64encode(b"y,,")), "channel_binding"),
    ],
)
async def test_a_changed_final_message_fails(final, reason):
    exchange = Scram(accounts().scram_keys, CLEAR, plus=False, nonce=lambda: SERVER_NONCE)
    await exchange.step(FIRST)
    assert await exchange.step(final) == Rejected("user", reason)


@pytest.mark.parametrize("known", [accounts(), accounts(LINE, "old:$2b$04$" + "a" * 53)])
async def test_an_unknown_user_gets_a_salt_that_looks_real_and_stays(known):
    asked = [known.scram_keys(name)[0] for name in ("user", "old", "nobody", "nobody", "somebody")]
    assert {(keys.iterations, len(keys.salt)) for keys in asked} == {(4096, 16)}
    assert asked[2] == asked[3]
    assert len({keys.salt for keys in asked}) == 4
    again = parse_accounts(LINE.encode()) if len(known) == 1 else accounts(LINE, "old:$2b$04$" + "a" * 53)
    assert again.scram_keys("nobody") == known.scram_keys("nobody")
    client = ScramClient(["SCRAM-SHA-256"], "nobody", "pencil")
    assert await converse(server(known=known), client) == Rejected("nobody")


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,n=user",
        b"n,,n=,r=abc",
        b"n,,n=user,r=",
        b"n,,m=x,n=user,r=abc",
        b"n,,n=us=er,r=abc",
        b"n,,n=us=2cer,r=abc",
        b"n,,n=us\0er,r=abc",
        b"n,,n=\xff,r=abc",
        b"p=,,n=user,r=abc",
        b"p=tls unique,,n=user,r=abc",
        b"n,b=x,n=user,r=abc",
    ],
)
async def test_a_malformed_first_message_gets_501(first):
    with pytest.raises(SaslError, match=r"^501 5\.5\.2 "):
        await server(SECURE, plus=first.startswith(b"p")).step(first)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=80) | st.sampled_from([FIRST, FINAL, b""]), min_size=1, max_size=4))
async def test_arbitrary_messages_never_log_anyone_in(messages):
    exchange = server()
    for message in messages:
        try:
            answer = await exchange.step(message)
        except SaslError:
            return
        assert not isinstance(answer, Accepted)
        if isinstance(answer, Rejected):
            return


async def test_stored_keys_take_plain_passwords_too():
    known = parse_accounts(LINE.encode(), verifier=PasswordVerifier())
    assert (await known.verify("user", "pencil")).addresses == ("user@example.com", "*@sales.example")
    assert await known.verify("user", "Pencil") is None
    assert await known.verify("nobody", "pencil") is None


def test_a_password_is_prepared_before_it_is_hashed():
    keys = str(derive("\u2168", iterations=4096))
    assert check_password(keys, b"IX")
    assert not check_password(keys, b"ix")
    assert not check_password(keys, b"\x07")
    assert not check_password(keys, b"\xff")
    with pytest.raises(ValueError, match="RFC 4013"):
        derive("bell\x07")


def test_stored_keys_of_other_programs_are_read():
    # psql: SET password_encryption = 'scram-sha-256'; CREATE ROLE user PASSWORD 'pencil', with the RFC's salt.
    text = (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert str(PENCIL) == text
    assert check_format(text) == "SCRAM-SHA-256$4096:"


@pytest.mark.parametrize(
    "text",
    [
        str(PENCIL).replace("$4096", "$4095"),
        str(PENCIL).replace("$4096", "$1000001"),
        str(PENCIL).replace("$4096", "$04096"),
        str(PENCIL).replace("W22Z", "W2Z"),
        str(PENCIL).replace("W22ZaJ0SNY7soEsUEjb6gQ==", "W22ZaJ0SNY7soEs"),
        str(PENCIL)[:-1],
        str(PENCIL).replace("SCRAM-SHA-256", "SCRAM-SHA-1"),
        "SCRAM-SHA-256$",
    ],
)
def test_damaged_or_costly_keys_are_left_out_and_never_quoted(text):
    with pytest.raises(HashFormatError) as caught:
        check_format(text)
    assert "WG5d8oPm" not in str(caught.value)
    assert len(parse_accounts(f"user:{text}\nother:{PENCIL}".encode())) == 1


@settings(deadline=None)
@given(st.integers(4096, 1_000_000), st.binary(min_size=12, max_size=64), st.binary(min_size=32, max_size=32))
def test_written_keys_are_read_back(iterations, salt, key):
    keys = ScramKeys(iterations, salt, key, key[::-1])
    assert scram_keys.parse(str(keys)) == keys


def test_a_decoy_costs_as_much_and_is_nobodys():
    false = decoy(str(PENCIL))
    assert check_format(false) == check_format(str(PENCIL))
    assert not check_password(false, b"pencil")
