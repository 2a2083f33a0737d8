"""What is pure in the client: replies, dot-stuffing, commands, failover order, pacing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smtp_peer import envelope

from postroad_transport.delivery.failover import DeadHosts, Pacer
from postroad_transport.delivery.peer_reply import MAX_LINE, MAX_LINES, PeerReply, ReplyParser, ReplySyntaxError
from postroad_transport.delivery.smtp_client import Credentials, Endpoint
from postroad_transport.delivery.smtp_commands import (
    converted_body,
    mail_command,
    message_refusal,
    rcpt_command,
    recipient_refusal,
)
from postroad_transport.delivery.wire_form import data_form
from postroad_transport.message import Body, Recipient

texts = st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b" ").replace(b"\r", b" "))
replies = st.builds(PeerReply, st.integers(200, 599), st.lists(texts, min_size=1, max_size=4).map(tuple))


def encode(reply: PeerReply) -> bytes:
    *first, last = reply.lines
    return b"".join(b"%d-%s\r\n" % (reply.code, line) for line in first) + b"%d %s\r\n" % (reply.code, last)


@given(st.lists(replies, max_size=6), st.data())
def test_replies_survive_any_cutting_of_the_stream(sent, data):
    stream = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    parser, received = ReplyParser(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += parser.feed(stream[start:end])
    assert received == sent
    assert parser.idle


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_parser_never_fails_other_than_by_its_own_error(pieces):
    parser = ReplyParser()
    try:
        for piece in pieces:
            for reply in parser.feed(piece):
                assert 200 <= reply.code <= 599
                assert reply.line.isprintable()
    except ReplySyntaxError:
        pass


@pytest.mark.parametrize(
    "stream",
    [
        b"hello\r\n",
        b"\r\n",
        b"25 ok\r\n",
        b"250_ok\r\n",
        b"2500 ok\r\n",
        b"150 ok\r\n",
        b"600 ok\r\n",
        b"250-a\r\n251 b\r\n",
        b"\xb2\xb5\xb0 ok\r\n",
        b"250 " + b"x" * (MAX_LINE + 1),
        b"250-x\r\n" * MAX_LINES,
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
    ],
)
def test_what_is_no_reply_is_refused(stream):
    with pytest.raises(ReplySyntaxError):
        ReplyParser().feed(stream)


def test_reply_reads_as_one_line_without_repeated_code_or_controls():
    reply = PeerReply(550, (b"5.1.1 no such\tuser", b"5.1.1 here \xff\x00"))
    assert reply.line == "550 5.1.1 no such user here \ufffd"
    assert reply.enhanced == "5.1.1"
    assert len(PeerReply(250, (b"x" * 4000,)).line) <= 400


@pytest.mark.parametrize("line", [b"250", b"250\r", b"250 \r"])
def test_reply_without_text_is_a_reply(line):
    assert [reply.code for reply in ReplyParser().feed(line + b"\n")] == [250]


def unstuff(stream: bytes) -> bytes:
    """What a receiver makes of a DATA stream, line by line (RFC 5321 section 4.5.2)."""
    out, rest = bytearray(), stream
    while True:
        line, end, rest = rest.partition(b"\r\n")
        assert end, "no terminator"
        assert b"\r" not in line
        assert b"\n" not in line
        if line == b".":
            assert rest == b""
            return bytes(out)
        out += line.removeprefix(b".") + end


wild = st.lists(st.sampled_from([b"\r\n", b".", b"a", b"\r\n.", b"..", b"\r\n.\r\n", b"\xff", b""]), max_size=12)
dirty = st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n"]), max_size=12)


@given(wild, st.sampled_from([bytes, bytearray, memoryview]))
def test_stuffing_then_unstuffing_gives_the_message_back_with_a_final_line_end(chunks, kind):
    whole = b"".join(chunks)
    expected = whole if whole.endswith(b"\r\n") or not whole else whole + b"\r\n"
    assert unstuff(b"".join(data_form([kind(chunk) for chunk in chunks]))) == expected


@given(dirty)
def test_bare_line_ends_never_end_the_message_early(chunks):
    whole = b"".join(chunks)
    lines = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    expected = lines if lines.endswith(b"\r\n") or not lines else lines + b"\r\n"
    assert unstuff(b"".join(data_form(chunks))) == expected


def test_clean_message_is_not_copied():
    chunk = b"Subject: x\r\n\r\nbody\r\n"
    assert data_form([chunk])[0] is chunk


FULL = dict.fromkeys(("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "BINARYMIME"), "") | {"SIZE": "0"}


def test_mail_and_rcpt_carry_what_the_peer_offers():
    message = envelope(
        Recipient(address="ü@d.example", notify=("SUCCESS", "DELAY"), orcpt="rfc822;u+2Bx@d.example"),
        body=Body.EIGHT_BIT_MIME,
        smtputf8=True,
        ret="HDRS",
        envid="Abc+3D",
    )
    assert mail_command(message, 7, FULL) == (
        b"MAIL FROM:<s@o.example> SIZE=7 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=Abc+3D\r\n"
    )
    assert rcpt_command(message.recipients[0], FULL, utf8=True) == (
        "RCPT TO:<ü@d.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;u+2Bx@d.example\r\n".encode()
    )


def test_u_label_domain_of_an_ordinary_message_goes_as_a_labels_even_to_a_utf8_peer():
    message = envelope("r@bücher.example", sender="s@bücher.example")
    assert mail_command(message, 7, {"SMTPUTF8": ""}) == b"MAIL FROM:<s@xn--bcher-kva.example>\r\n"
    assert recipient_refusal(message.recipients[0], utf8=False) == ""


def test_bare_peer_is_told_the_bare_minimum_and_u_label_domains_become_a_labels():
    message = envelope(Recipient(address="r@bücher.example", notify=("NEVER",)), sender="", smtputf8=True, ret="FULL")
    assert mail_command(message, 7, {}) == b"MAIL FROM:<>\r\n"
    assert rcpt_command(message.recipients[0], {}, utf8=False) == b"RCPT TO:<r@xn--bcher-kva.example>\r\n"


@pytest.mark.parametrize(
    ("fields", "content", "offered", "refusal"),
    [
        ({}, b"x" * 11, {"SIZE": "10"}, "552 5.3.4"),
        ({}, b"x" * 10, {"SIZE": "10"}, ""),
        ({}, b"x" * 10, {"SIZE": "0"}, ""),
        ({}, b"x" * 10, {"SIZE": "nonsense"}, ""),
        ({"sender": "ü@o.example", "smtputf8": True}, b"x", {}, "553 5.6.7"),
        ({"sender": "s@ü.example", "smtputf8": True}, b"x", {}, ""),
        ({"smtputf8": True}, b"Subject: \xc3\xbc\r\n\r\n", {}, "554 5.6.9"),
        ({"smtputf8": True}, b"Subject: u\r\n\r\n\xc3\xbc", {}, ""),
        ({"smtputf8": True}, b"Subject: \xc3\xbc\r\n\r\n", {"SMTPUTF8": ""}, ""),
        ({"sender": "s@o.example>\r\nDATA"}, b"x", {}, "553 5.1.7"),
        ({"sender": "s@o.example>\r\nDATA"}, b"x", {"SMTPUTF8": ""}, "553 5.1.7"),
    ],
)
def test_message_that_the_peer_cannot_take_is_refused_beforehand(fields, content, offered, refusal):
    found = message_refusal(envelope(**fields), len(content), [content], offered)
    assert found.startswith(refusal)
    assert bool(found) == bool(refusal)


@pytest.mark.parametrize(
    ("address", "utf8", "refusal"),
    [
        ("r@d.example", False, ""),
        ("ü@d.example", False, "553 5.6.7"),
        ("ü@d.example", True, ""),
        ("r@d.example\r\nRSET", True, "553 5.1.3"),
        ("r@d.example\nRSET", False, "553 5.1.3"),
    ],
)
def test_recipient_that_the_peer_cannot_take_is_refused_beforehand(address, utf8, refusal):
    found = recipient_refusal(Recipient(address=address), utf8=utf8)
    assert found.startswith(refusal)
    assert bool(found) == bool(refusal)


@pytest.mark.parametrize(
    ("body", "offered", "needed"),
    [
        (Body.SEVEN_BIT, "8BITMIME", None),
        (Body.SEVEN_BIT, "", Body.SEVEN_BIT),
        (Body.EIGHT_BIT_MIME, "8BITMIME", None),
        (Body.EIGHT_BIT_MIME, "CHUNKING BINARYMIME", Body.SEVEN_BIT),
        (Body.BINARY_MIME, "CHUNKING BINARYMIME", None),
        (Body.BINARY_MIME, "8BITMIME CHUNKING", Body.EIGHT_BIT_MIME),
        (Body.BINARY_MIME, "8BITMIME BINARYMIME", Body.EIGHT_BIT_MIME),
        (Body.BINARY_MIME, "CHUNKING", Body.SEVEN_BIT),
    ],
)
def test_content_is_made_to_fit_what_the_peer_offers(body, offered, needed):
    extensions = dict.fromkeys(offered.split(), "")
    assert converted_body(envelope(body=body), [b"x", b"\xff"], extensions) is needed
    # Of what is declared binary, nobody knows the line ends.
    ascii_needs = needed if body is Body.BINARY_MIME else None
    assert converted_body(envelope(body=body), [b"x", b"y"], extensions) is ascii_needs


def test_priority_is_passed_on_where_the_peer_offers_it():
    assert mail_command(envelope(priority=-3), 7, {"MT-PRIORITY": "MIXER"}) == (
        b"MAIL FROM:<s@o.example> MT-PRIORITY=-3\r\n"
    )
    assert mail_command(envelope(priority=-3), 7, {}) == b"MAIL FROM:<s@o.example>\r\n"
    assert mail_command(envelope(), 7, {"MT-PRIORITY": ""}) == b"MAIL FROM:<s@o.example>\r\n"


@pytest.mark.parametrize(
    ("submitter", "said"),
    [("", "<>"), ("e+3Dmc2@o.example", "e+3Dmc2@o.example"), ("x y", "<>")],
)
def test_submitter_is_told_to_whom_we_have_logged_in_at(submitter, said):
    message = envelope(submitter=submitter)
    told = mail_command(message, 7, {"AUTH": "PLAIN"}, tells_submitter=True)
    assert told == f"MAIL FROM:<s@o.example> AUTH={said}\r\n".encode()
    assert mail_command(message, 7, {"AUTH": "PLAIN"}) == b"MAIL FROM:<s@o.example>\r\n"


def test_dsn_value_that_would_add_a_parameter_is_left_out():
    message = envelope(envid="x BODY=BINARYMIME", ret="HDRS")
    assert mail_command(message, 7, {"DSN": ""}) == b"MAIL FROM:<s@o.example> RET=HDRS\r\n"


def test_credentials_do_not_show_their_password():
    for credentials in (
        Credentials(username="me", password="hunter2"),
        Credentials(username="me", access_token="hunter2"),
    ):
        assert "hunter2" not in repr(credentials) + str(credentials)


def test_dead_host_goes_to_the_end_until_it_answers_or_is_forgotten():
    one, two = Endpoint("a", "192.0.2.1", 25), Endpoint("b", "192.0.2.2", 25)
    dead = DeadHosts(60)
    dead.died(one, 100)
    assert dead.order([one, two], 159) == [two, one]
    assert dead.order([one, two], 160) == [one, two]
    dead.answered(one)
    assert dead.order([one, two], 101) == [one, two]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_paced_messages_start_at_least_an_interval_apart(gaps):
    pacer, now, starts = Pacer(4.0), 0.0, []
    for gap in gaps:
        now += gap
        starts.append(now + pacer.reserve(now))
    assert all(later - earlier >= 0.25 - 1e-9 for earlier, later in pairwise(starts))


def test_no_rate_is_no_wait():
    assert Pacer(0).reserve(5.0) == 0.0
