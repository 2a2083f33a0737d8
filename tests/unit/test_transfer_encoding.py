"""Messages for peers that take less: what is encoded, what stays to the byte, and what cannot be converted."""

from __future__ import annotations

import email
import email.policy
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.delivery.transfer_encoding import MAX_DEPTH, MAX_PARTS, UnconvertibleError, convert
from postroad_transport.delivery.wire_form import data_form
from postroad_transport.message import Body

SEVEN, EIGHT, BINARY = Body.SEVEN_BIT, Body.EIGHT_BIT_MIME, Body.BINARY_MIME
CHANGED = ("content-transfer-encoding", "mime-version")


def converted(message: bytes, given: Body = EIGHT, target: Body = SEVEN) -> bytes:
    return b"".join(convert([message], given, target))


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def fields(part: Message) -> list[tuple[str, str]]:
    return [(name, value) for name, value in part.items() if name.lower() not in CHANGED]


def assert_same(before: Message, after: Message) -> None:
    """Structure, headers and decoded payloads are the same."""
    assert fields(before) == fields(after)
    assert before.get_content_type() == after.get_content_type()
    assert before.is_multipart() == after.is_multipart()
    if before.is_multipart():
        assert after.get("Content-Transfer-Encoding") not in ("quoted-printable", "base64")
        parts_before, parts_after = before.get_payload(), after.get_payload()
        assert len(parts_before) == len(parts_after)
        for one, other in zip(parts_before, parts_after, strict=True):
            assert_same(one, other)
    else:
        # At the end of a message a line end more or less is nothing.
        assert payload(before).removesuffix(b"\r\n") == payload(after).removesuffix(b"\r\n")


def payload(part: Message) -> bytes:
    found = part.get_payload(decode=True)
    assert isinstance(found, bytes)
    return found


def check(message: bytes, given: Body = EIGHT, target: Body = SEVEN) -> bytes:
    out = converted(message, given, target)
    assert_same(email.message_from_bytes(message), email.message_from_bytes(out))
    if target is SEVEN:
        assert out.isascii()
    assert converted(out, given, target) == out
    assert out.count(b"\r\n") == out.count(b"\n") == out.count(b"\r")
    return out


# Single bodies


def test_text_becomes_quoted_printable_and_the_rest_stays_to_the_byte():
    message = crlf(
        "Received: by us\nSubject:  odd   blanks \nContent-Type: text/plain;\n\tcharset=utf-8\n"
        "content-transfer-ENCODING :8bit\nX-After: 1\n\nä=b \n.\nend\n"
    )
    assert converted(message) == (
        b"Received: by us\r\nSubject:  odd   blanks \r\nContent-Type: text/plain;\r\n\tcharset=utf-8\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\nX-After: 1\r\nMIME-Version: 1.0\r\n\r\n"
        b"=C3=A4=3Db=20\r\n=2E\r\nend\r\n"
    )


def test_what_is_not_text_becomes_base64():
    message = b"MIME-Version: 1.0\r\nContent-Type: image/png\r\n\r\n" + bytes(range(128, 256)) * 5 + b"\r\n"
    out = check(message)
    head, _, body = out.partition(b"\r\n\r\n")
    assert head == message.partition(b"\r\n\r\n")[0] + b"\r\nContent-Transfer-Encoding: base64"
    assert {len(line) for line in body.split(b"\r\n")[:-1]} == {76}


@pytest.mark.parametrize("header", ["", "Subject: x\n", "MIME-Version: 1.0\nContent-Type: nonsense\n"])
def test_a_message_that_says_nothing_of_its_body_is_text(header):
    out = check(crlf(f"{header}\nhellö\n"))
    assert b"Content-Transfer-Encoding: quoted-printable\r\n" in out
    assert out.lower().count(b"mime-version: 1.0\r\n") == 1
    assert out.endswith(b"\r\n\r\nhell=C3=B6\r\n")


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\r\n")), max_size=5), st.sampled_from(Body))
def test_a_message_of_ascii_is_not_touched(lines, given):
    content = ["\r\n".join(["Subject: x", "", *lines]).replace("\0", "").encode()]
    assert convert(content, given, SEVEN) is content
    assert convert(content, given, EIGHT) is content


def test_what_an_8_bit_peer_takes_is_not_touched():
    content = (b"Subject: \xff\r\n\r\n\xff\r\n",)
    assert convert(content, EIGHT, EIGHT) is content
    content = (b"Content-Type: multipart/signed\r\nContent-Transfer-Encoding: binary\r\n\r\n\xff\r\n",)
    assert convert(content, BINARY, EIGHT) is content


# A soft line break may put any two dashes at the beginning of a line.
def test_no_line_of_the_encoded_text_becomes_a_delimiter():
    for column in range(60, 80):
        text = "ü" + "x" * column + "--limit" + "\n"
        message = crlf(
            "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=limit\n\n--limit\n"
            f"Content-Type: text/plain; charset=utf-8\n\n{text}\n--limit--\n"
        )
        assert check(message).count(b"\r\n--limit") == 2


# Anything goes

octets = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=60).map(str.encode),
    st.sampled_from([b"", b"-" * 90, b".", b"..", b"a \t", b"--", b"--1", b"--1--", b"\xff" * 80, b"=", b"x" * 75]),
)
bodies = st.lists(
    octets.map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"").replace(b"--", b"- ")), max_size=8
).map(b"\r\n".join)
labels = st.sampled_from(["", "8bit", "8BIT", "7bit", "(so it is) 8bit", "binary"])
kinds = st.sampled_from(["", "text/plain", "text/html; charset=utf-8", 'application/pdf; name="a;b=c"', "image/png"])


def head(kind: str, label: str) -> bytes:
    lines = [f"Content-Type: {kind}\r\n"] * bool(kind) + [f"Content-Transfer-Encoding: {label}\r\n"] * bool(label)
    return "".join(lines).encode() + b"\r\n"


@st.composite
def entities(draw, level=0):
    shape = draw(st.sampled_from(["leaf", "leaf", "multipart", "message"] if level < 4 else ["leaf"]))
    label = draw(labels)
    if shape == "message":
        return head("message/rfc822", label) + b"Subject: inner\r\n" + draw(entities(level + 1))
    if shape == "leaf":
        return head(draw(kinds), label) + draw(bodies)
    boundary = f"{level}{draw(st.sampled_from(['', '=_()+', ' b.c', '--x']))}"
    pieces = draw(st.lists(entities(level + 1), min_size=1, max_size=3))
    delimiter = f"--{boundary}".encode()
    whole = head(
        draw(st.sampled_from(["multipart/mixed", "Multipart/Alternative"])) + f'; boundary="{boundary}"', label
    )
    whole += draw(st.sampled_from([b"", b"preamble\r\n", b"\r\n"]))
    for piece in pieces:
        whole += delimiter + draw(st.sampled_from([b"", b" \t"])) + b"\r\n" + piece + b"\r\n"
    return whole + delimiter + draw(st.sampled_from([b"--", b"--\r\n", b"--\r\nepilogue"]))


@given(entities())
def test_decoded_parts_headers_and_structure_are_the_same(entity):
    message = b"Subject: x\r\nMIME-Version: 1.0\r\n" + entity
    out = check(message)
    assert all(len(line) <= 78 for line in out.split(b"\r\n") if line not in message)
    b"".join(data_form([out])).decode("ascii")


@given(entities(), st.sampled_from([SEVEN, EIGHT]), st.integers(0, 4))
def test_binary_parts_become_fit_for_lines(entity, target, at):
    spoilt = (b"\r\n--", b"\n\x00\r\xff\r\n--")
    message = b"Subject: x\r\nMIME-Version: 1.0\r\n" + entity.replace(*spoilt, at)
    try:
        out = converted(message, BINARY, target)
    except UnconvertibleError:
        return
    if not at:
        assert_same(email.message_from_bytes(message), email.message_from_bytes(out))
    assert b"\0" not in out
    assert out.count(b"\r\n") == out.count(b"\n") == out.count(b"\r")
    assert target is EIGHT or out.isascii()


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from(
                [b"\r\n", b"\r\n\r\n", b"--b", b"--b--", b"Content-Type: multipart/mixed; boundary=b", b"boundary*=",
                 b"Content-Type: multipart/x; boundary*=\x00'e'%", b"Content-Transfer-Encoding: 8bit", b"\xe9",
                 b"Content-Type: message/rfc822"]
            ),
        ),
        max_size=25,
    ).map(b"".join),
    st.sampled_from([(EIGHT, SEVEN), (SEVEN, SEVEN), (BINARY, SEVEN), (BINARY, EIGHT)]),
)  # fmt: skip
def test_garbage_becomes_fit_or_is_told_apart(garbage, bodies):
    try:
        out = converted(garbage, *bodies)
    except UnconvertibleError as error:
        reason = str(error)
        assert reason.isprintable()
        assert reason.isascii()
        return
    assert bodies[1] is EIGHT or out.isascii()


def test_a_binary_part_is_encoded_for_an_8_bit_peer_and_its_8_bit_neighbour_is_not():
    message = (
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        b"--b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xc3\xa4\r\n"
        b"--b\r\nContent-Type: audio/x\r\nContent-Transfer-Encoding: binary\r\n\r\n\x00\n\r\n--b--\r\n"
    )
    assert converted(message, BINARY, EIGHT) == (
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        b"--b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xc3\xa4\r\n"
        b"--b\r\nContent-Type: audio/x\r\nContent-Transfer-Encoding: base64\r\n\r\nAAo=\r\n--b--\r\n"
    )


@pytest.mark.parametrize(("length", "same"), [(998, True), (999, False)])
def test_long_lines_are_binary(length, same):
    content = [b"MIME-Version: 1.0\r\n\r\nshort\r\n" + b"x" * length + b"\r\nshort\r\n"]
    assert (convert(content, BINARY, EIGHT) is content) is same
    assert convert(content, EIGHT, SEVEN) is content


@pytest.mark.parametrize("lines", [1, 700_000])
def test_large_text_is_encoded_in_blocks(lines):
    # A single line of this size is better off in base64.
    message = b"MIME-Version: 1.0\r\n\r\n" + (b"\xe9" * (700_000 // lines) + b"\r\n") * lines
    assert (b"base64" in check(message)) is (lines == 1)


# Structure


def test_parts_that_fit_stay_as_they_are_even_where_they_are_signed():
    signed = crlf(
        'Content-Type: multipart/signed; boundary="s"\n\n--s\n\nsigned =\n--s\n'
        "Content-Type: application/pgp-signature\n\nx\n--s--\n"
    )
    message = (
        crlf(
            'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="m"\nContent-Transfer-Encoding: 8bit\n\n--m\n'
        )
        + signed
        + crlf("\n--m\n\nfootär\n--m--\n")
    )
    out = check(message)
    assert signed in out
    assert b"Content-Transfer-Encoding: 7bit\r\n\r\n--m\r\n" in out


def test_a_message_in_a_message_is_converted_inside():
    message = crlf(
        "MIME-Version: 1.0\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n"
        "Subject: inner\nContent-Transfer-Encoding: 8bit\n\nä\n"
    )
    assert converted(message) == crlf(
        "MIME-Version: 1.0\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n\n"
        "Subject: inner\nContent-Transfer-Encoding: quoted-printable\nMIME-Version: 1.0\n\n=C3=A4\n"
    )


def test_parts_of_a_digest_are_messages():
    message = crlf(
        "MIME-Version: 1.0\nContent-Type: multipart/digest; boundary=d\n\n--d\n\nSubject: one\n\nä\n--d--\n"
    )
    assert b"\r\n--d\r\n\r\nSubject: one\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: q" in check(message)


def test_what_nobody_reads_loses_its_8_bit_bytes():
    message = crlf("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\nprä\n--b\n\nx\n--b--\nepü\n")
    assert converted(message).endswith(b"\r\n\r\npr??\r\n--b\r\n\r\nx\r\n--b--\r\nep??\r\n")


def test_a_multipart_without_its_last_delimiter_is_converted():
    assert converted(
        crlf("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nä\n--b\n\nü\n")
    ).endswith(crlf("--b\nContent-Transfer-Encoding: quoted-printable\n\n=C3=BC\n"))


def nested(depth: int) -> bytes:
    opening = "".join(f"Content-Type: multipart/mixed; boundary=b{level}x\n\n--b{level}x\n" for level in range(depth))
    closing = "".join(f"\n--b{level}x--" for level in reversed(range(depth)))
    return crlf(f"MIME-Version: 1.0\n{opening}\nä{closing}\n")


PLAIN = "MIME-Version: 1.0\nContent-Type: "


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Subject: ä\n\nx\n", "8-bit bytes in a header"),
        ("no header at all ä\n", "8-bit bytes in a header"),
        (PLAIN + "multipart/mixed; boundary=b\n\n--b\nContent-Disposition: x; filename=ä\n\n--b--\n", "header"),
        (PLAIN + "multipart/signed; boundary=b\n\n--b\n\nä\n--b--\n", "multipart/signed must not be altered"),
        (PLAIN + "Multipart/Signed (or so); boundary=b\n\n--b\n\nä\n--b--\n", "multipart/signed must not be altered"),
        (PLAIN + "multipart/encrypted; boundary=b\n\n--b\n\nä\n--b--\n", "must not be altered"),
        (PLAIN + "multipart/mixed\n\n--b\n\nä\n--b--\n", "without a boundary"),
        (PLAIN + "multipart/mixed; boundary=c\n\n--b\n\nä\n--b--\n", "without parts"),
        (PLAIN + "message/partial; id=x\n\nä\n", "may not be encoded"),
        (PLAIN + "text/plain\nContent-Transfer-Encoding: base64\n\nä\n", "not encoded as it says"),
        (PLAIN + "text/plain\nContent-Transfer-Encoding: x-uuencode\n\nä\n", "not encoded as it says"),
        (PLAIN + "text/plain\nContent-Type: image/png\n\nä\n", "content-type twice"),
        (PLAIN + "text/plain; x=" + "y" * 2000 + "\n\nä\n", "too long"),
        (PLAIN + "multipart/mixed; boundary*=utf-8''b\n\n--b\n\nä\n--b--\n", "without a boundary"),
        (PLAIN + "multipart/mixed; boundary=a; boundary=b\n\n--b\n\nä\n--b--\n", "two boundaries"),
    ],
)
def test_what_cannot_be_converted_says_why(message, reason):
    with pytest.raises(UnconvertibleError, match=reason):
        converted(crlf(message))


@pytest.mark.parametrize(
    ("parameters", "boundary"),
    [
        ("boundary=b", "b"),
        ("BOUNDARY = b ; charset=x", "b"),
        ('a="x; boundary=c"; boundary="b"', "b"),
        ('a="x\\"; boundary=c"; boundary="b (c)"', "b (c)"),
        ('boundary="b\\"c"', 'b"c'),
        ('type="text/html";\n boundary="b"', "b"),
        ("boundary==b=", "=b="),
    ],
)
def test_boundary_is_read_as_others_read_it(parameters, boundary):
    message = crlf(f"{PLAIN}multipart/mixed; {parameters}\n\n--{boundary}\n\nä\n--{boundary}--\n")
    assert email.message_from_bytes(message).get_boundary() == boundary
    assert b"\r\n\r\n=C3=A4\r\n--" in check(message)


def test_internationalised_messages_may_be_encoded_whole():
    out = converted(crlf(PLAIN + "message/global\n\nSubject: ä\n\nü\n"))
    assert out.endswith(crlf("Content-Transfer-Encoding: quoted-printable\n\nSubject: =C3=A4\n\n=C3=BC\n"))


def test_depth_and_number_of_parts_are_bounded():
    assert b"=C3=A4" in check(nested(MAX_DEPTH))
    with pytest.raises(UnconvertibleError, match="too deep"):
        converted(nested(MAX_DEPTH + 1))
    for part in ("\n--b\n\nä", "\n--b\n\na", "\n--b", "\n--bc"):
        with pytest.raises(UnconvertibleError, match="too many parts"):
            converted(crlf(PLAIN + "multipart/mixed; boundary=b\n" + part * (MAX_PARTS + 1) + "ä\n"))
