"""The mailboxes that a message claims to be from: its ``From`` and ``Sender`` fields (RFC 5322 3.6.2).

Strict where parsers differ: a field that two readers could read as two different authors is malformed, and
whoever is held to their own addresses may not send it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from postroad_transport.policy.address import AddressSyntaxError, Mailbox, parse_mailbox

_find_fields = re.compile(rb"\n((?:from|sender)[ \t]*+:)[^\n]*+(?:\n[ \t][^\n]*+)*").finditer
_match_token = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*"|[(),:;<>]|[^"(),:;<>\\ \t\r\n]++|[ \t\r\n]++', re.DOTALL
).match
_match_comment_text = re.compile(rb"[^()\\]*+(?:\\.[^()\\]*+)*", re.DOTALL).match
# What nearly all mail has: one mailbox, with or without a display name that needs no second look.
_fullmatch_simple = re.compile(
    rb"[ \t]*+(?:"
    rb"""(?:"[^"\\\r\n]*+"|[A-Za-z0-9 .'_=?-]*+)[ \t]*+<([^<>"(),:;\\ \t\r\n]++)>"""
    rb"|([A-Za-z0-9.+_-]++@[A-Za-z0-9.-]++))[ \t\r\n]*+"
).fullmatch
_BLANKS = b" \t\r\n"


class Originators(NamedTuple):
    """Who a header says the message is from."""

    mailboxes: tuple[Mailbox, ...]
    malformed: bool
    """Some ``From`` or ``Sender`` field is not a mailbox list, or names nobody."""


def parse_originators(block: bytes, lowered: bytes) -> Originators:
    """Find and parse every ``From`` and ``Sender`` field of a header block.

    Parameters
    ----------
    block
        The header block, without the blank line.
    lowered
        A line feed and then `block` in lower case.
    """
    mailboxes: list[Mailbox] = []
    malformed = False
    for field in _find_fields(lowered):
        try:
            found = parse_mailbox_list(block[field.end(1) - 1 : field.end()])
        except AddressSyntaxError:
            malformed = True
        else:
            malformed = malformed or not found
            mailboxes += found
    return Originators(tuple(mailboxes), malformed)


def parse_mailbox_list(value: bytes) -> list[Mailbox]:
    """Parse a mailbox-list or address-list (RFC 5322 3.4, RFC 6854), comments and folding included.

    Raises
    ------
    AddressSyntaxError
        It is none, in whole or in part.
    """
    simple = _fullmatch_simple(value)
    if simple is not None:
        return [parse_mailbox(simple[1] or simple[2], smtputf8=True)]
    mailboxes: list[Mailbox] = []
    bare = bytearray()
    angle: bytearray | None = None
    opened = False
    position = 0
    while position < len(value):
        token, position = _next_token(value, position)
        if opened and angle is not None and token not in (b">", b"<", b",", b";"):
            angle += token
        elif token == b">" and opened:
            opened = False
        elif token == b"<" and angle is None:
            angle, opened = bytearray(), True
        elif token in (b",", b";") and not opened:
            mailboxes += _mailbox(bare, angle)
            bare, angle = bytearray(), None
        elif token == b":" and angle is None:
            bare = bytearray()
        elif angle is None and token not in (b">", b":"):
            bare += token
        elif token.strip(_BLANKS):
            raise AddressSyntaxError("Mailbox list is malformed")
    if opened:
        raise AddressSyntaxError("Mailbox list is malformed")
    return mailboxes + _mailbox(bare, angle)


def _mailbox(bare: bytearray, angle: bytearray | None) -> list[Mailbox]:
    text = bytes(bare if angle is None else angle).strip(_BLANKS)
    if not text and angle is None:
        return []
    return [parse_mailbox(text, smtputf8=True)]


def _next_token(value: bytes, position: int) -> tuple[bytes, int]:
    """Return the token at `position` and where it ends; a comment, however nested, is one blank."""
    found = _match_token(value, position)
    if found is None:
        raise AddressSyntaxError("Mailbox list is malformed")
    if found[0] != b"(":
        return found[0], found.end()
    depth, position = 1, found.end()
    while depth:
        text = _match_comment_text(value, position)
        position = text.end() if text is not None else position
        if position >= len(value) or value[position] == 0x5C:
            raise AddressSyntaxError("Comment is not closed")
        depth += 1 if value[position] == 0x28 else -1
        position += 1
    return b" ", position
