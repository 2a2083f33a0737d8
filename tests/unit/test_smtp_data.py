"""The end of data, against an oracle that knows nothing but RFC 5321's words."""

from __future__ import annotations

import itertools
import re
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.delivery.wire_form import data_form
from postroad_transport.message import PlainContent
from postroad_transport.smtp import data
from postroad_transport.smtp.bdat import ChunkReader, parse_bdat
from postroad_transport.smtp.data import DataScanner, Fault


def oracle(stream: bytes) -> tuple[bytes, bytes] | None:
    """Go line by line, a line being what ends with CRLF; return (message, rest), None when it has not ended."""
    message, rest = [], stream
    while True:
        line, crlf, rest = rest.partition(b"\r\n")
        if not crlf:
            return None
        if line == b".":
            return b"".join(message), rest
        message.append((line[1:] if line.startswith(b".") else line) + b"\r\n")


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({place % (len(stream) + 1) for place in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(places)]


def scan(pieces: list[bytes], **options) -> tuple[DataScanner, bytes | None]:
    scanner = DataScanner(**options)
    for number, piece in enumerate(pieces):
        rest = scanner.feed(piece)
        if rest is not None:
            return scanner, rest + b"".join(pieces[number + 1 :])
    return scanner, None


# Few letters, so that the interesting sequences come often.
wire = st.lists(st.sampled_from([b"\r\n", b".", b"\r", b"\n", b"x", b"\r\n.\r\n", b"\r\n..", b"text"])).map(b"".join)
cuts = st.lists(st.integers(min_value=0, max_value=200), max_size=12)


@given(stream=wire, places=cuts, large=st.sampled_from([0, data._LARGE]))
def test_scanner_agrees_with_the_line_by_line_oracle(stream, places, large):
    with mock.patch.object(data, "_LARGE", large):  # else it would take long streams to be searched dot by dot
        scanner, rest = scan(cut(stream, places), strict_line_ends=False)
    expected = oracle(stream)
    if expected is None:
        assert rest is None
    else:
        assert rest == expected[1]
        assert scanner.fault is None
        assert bytes(scanner.content()) == expected[0]


@given(stream=wire, places=cuts)
def test_strict_scanner_finds_the_same_end_and_faults_exactly_bare_line_ends(stream, places):
    scanner, rest = scan(cut(stream, places))
    expected = oracle(stream)
    assert rest == (None if expected is None else expected[1])
    if expected is not None:
        used = stream[: len(stream) - len(expected[1])]
        bare = re.search(rb"\r(?!\n)|(?<!\r)\n", used) is not None
        assert (scanner.fault is Fault.BARE_LINE_END) == bare


@given(stream=wire, places=cuts, size=st.integers(1, 40), line=st.integers(4, 20))
def test_limits_do_not_depend_on_how_the_network_cuts(stream, places, size, line):
    scanner, rest = scan(cut(stream, places), size_limit=size, line_limit=line, strict_line_ends=False)
    expected = oracle(stream)
    assert rest == (None if expected is None else expected[1])
    if expected is not None:
        message = stream[: len(stream) - len(expected[1]) - 3]
        too_much = len(message) > size
        too_long = any(len(text) + 2 > line for text in message.split(b"\r\n")[:-1])
        assert (scanner.fault is not None) == (too_much or too_long)


@given(stream=wire, places=cuts)
def test_plain_content_needs_no_dots_stuffed_and_no_line_end_changed(stream, places):
    scanner, rest = scan(cut(stream, places))
    if rest is not None and scanner.fault is None and scanner.plain:
        content = bytes(scanner.content())
        assert b"".join(data_form([content])) == content + b".\r\n"
        assert data_form(PlainContent((b"Trace: x\r\n", content))) == [b"Trace: x\r\n", content, b".\r\n"]


@pytest.mark.parametrize(("stream", "plain"), [(b"a.\r\nb\r\n.\r\n", True), (b"a\r\n..b\r\n.\r\n", False)])
def test_content_without_lines_that_begin_with_a_dot_is_plain(stream, plain):
    assert scan([stream])[0].plain is plain


@pytest.mark.parametrize(
    "fake_end",
    [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r\n.\r",
        b"\r.\r\n",
        b"\n.\r",
        b"\r\n\x00.\r\n",
        b"\r\n.\x00\r\n",
    ],
    ids=repr,
)
def test_nothing_but_crlf_dot_crlf_ends_the_data(fake_end):
    stream = b"first" + fake_end + b"MAIL FROM:<smuggled@example.com>\r\n.\r\nQUIT\r\n"
    scanner, rest = scan([stream])
    assert rest == b"QUIT\r\n"
    if b"\x00" not in fake_end:
        assert scanner.fault is Fault.BARE_LINE_END


def test_refused_content_is_not_kept():
    scanner = DataScanner(size_limit=1000)
    for _ in range(1000):
        assert scanner.feed(b"x" * 997 + b"\r\n.") is None
    assert len(scanner._body) < 100
    assert scanner.feed(b"x\r\n.\r\nNOOP\r\n") == b"NOOP\r\n"
    assert scanner.fault is Fault.TOO_MUCH


def test_message_of_exactly_the_limit_is_taken():
    scanner, rest = scan([b"12345678\r\n.\r\n"], size_limit=10)
    assert rest == b""
    assert scanner.fault is None
    assert scan([b"123456789\r\n.\r\n"], size_limit=10)[0].fault is Fault.TOO_MUCH


@pytest.mark.parametrize(("length", "fault"), [(998, None), (999, Fault.LINE_TOO_LONG)])
def test_line_limit_counts_the_crlf(length, fault):
    stream = b"a\r\n" * 500 + b"x" * length + b"\r\n" + b"b\r\n" * 500 + b".\r\n"
    assert scan([stream], line_limit=1000)[0].fault is fault
    assert scan([stream[i : i + 7] for i in range(0, len(stream), 7)], line_limit=1000)[0].fault is fault


@given(body=st.binary(max_size=300), after=st.binary(max_size=20), places=cuts)
def test_chunk_takes_its_octets_and_nothing_else(body, after, places):
    kept = bytearray()
    reader = ChunkReader(len(body), kept)
    rest = None
    pieces = cut(body + after, places) or [b""]
    for number, piece in enumerate(pieces):
        rest = reader.feed(piece)
        if rest is not None:
            rest += b"".join(pieces[number + 1 :])
            break
    assert rest == after
    assert kept == body


@pytest.mark.parametrize(
    ("argument", "parsed"),
    [
        (b"0", (0, False)),
        (b"86 LAST", (86, True)),
        (b"86 last", (86, True)),
        (b"", None),
        (b"-1", None),
        (b"1 FIRST", None),
        (b"1e3", None),
        (b"\xb2", None),
        (b"9" * 19, None),
    ],
)
def test_bdat_arguments(argument, parsed):
    assert parse_bdat(argument) == parsed
