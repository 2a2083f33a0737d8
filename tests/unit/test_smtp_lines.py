"""Command lines out of a stream of bytes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.smtp.lines import Flaw, InputBuffer


def lines(pieces: list[bytes], limit: int = 40) -> list[bytes | Flaw]:
    buffer, found = InputBuffer(limit), []
    for piece in pieces:
        buffer.feed(piece)
        while (line := buffer.next_line()) is not None:
            found.append(line)
    return found


stream = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"NOOP", b"x" * 30])).map(b"".join)


@given(stream=stream, places=st.lists(st.integers(0, 300), max_size=10))
def test_each_crlf_ends_exactly_one_line_with_one_answer(stream, places):
    whole = stream + b"\r\n"
    marks = sorted({place % (len(whole) + 1) for place in places} | {0, len(whole)})
    found = lines([whole[a:b] for a, b in itertools.pairwise(marks)])
    expected = whole.split(b"\r\n")[:-1]
    assert len(found) == len(expected)
    for got, line in zip(found, expected, strict=True):
        if b"\r" in line or b"\n" in line:
            assert isinstance(got, Flaw)
        elif len(line) > 40:
            assert got is Flaw.TOO_LONG
        else:
            assert got == line


def test_bare_lf_is_answered_at_once_and_hides_no_second_command():
    assert lines([b"NOOP\n"]) == [Flaw.BARE_LINE_END]
    assert lines([b"NOOP\nMAIL FROM:<>\r\n", b"RSET\r\n"]) == [Flaw.BARE_LINE_END, b"RSET"]
    assert lines([b"NOOP\n", b"MAIL FROM:<>\r\nRSET\r\n"]) == [Flaw.BARE_LINE_END, b"RSET"]


def test_endless_line_takes_no_memory():
    buffer = InputBuffer(512)
    for _ in range(1000):
        buffer.feed(b"x" * 1000)
        assert buffer.next_line() is None
    assert len(buffer) <= 514
    buffer.feed(b"\r\nNOOP\r\n")
    assert buffer.next_line() is Flaw.TOO_LONG
    assert buffer.next_line() == b"NOOP"


@given(
    data=st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"NOOP", b" ", b"x" * 39])).map(b"".join).filter(len),
    before=st.sampled_from([b"", b"RS", b"x" * 50]),
)
def test_a_lone_line_is_the_one_that_the_buffer_would_give(data, before):
    alone, fed = InputBuffer(40), InputBuffer(40)
    for buffer in (alone, fed):
        buffer.feed(before)
        assert buffer.next_line() is None
    fed.feed(data)
    expected = fed.next_line()
    is_one = not before and data.find(b"\r\n") == len(data) - 2
    assert alone.lone_line(data) == (expected if is_one and isinstance(expected, bytes) else None)
