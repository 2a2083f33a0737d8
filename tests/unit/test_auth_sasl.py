"""SASL PLAIN and LOGIN as RFC 4954 frames them."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.auth.sasl import MAX_RESPONSE, Challenge, Credentials, SaslError, mechanism

words = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=60)


def failure(call, *arguments) -> str:
    with pytest.raises(SaslError) as caught:
        call(*arguments)
    return caught.value.reply.line


@given(words, words, st.booleans(), st.booleans())
def test_plain_round_trips_with_and_without_an_initial_response(username, password, initial, repeat_identity):
    server = mechanism("plain")
    authzid = username if repeat_identity else ""
    response = b64encode(f"{authzid}\0{username}\0{password}".encode())
    if not initial:
        assert server.step(None) == Challenge(b"")
    assert server.step(response) == Credentials("PLAIN", username, password)


@given(words, words, st.booleans())
def test_login_round_trips_with_and_without_an_initial_response(username, password, initial):
    server = mechanism("LOGIN")
    if not initial:
        assert server.step(None).encode() == b"334 VXNlcm5hbWU6\r\n"
    assert server.step(b64encode(username.encode())).encode() == b"334 UGFzc3dvcmQ6\r\n"
    assert server.step(b64encode(password.encode())) == Credentials("LOGIN", username, password)


def test_plain_asks_with_an_empty_challenge():
    assert mechanism("PLAIN").step(None).encode() == b"334 \r\n"


@pytest.mark.parametrize("name", ["PLAIN", "LOGIN"])
def test_an_asterisk_cancels(name):
    server = mechanism(name)
    server.step(None)
    assert failure(server.step, b"*") == "501 5.7.0 Authentication cancelled"


def test_login_can_be_cancelled_at_the_password():
    server = mechanism("LOGIN")
    server.step(b64encode(b"user"))
    assert failure(server.step, b"*").startswith("501 ")


def test_acting_as_somebody_else_fails_like_a_wrong_password():
    response = b64encode(b"admin\0user\0password")
    assert failure(mechanism("PLAIN").step, response) == "535 5.7.3 Authentication unsuccessful"


@pytest.mark.parametrize(
    "response",
    [b"!!!!", b"QQ", b"QQ==QQ==", b"====", b"QUJD\tQUJD", b" QUJD", b"\xff\xfe", b"A" * (MAX_RESPONSE - 2) + b"*="],
)
@pytest.mark.parametrize("name", ["PLAIN", "LOGIN"])
def test_bad_base64_gets_501_5_5_2(name, response):
    assert failure(mechanism(name).step, response).startswith("501 5.5.2 ")


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
def test_a_malformed_plain_message_gets_501_5_5_2(message):
    assert failure(mechanism("PLAIN").step, b64encode(message) or b"=").startswith("501 5.5.2 ")


@pytest.mark.parametrize("message", [b"", b"us\0er", b"\xff"])
def test_a_malformed_login_name_gets_501_5_5_2(message):
    assert failure(mechanism("LOGIN").step, b64encode(message)).startswith("501 5.5.2 ")


def test_a_line_of_the_greatest_length_is_taken_and_a_longer_one_is_not():
    password = "p" * (MAX_RESPONSE // 4 * 3 - 6)
    longest = b64encode(f"\0user\0{password}".encode())
    assert MAX_RESPONSE - 3 <= len(longest) <= MAX_RESPONSE
    assert mechanism("PLAIN").step(longest).password == password
    assert failure(mechanism("PLAIN").step, b"A" * (MAX_RESPONSE + 1)).startswith("500 5.5.6 ")


@pytest.mark.parametrize("name", ["", "CRAM-MD5", "PLAINX", "\uff30LAIN"])
def test_an_unknown_mechanism_gets_504(name):
    assert failure(mechanism, name) == "504 5.5.4 Unrecognized authentication type"


def test_a_finished_exchange_cannot_be_continued():
    server = mechanism("PLAIN")
    server.step(b64encode(b"\0user\0password"))
    assert failure(server.step, b64encode(b"\0user\0password")).startswith("503 ")


def test_a_failed_exchange_cannot_be_continued():
    server = mechanism("LOGIN")
    failure(server.step, b"!")
    assert failure(server.step, b64encode(b"user")).startswith("503 ")


def test_credentials_do_not_show_the_password():
    credentials = mechanism("PLAIN").step(b64encode(b"\0user\0hunter2"))
    assert "hunter2" not in repr(credentials)


@given(st.sampled_from(["PLAIN", "LOGIN"]), st.lists(st.none() | st.binary(max_size=80), min_size=1, max_size=4))
def test_arbitrary_lines_raise_nothing_but_sasl_errors(name, lines):
    server = mechanism(name)
    for line in lines:
        try:
            answer = server.step(line)
        except SaslError:
            return
        assert isinstance(answer, Challenge | Credentials)
        if isinstance(answer, Credentials):
            return


@given(st.sampled_from(["PLAIN", "LOGIN"]), st.lists(st.binary(max_size=60), min_size=1, max_size=3))
def test_arbitrary_decoded_messages_raise_nothing_but_sasl_errors(name, messages):
    server = mechanism(name)
    for message in messages:
        try:
            answer = server.step(b64encode(message))
        except SaslError:
            return
        if isinstance(answer, Credentials):
            assert answer.username
            assert answer.password
            return
