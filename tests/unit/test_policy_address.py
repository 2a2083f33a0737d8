"""The grammar of RFC 5321 4.1.2 and 4.1.3, and of RFC 6531, on bytes."""

from __future__ import annotations

import string
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.policy.address import (
    AddressSyntaxError,
    Mailbox,
    _scan_path,
    parse_forward_path,
    parse_mailbox,
    parse_parameters,
    parse_reverse_path,
)

ATEXT = string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-"
atoms = st.text(ATEXT, min_size=1, max_size=10)
dot_strings = st.lists(atoms, min_size=1, max_size=4).map(".".join)
quoted_contents = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
labels = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (b"<a.b@example.com>", Mailbox("a.b", "example.com")),
        (b" <a@b>", Mailbox("a", "b")),
        (b"<A.b@EXAMPLE.Com>", Mailbox("A.b", "example.com")),
        (b"a@example.com", Mailbox("a", "example.com")),
        (b"<@relay.example,@other.example:a@example.com>", Mailbox("a", "example.com")),
        (b'<"a.b"@example.com>', Mailbox("a.b", "example.com")),
        (b'<"a\\b"@example.com>', Mailbox("ab", "example.com")),
        (b'<"a b"@example.com>', Mailbox('"a b"', "example.com")),
        (b'<"a@b>c"@example.com>', Mailbox('"a@b>c"', "example.com")),
        (b'<"a\\"b\\\\"@example.com>', Mailbox('"a\\"b\\\\"', "example.com")),
        (b'<""@example.com>', Mailbox('""', "example.com")),
        (b"<a@[192.0.2.1]>", Mailbox("a", "[192.0.2.1]")),
        (b"<a@[ipv6:2001:DB8::1]>", Mailbox("a", "[IPv6:2001:db8::1]")),
        (b"<a@under_score.example>", Mailbox("a", "under_score.example")),
        (b"<a@xn--bcher-kva.example>", Mailbox("a", "xn--bcher-kva.example")),
        (b"<" + b"l" * 64 + b"@example.com>", Mailbox("l" * 64, "example.com")),
    ],
)
def test_a_path_is_parsed(argument: bytes, expected: Mailbox) -> None:
    assert parse_reverse_path(argument, smtputf8=False) == (expected, b"")
    assert parse_forward_path(argument + b" NOTIFY=NEVER", smtputf8=False) == (expected, b" NOTIFY=NEVER")


@pytest.mark.parametrize(
    "argument",
    [
        b"",
        b" ",
        b"<",
        b">",
        b"<a>",
        b"a",
        b"<@example.com>",
        b"<a@>",
        b"<a@b",
        b"<a@b>>",
        b"<<a@b>>",
        b"<a@b>SIZE=1",
        b"<a@b>\tSIZE=1",
        b"\t<a@b>",
        b"< a@b>",
        b"<a@b >",
        b"<a @b>",
        b"<a..b@c>",
        b"<.a@b>",
        b"<a.@b>",
        b"<a@b..c>",
        b"<a@.b>",
        b"<a@b.>",
        b"<a@-b>",
        b"<a@b->",
        b"<a@b@c>",
        b"<a\r\n@b>",
        b"<a\x00@b>",
        b"<a@b\x00>",
        b'<"a@b>',
        b'<"a"b@c>',
        b'<"a\x07"@b>',
        b"<a@[192.0.2.256]>",
        b"<a@[192.0.2.01]>",
        b"<a@[IPv6:::g]>",
        b"<a@[IPv6:1.2.3.4]>",
        b"<a@[2001:db8::1]>",
        b"<a@[]>",
        b"Anne <anne@example.com>",
        b"         <a@b>",
        b"<" + b"l" * 65 + b"@example.com>",
        b"<a@" + b"d" * 64 + b".example>",
        b"<a@" + b"d." * 130 + b"example>",
        b"<\xc3\xa9@example.com>",
        b"<a@b\xc3\xbccher.example>",
    ],
)
def test_what_is_no_path_is_refused(argument: bytes) -> None:
    with pytest.raises(AddressSyntaxError):
        parse_reverse_path(argument, smtputf8=False)
    with pytest.raises(AddressSyntaxError):
        parse_forward_path(argument, smtputf8=False)


def test_the_null_path_is_a_sender_but_no_recipient() -> None:
    assert parse_reverse_path(b"<>", smtputf8=False) == (None, b"")
    assert parse_reverse_path(b" <> SIZE=9", smtputf8=False) == (None, b" SIZE=9")
    with pytest.raises(AddressSyntaxError):
        parse_forward_path(b"<>", smtputf8=False)


@pytest.mark.parametrize("argument", [b"<postmaster>", b"<Postmaster>", b"<POSTMASTER>"])
def test_postmaster_needs_no_domain_as_recipient_only(argument: bytes) -> None:
    mailbox, _ = parse_forward_path(argument, smtputf8=False)
    assert mailbox.domain == ""
    assert mailbox.address.lower() == "postmaster"
    with pytest.raises(AddressSyntaxError):
        parse_reverse_path(argument, smtputf8=False)


def test_utf8_addresses_need_smtputf8() -> None:
    argument = "<é@Bücher.example>".encode()
    with pytest.raises(AddressSyntaxError, match="SMTPUTF8"):
        parse_forward_path(argument, smtputf8=False)
    mailbox, _ = parse_forward_path(argument, smtputf8=True)
    assert mailbox == Mailbox("é", "bücher.example")
    assert mailbox.ascii_domain == "xn--bcher-kva.example"


def test_a_decomposed_u_label_is_the_same_domain() -> None:
    mailbox, _ = parse_forward_path("<a@bu\u0308cher.example>".encode(), smtputf8=True)
    assert mailbox.domain == "bücher.example"


@pytest.mark.parametrize(
    "argument",
    [
        b"<\xff\xfe@example.com>",
        b"<\xc3@example.com>",
        b"<\xed\xa0\x80@example.com>",
        "<a\u0085b@example.com>".encode(),
        "<a\u2028b@example.com>".encode(),
        "<a@b\u2028c.example>".encode(),
        "<a@\u2100.example>".encode(),
        "<a@b。example>".encode(),
    ],
)
def test_bad_utf8_is_refused_even_with_smtputf8(argument: bytes) -> None:
    with pytest.raises(AddressSyntaxError):
        parse_forward_path(argument, smtputf8=True)


def test_parameters_keep_the_case_of_their_values() -> None:
    assert parse_parameters(b" MT-PRIORITY=3 ENVID=QQ314159 Body=8BITMIME  smtputf8 AUTH=<>") == {
        "MT-PRIORITY": "3",
        "ENVID": "QQ314159",
        "BODY": "8BITMIME",
        "SMTPUTF8": None,
        "AUTH": "<>",
    }
    assert parse_parameters(b"") == {}
    assert parse_parameters(b"  ") == {}


@pytest.mark.parametrize(
    "rest",
    [
        b" SIZE=",
        b" =1",
        b" SIZE=1=2",
        b" -SIZE=1",
        b" SIZE=1\tBODY=7BIT",
        b" SIZE=1 size=2",
        b" S\x00=1",
        b" SIZE=\x01",
        b" SIZE=\xc3\xa9",
        b" #$%=!@#",
        b" " + b"A" * 5000,
    ],
)
def test_malformed_parameters_are_refused(rest: bytes) -> None:
    with pytest.raises(AddressSyntaxError):
        parse_parameters(rest)


def test_utf8_values_need_smtputf8() -> None:
    rest = " ORCPT=utf-8;é@example.com".encode()
    assert parse_parameters(rest, smtputf8=True) == {"ORCPT": "utf-8;é@example.com"}
    with pytest.raises(AddressSyntaxError):
        parse_parameters(b" ORCPT=utf-8;\xff", smtputf8=True)


@given(local=dot_strings, domain=names)
def test_every_ordinary_mailbox_comes_back_as_it_was(local: str, domain: str) -> None:
    mailbox, rest = parse_reverse_path(f"<{local}@{domain}> X=1".encode(), smtputf8=False)
    assert mailbox == Mailbox(local, domain)
    assert mailbox.address == f"{local}@{domain}"
    assert rest == b" X=1"


@given(content=quoted_contents, domain=names)
def test_quoting_changes_nothing_about_who_is_meant(content: str, domain: str) -> None:
    escaped = content.replace("\\", "\\\\").replace('"', '\\"')
    everything = "".join(f"\\{character}" for character in content)
    plain, _ = parse_forward_path(f'<"{escaped}"@{domain}>'.encode(), smtputf8=False)
    assert parse_forward_path(f"<{plain.address}>".encode(), smtputf8=False)[0] == plain
    if len(everything) <= 62:
        assert parse_forward_path(f'<"{everything}"@{domain}>'.encode(), smtputf8=False)[0] == plain


@given(
    argument=st.one_of(
        st.binary(max_size=80),
        st.text('<>@."\\ [](),:;ab1-é\u2028\x00=', max_size=40).map(str.encode),
    ),
    smtputf8=st.booleans(),
)
def test_whatever_comes_is_a_mailbox_that_parses_again_or_a_syntax_error(argument: bytes, smtputf8: bool) -> None:
    try:
        mailbox, rest = parse_reverse_path(argument, smtputf8=smtputf8)
        parse_parameters(rest, smtputf8=smtputf8)
    except AddressSyntaxError:
        return
    if mailbox is not None:
        assert mailbox.ascii_domain.isascii()
        assert parse_reverse_path(f"<{mailbox.address}>".encode(), smtputf8=smtputf8) == (mailbox, b"")
        assert parse_mailbox(mailbox.address.encode(), smtputf8=smtputf8) == mailbox


@pytest.mark.parametrize(
    "unit",
    [b"a", b"a.", b'"\\', b"@a,", b"a@", b"b-", b"-", b" ", b"<", b"(", b"\xc3\xa9", b"\xc3\xa9.", b"A=1 "],
)
@pytest.mark.parametrize("prefix", [b"<", b'<"', b"<a@", b"<@", b"", b"<a@b> "])
def test_refusing_a_hostile_argument_does_not_depend_on_its_length(prefix: bytes, unit: bytes) -> None:
    def cost(length: int) -> float:
        argument = prefix + unit * (length // len(unit))
        best = 1.0
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(10):
                try:
                    _, rest = parse_reverse_path(argument, smtputf8=True)
                    parse_parameters(rest)
                except AddressSyntaxError:
                    pass
            best = min(best, time.perf_counter() - start)
        return best

    # A quadratic cost would be 10,000 times that of the short one, a linear one 100 times.
    assert cost(100_000) < max(50 * cost(1_000), 0.01)


@given(st.text('<>@ab."\\ ,:=[]é', max_size=24).map(str.encode), st.booleans())
def test_a_path_that_comes_again_is_what_it_was_whatever_follows_it(argument: bytes, smtputf8: bool) -> None:
    start = len(argument) - len(argument.lstrip(b" "))

    def verdict(parse: Callable[[], tuple[Mailbox, bytes]]) -> object:
        try:
            return parse()
        except AddressSyntaxError as error:
            return str(error)

    expected = verdict(lambda: _scan_path(argument, min(start, 8), smtputf8))
    if isinstance(expected, tuple) and not expected[0].domain:
        return
    for _ in range(2):
        assert verdict(lambda: parse_forward_path(argument, smtputf8=smtputf8)) == expected
