"""Notices are well-formed whatever senders, recipients and remote servers put in them."""

import email
import email.policy

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroad_transport.delivery.notices import (
    MAX_RETURNED_HEADERS,
    NoticeKind,
    Report,
    clean,
    compose,
    decode_xtext,
    status_of,
    wanted,
)
from postroad_transport.message import Body, Envelope, Recipient, content_size

NOW = 1_700_000_000.0
ORIGINAL = [b"Received: x\r\nSubject: hi\r\n", b"From: ann@here.test\r\n\r\nbody\r\n"]


def make(kind=NoticeKind.FAILURE, reports=None, original=ORIGINAL, **fields):
    envelope = Envelope(
        **{"id": "m1", "received_at": NOW - 60, "sender": "ann@here.test", "recipients": [], **fields}
    )
    reports = reports or [
        Report(Recipient(address="bob@there.test"), "550 5.1.1 no such user", "mx.test[192.0.2.1]:25")
    ]
    return compose(
        kind,
        envelope,
        reports,
        original,
        notice_id="n1",
        now=NOW,
        hostname="mail.test",
        postmaster="postmaster@mail.test",
        retry_until=NOW + 3600,
    )


def parse(content):
    return email.message_from_bytes(b"".join(content))


def blocks(message):
    """Return the delivery-status part as a list of header blocks."""
    part = message.get_payload(1)
    if part.get_content_type() == "message/delivery-status":
        return part.get_payload()
    text = part.get_payload(decode=True) or part.as_bytes().partition(b"\n\n")[2]
    return [email.message_from_bytes(block) for block in text.replace(b"\r\n", b"\n").split(b"\n\n") if block.strip()]


def test_a_failure_notice_has_the_three_parts_of_rfc_3464():
    envelope, content = make()
    assert (envelope.sender, envelope.recipients[0].address) == ("", "ann@here.test")
    assert envelope.recipients[0].notify == ("NEVER",)
    assert envelope.size == content_size(content)
    assert envelope.id == "n1"
    message = parse(content)
    assert not message.defects
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["To"] == "<ann@here.test>"
    assert message["From"].endswith("<postmaster@mail.test>")
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Message-ID"] == "<n1@mail.test>"
    types = [part.get_content_type() for part in message.get_payload()]
    assert types == ["text/plain", "message/delivery-status", "text/rfc822-headers"]
    whole, recipient = blocks(message)
    assert whole["Reporting-MTA"] == "dns; mail.test"
    assert recipient["Final-Recipient"] == "rfc822; bob@there.test"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "5.1.1"
    assert recipient["Remote-MTA"] == "dns; mx.test"
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user"
    assert "bob@there.test" in message.get_payload(0).get_payload()
    returned = message.get_payload(2).get_payload()
    assert "Subject: hi" in returned
    assert "body" not in returned


def test_every_line_ends_in_crlf_and_is_short_enough():
    _, content = make(reports=[Report(Recipient(address="bob@there.test"), "550 " + "x" * 5000)])
    raw = b"".join(content)
    assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")
    assert max(map(len, raw.split(b"\r\n"))) <= 998


@pytest.mark.parametrize("kind", NoticeKind)
def test_a_notice_of_a_reply_that_is_not_ascii_is_7_bit_all_the_same(kind):
    recipient = Recipient(address="bob@there.test", notify=("SUCCESS", "FAILURE", "DELAY"))
    envelope, content = make(kind, [Report(recipient, "250 2.0.0 d\xe9j\xe0 vu", "mx.test[192.0.2.1]:25")])
    assert envelope.body is Body.SEVEN_BIT
    assert b"".join(content).isascii()
    assert "d\xe9j\xe0 vu" in parse(content).get_payload(0).get_payload(decode=True).decode()


def test_the_whole_message_goes_back_byte_for_byte_when_ret_full_asks_for_it():
    original = [b"Subject: hi\r\n\r\n", b"--=_other\r\nx\r\n\xff\xfe\r\n"]
    envelope, content = make(original=original, ret="FULL")
    part = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    assert part + b"".join(original) in b"".join(content)
    assert envelope.body is Body.EIGHT_BIT_MIME
    assert parse(content).get_payload(2).get_content_type() == "message/rfc822"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (NoticeKind.FAILURE, {"ret": "HDRS"}),
        (NoticeKind.FAILURE, {}),
        (NoticeKind.FAILURE, {"ret": "FULL", "body": Body.BINARY_MIME}),
        (NoticeKind.DELAY, {"ret": "FULL"}),
        (NoticeKind.SUCCESS, {"ret": "FULL"}),
    ],
)
def test_only_headers_go_back_otherwise(kind, fields):
    report = Report(Recipient(address="b@t.test", notify=("SUCCESS", "FAILURE", "DELAY")), "250 2.0.0 ok")
    _, content = make(kind, [report], **fields)
    assert parse(content).get_payload(2).get_content_type() == "text/rfc822-headers"
    assert b"body" not in b"".join(content[1:])


def test_endless_headers_are_cut_at_a_line():
    _, content = make(original=[b"X: " + b"y" * 70 + b"\r\n"] * 10_000)
    returned = b"".join(content).partition(b"text/rfc822-headers")[2]
    assert len(returned) <= MAX_RETURNED_HEADERS + 200
    assert b"y\r\n\r\n--" in returned


def test_a_notice_goes_without_an_original_that_cannot_be_read():
    _, content = make(original=())
    assert len(parse(content).get_payload()) == 2


@pytest.mark.parametrize("cut", range(1, 55))
def test_headers_are_found_wherever_the_chunks_are_cut(cut):
    raw = b"".join(ORIGINAL)
    _, content = make(original=[raw[:cut], memoryview(raw)[cut:]])
    assert b"Subject: hi\r\nFrom: ann@here.test\r\n\r\n--" in b"".join(content)


def test_nobody_is_told_of_a_message_from_the_null_sender():
    assert make(sender="") is None


@pytest.mark.parametrize(
    ("notify", "kinds"),
    [
        ((), {"failure", "delay"}),
        (("NEVER",), set()),
        (("FAILURE",), {"failure"}),
        (("DELAY",), {"delay"}),
        (("SUCCESS",), {"success", "relayed"}),
        (("SUCCESS", "FAILURE", "DELAY"), {"failure", "delay", "success", "relayed"}),
    ],
)
def test_notify_decides_who_hears_what(notify, kinds):
    recipient = Recipient(address="a@b", notify=notify)
    assert {str(kind) for kind in NoticeKind if wanted(recipient, kind)} == kinds


def test_only_those_who_want_it_are_in_the_notice():
    silent = Report(Recipient(address="silent@t.test", notify=("NEVER",)), "550 x")
    _, content = make(reports=[silent, Report(Recipient(address="loud@t.test"), "550 x")])
    assert b"loud@t.test" in b"".join(content)
    assert b"silent@t.test" not in b"".join(content)
    assert make(reports=[silent]) is None


def test_orcpt_and_envid_come_back_decoded():
    recipient = Recipient(address="bob@there.test", orcpt="rfc822;Bob+2Bx@Old.test")
    _, content = make(reports=[Report(recipient, "550 x")], envid="QQ+3D1")
    whole, block = blocks(parse(content))
    assert whole["Original-Envelope-Id"] == "QQ=1"
    assert block["Original-Recipient"] == "rfc822; Bob+x@Old.test"


def test_the_address_before_aliases_is_the_original_recipient():
    recipient = Recipient(address="bob@real.test", original="bob@alias.test")
    assert blocks(parse(make(reports=[Report(recipient, "550 x")])[1]))[1]["Original-Recipient"] == (
        "rfc822; bob@alias.test"
    )


def test_a_delay_says_until_when():
    _, content = make(NoticeKind.DELAY, [Report(Recipient(address="b@t.test"), "450 4.2.0 busy", "mx.test")])
    block = blocks(parse(content))[1]
    assert (block["Action"], block["Status"]) == ("delayed", "4.2.0")
    assert block["Will-Retry-Until"] == "Tue, 14 Nov 2023 23:13:20 +0000"


def test_a_utf8_message_gets_an_internationalised_notice():
    recipient = Recipient(address="böb@thére.test")
    envelope, content = make(reports=[Report(recipient, "550 5.1.1 nö")], sender="änn@here.test", smtputf8=True)
    message = parse(content)
    assert envelope.smtputf8
    assert message.get_param("report-type") == "global-delivery-status"
    types = [part.get_content_type() for part in message.get_payload()]
    assert types == ["text/plain", "message/global-delivery-status", "message/global-headers"]
    assert "Final-Recipient: utf-8; böb@thére.test".encode() in b"".join(content)


def test_a_utf8_address_in_an_ascii_notice_is_escaped():
    envelope, content = make(reports=[Report(Recipient(address="böb@there.test"), "550 x")])
    assert not envelope.smtputf8
    assert b"Final-Recipient: utf-8; b\\x{F6}b@there.test" in b"".join(content)


def test_a_failure_by_our_own_decision_is_no_smtp_reply():
    _, content = make(reports=[Report(Recipient(address="b@t.test"), "550 5.4.4 No route")])
    assert b"Diagnostic-Code: x-postroad; 550 5.4.4 No route" in b"".join(content)
    assert b"Remote-MTA" not in b"".join(content)


@pytest.mark.parametrize(
    ("reply", "options", "status"),
    [
        ("550 5.1.1 no", {}, "5.1.1"),
        ("450 4.2.0 busy", {}, "5.2.0"),
        ("450 4.2.0 busy", {"delayed": True}, "4.2.0"),
        ("250 2.1.5 ok", {"delivered": True}, "2.1.5"),
        ("554 go away", {}, "5.0.0"),
        ("nonsense", {"delayed": True}, "4.0.0"),
        ("", {"delivered": True}, "2.0.0"),
        ("550 5.1.10.2 no", {}, "5.0.0"),
    ],
)
def test_status_of_replies(reply, options, status):
    assert status_of(reply, **options) == status


texts = st.text(st.characters(codec="utf-8"), max_size=80)
hostile = st.one_of(
    texts,
    st.text("\r\n\t :<>@=?_\x00\x85\u2028é", max_size=60),
    st.sampled_from(["=?utf-8?q?a=0D=0ABcc:_x?=", "a\r\nBcc: x@y", "a\n\nbody", "\udcff\ud800", "x" * 5000]),
)


@given(
    st.fixed_dictionaries(
        {"sender": hostile.filter(bool), "envid": hostile, "id": hostile, "smtputf8": st.booleans(), "ret": hostile}
    ),
    st.lists(
        st.tuples(st.builds(Recipient, address=hostile, original=hostile, orcpt=hostile), hostile, hostile),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([NoticeKind.FAILURE, NoticeKind.DELAY]),
)
@example(
    {"sender": "=?utf-8?q?a=0D=0ABcc:_x?=@here"},
    [(Recipient(address="a"), "550 =?utf-8?q?=0ABcc=3A_x?=", "")],
    NoticeKind.FAILURE,
)
def test_nothing_that_others_chose_adds_a_header_or_a_part(fields, reports, kind):
    envelope, content = make(kind, [Report(*report) for report in reports], **fields)
    raw = b"".join(content)
    message = email.message_from_bytes(raw)
    assert message.keys() == [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ]
    assert len(message.get_payload()) == 3
    assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")
    allowed = {
        "Reporting-MTA", "Original-Envelope-Id", "X-Postroad-Queue-ID", "Arrival-Date", "Original-Recipient",
        "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date",
        "Will-Retry-Until",
    }  # fmt: skip
    found = [block for block in blocks(message) if block.keys()]
    assert len(found) == 1 + len(reports)
    for block in found:
        assert set(block.keys()) <= allowed
        assert len(block.keys()) == len(set(block.keys()))
    assert envelope.body is Body.EIGHT_BIT_MIME or raw.isascii()


@given(hostile, st.booleans())
def test_clean_values_are_one_bounded_line(value, utf8):
    cleaned = clean(value, utf8=utf8)
    assert len(cleaned) <= 900
    assert not set(cleaned) & set("\r\n\x00\x0b\x0c\x85\u2028\u2029")
    assert utf8 or cleaned.isascii()
    cleaned.encode()


@given(texts)
def test_xtext_is_decoded_to_what_was_encoded(text):
    text = "".join(c for c in text if c != "\\" and ord(c) < 256)
    encoded = "".join(f"+{ord(c):02X}" if not "!" <= c <= "~" or c in "+=" else c for c in text)
    assert decode_xtext(encoded) == text


@given(hostile)
def test_decoding_never_fails(text):
    decode_xtext(text + "\\x{D800}\\x{110000}\\x{41}")
