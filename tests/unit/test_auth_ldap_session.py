"""What is asked of a directory, and what becomes of its answer."""

from __future__ import annotations

import logging

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ldap3.operation.search import compile_filter, parse_filter

from postroad_operator.resources.directories import filter_fault
from postroad_transport.auth.accounts import Account
from postroad_transport.auth.addresses import addresses
from postroad_transport.auth.ldap_session import Credentials, Session, account_of, search_filter
from postroad_transport.config.directories import Ldap, LdapServer, LdapTls

CONFIG = Ldap(
    servers=(LdapServer(host="ldap.example", port=389, tls=LdapTls.STARTTLS),),
    base_dn="dc=example",
    filter="(uid={user})",
    account_attribute="uid",
    address_attributes=("mail", "proxyAddresses"),
)
ANYTHING = st.text(st.characters(blacklist_categories=("Cs",)), max_size=40)
PIECES_OF_NAMES = (*"*()\\\0|&!=~@: a\r", "ä", "\\2a", ":=", ">=", "{user}")
NASTY = st.lists(st.sampled_from(PIECES_OF_NAMES)).map("".join)


def values(node) -> list[bytes]:
    """Return the values that a filter compares with, as they go over the wire, in order."""
    kind, value = node.getName(), node.getComponent()
    if kind in ("and", "or"):
        return [found for item in value for found in values(item)]
    if kind == "notFilter":
        return values(value["innerNotFilter"])
    if kind in ("substringFilter", "present"):
        return []
    return [bytes(value["matchValue" if kind == "extensibleMatch" else "assertionValue"])]


def asked(text: str) -> list[bytes]:
    return values(compile_filter(parse_filter(text, None, False, True, None, False).elements[0]))


@given(ANYTHING | NASTY)
@example("*)(uid=*))(|(uid=*")
@example("{domain}")
@example("\\2a")
def test_no_user_name_changes_what_is_asked(name: str) -> None:
    rendered = search_filter("(&(objectClass=person)(|(uid={user})(mail={user})))", name)
    if name:
        assert asked(rendered) == [b"person", name.encode(), name.encode()]
    assert rendered.count("(") == 5


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("(uid={local})", "a@example.com", r"(uid=\61)"),
        ("(uid={local})", "a", r"(uid=\61)"),
        ("(&(uid={local})(o={domain}))", "a@b@c", r"(&(uid=\61\40\62)(o=\63))"),
        ("(o={domain})", "alice", "(o=)"),
        ("(x={other}{user}", "ä", r"(x={other}\c3\a4"),
    ],
)
def test_a_name_can_be_taken_apart(template: str, name: str, expected: str) -> None:
    assert search_filter(template, name) == expected


@pytest.mark.parametrize(
    "text",
    [
        "(uid={user})",
        "(&(objectClass=person)(|(uid={user})(mail={user})))",
        "(&(uid={local})(!(loginDisabled=TRUE))(memberOf:1.2.840.113556.1.4.1941:=cn=mail,dc=example))",
        "(&(uid={user})(cn=a\\2ab)(x>=1)(y=*))",
    ],
)
def test_a_filter_that_is_taken_is_one_for_the_library_too(text: str) -> None:
    assert filter_fault(text) == ""
    assert b"alice" in asked(search_filter(text, "alice"))


@given(
    st.lists(st.sampled_from(["(", ")", "&", "|", "!", "uid={user}", "a=b", "\\2a", "\\", "="]), max_size=9).map(
        "".join
    )
)
def test_what_the_library_cannot_parse_is_refused(text: str) -> None:
    if filter_fault(text) == "":
        assert asked(search_filter(text, "alice"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("(uid=x)", "must ask for {user}"),
        ("uid={user}", "no search filter"),
        ("(uid={user}", "no search filter"),
        ("(uid={user}))", "no search filter"),
        ("(&(uid={user})(mail={mail}))", "{mail} stands for nothing"),
        ("(uid=\\{user})", "a backslash begins an escape"),
        ("(!(uid={user})(a=b))", "no search filter"),
    ],
)
def test_a_filter_that_is_none_is_refused_with_the_reason(text: str, fault: str) -> None:
    assert fault in filter_fault(text)


def test_addresses_are_lower_case_without_prefix_and_never_a_whole_domain() -> None:
    entry = {
        "UID": [b"alice"],
        "Mail": [b"Alice@Example.com", b"alice@example.com", b"not an address", b"<x@example.com>"],
        "proxyaddresses": [b"SMTP:sales@example.com", b"x500:/o=a@b", b"smtp:*@example.com", b"\xff@example.com"],
    }
    assert account_of(entry, CONFIG, "uid=alice") == Account("alice", ("alice@example.com", "sales@example.com"))


@given(st.lists(ANYTHING | NASTY))
def test_no_value_of_a_directory_stands_for_more_than_one_address(found: list[str]) -> None:
    for address in addresses(found):
        assert address == address.lower()
        assert not set("* ,<>\r\n") & set(address)


@pytest.mark.parametrize("names", [[], [b"a", b"b"], [b""], [b"a\nb"], [b"\xff"], [b"x" * 257]])
def test_an_entry_without_one_printable_name_cannot_log_in_and_is_named(names, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert account_of({"uid": names}, CONFIG, "cn=who") is None
    assert "cn=who" in caplog.text


def test_an_empty_password_never_reaches_a_server() -> None:
    session = Session(CONFIG, CONFIG.servers[0], Credentials(), None)
    with pytest.raises(ValueError, match="empty"):
        session.check("alice", "")


def test_the_password_to_search_with_does_not_show_in_a_repr() -> None:
    read = Credentials.read(b'{"username": "cn=x", "password": "hush"}')
    assert (read.dn, read.password) == ("cn=x", "hush")
    assert "hush" not in repr(read)


class Searched:
    """A connection whose search finds one entry, and ends with a result code."""

    def __init__(self, code: int) -> None:
        self.result = {"result": code, "description": ""}
        self.response = [{"type": "searchResEntry", "dn": "uid=alice", "raw_attributes": {"uid": [b"alice"]}}]

    def search(self, *_: object, **__: object) -> None:
        """Take any search."""


@pytest.mark.parametrize(("code", "found"), [(0, True), (4, False)])
def test_an_entry_is_not_the_only_one_where_the_server_stopped_after_it(code: int, found: bool) -> None:
    session = Session(CONFIG, CONFIG.servers[0], Credentials(), None)
    session._search = Searched(code)
    assert (session._find("alice") is not None) == found


def test_an_entry_cannot_be_a_service_account() -> None:
    assert account_of({"uid": [b"system:serviceaccount:prod:billing"]}, CONFIG, "uid=x") is None
