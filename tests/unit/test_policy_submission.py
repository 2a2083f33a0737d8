"""What a submitted message is completed with."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime

import pytest

from postroad_transport.config import Permission
from postroad_transport.policy.submission import missing_fields, passed_on

NOW = 1_700_000_000.9


def completed(header: bytes) -> bytes:
    content = header + b"\r\nDate: in the body\r\nMessage-ID: <too>\r\n"
    end = len(header) + 2
    return missing_fields(content, end, identifier="01HF", host="mail.example", now=NOW)


def test_both_fields_are_added_where_there_are_none():
    added = completed(b"Subject: x\r\n")
    message = email.message_from_bytes(added + b"Subject: x\r\n\r\n", policy=email.policy.default)
    assert message["Date"].datetime == datetime.fromtimestamp(int(NOW), UTC)
    assert message["Date"].endswith("+0000")
    assert message["Message-ID"] == "<01HF@mail.example>"
    assert added.count(b"\r\n") == added.count(b"\n") == 2


@pytest.mark.parametrize(
    ("header", "added"),
    [
        (b"Date: x\r\nMessage-ID: <a@b>\r\n", []),
        (b"DATE : x\r\nmessage-id:\r\n <a@b>\r\n", []),
        (b"Date: x\r\n", [b"Message-ID"]),
        (b"X-Date: x\r\nMessage-Id: <a@b>\r\n", [b"Date"]),
        (b"Subject: on\r\n date: not a field\r\n", [b"Date", b"Message-ID"]),
        (b"", [b"Date", b"Message-ID"]),
    ],
)
def test_only_what_is_missing_is_added(header, added):
    assert [line.partition(b":")[0] for line in completed(header).splitlines()] == added


@pytest.mark.parametrize(
    ("permissions", "account", "expected"),
    [
        (set(), "", ("", 0)),
        (set(Permission) - {Permission.ACCEPT_AUTHENTICATION_FLAG}, "", ("", 0)),
        ({Permission.SUBMIT}, "alice", ("", 4)),
        ({Permission.ACCEPT_AUTHENTICATION_FLAG}, "", ("a@one.example", 4)),
    ],
)
def test_only_a_trusted_server_is_believed_who_submitted_and_only_who_logged_in_what_is_urgent(
    permissions, account, expected
):
    assert passed_on("a@one.example", 4, frozenset(permissions), account=account) == expected
