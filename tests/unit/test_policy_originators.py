"""Who a header says the message is from."""

from __future__ import annotations

from email.utils import formataddr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.policy.address import AddressSyntaxError
from postroad_transport.policy.originators import parse_mailbox_list


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a@b.example", ["a@b.example"]),
        (" a@b.example \r\n", ["a@b.example"]),
        ("A B <a@b.example>", ["a@b.example"]),
        ('"B, A (x) <y@z>" <a@b.example>', ["a@b.example"]),
        ('"A \\" B" <a@b.example>', ["a@b.example"]),
        ("A. B. <a@b.example>, c@d.example,", ["a@b.example", "c@d.example"]),
        ("a@b.example (A (nested \\) ) comment), (only a comment), < c@d.example >", ["a@b.example", "c@d.example"]),
        ("A\r\n B\r\n <a@b.example>", ["a@b.example"]),
        ("Group: a@b.example, C <c@d.example>;", ["a@b.example", "c@d.example"]),
        ("Nobody:;", []),
        ("", []),
        ("é@b.example", ["é@b.example"]),
        ("\udcff <a@b.example>", ["a@b.example"]),
        ('"a b"@c.example', ['"a b"@c.example']),
        ("x@y.example <a@b.example>", ["a@b.example"]),
        ("A <a@[192.0.2.1]>", ["a@[192.0.2.1]"]),
    ],
)
def test_a_mailbox_list_is_parsed(value: str, expected: list[str]) -> None:
    found = parse_mailbox_list(value.encode("utf-8", "surrogateescape"))
    assert [mailbox.address for mailbox in found] == expected


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "a@",
        "@b",
        "<>",
        "a b@c",
        "a@b c@d",
        "<a@b",
        "a@b>",
        "<a@b> <c@d>",
        "<a@b>c@d",
        "<a@b> c@d",
        "A <a@b>, B <",
        "<<a@b>>",
        "<a@b,c@d>",
        "<@r:a@b>",
        '"a@b',
        "a@b (",
        "a@b (\\",
        "a@b)",
        "a\\@b",
        "a@b\\",
        "<a @b>",
        "<a@b(comment>",
    ],
)
def test_what_two_readers_could_read_differently_is_malformed(value: str) -> None:
    with pytest.raises(AddressSyntaxError):
        parse_mailbox_list(value.encode())


@given(
    people=st.lists(
        st.tuples(
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
            st.from_regex(r"[a-z0-9+_-]{1,10}@[a-z]{1,10}\.example", fullmatch=True),
        ),
        max_size=4,
    )
)
def test_what_a_mail_client_writes_is_read_back(people: list[tuple[str, str]]) -> None:
    value = ", ".join(formataddr((name.strip(), address)) for name, address in people)
    assert [mailbox.address for mailbox in parse_mailbox_list(value.encode())] == [address for _, address in people]


@given(value=st.text('ab@<>(),:;"\\ \r\n\té.', max_size=30))
def test_nothing_but_a_syntax_error_is_raised(value: str) -> None:
    try:
        found = parse_mailbox_list(value.encode())
    except AddressSyntaxError:
        return
    assert all(mailbox.domain for mailbox in found)
