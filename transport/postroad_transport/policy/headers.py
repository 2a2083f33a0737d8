"""The header firewall and the message stamps (spec.md 1.1, 1.2 and 6).

The header block, everything before the first empty line, is looked at once, in lower case, by searches that
cost nothing where there is nothing to find; the body is never looked at. What is kept is kept byte for byte.

A line belongs to the firewall by its beginning, so that odd blanks before the colon, a missing colon or an
unusual case hide nothing; lines that begin with a blank go with the line they continue.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from postroad_transport.config import Permission, Principal
from postroad_transport.message import Content, PlainContent
from postroad_transport.policy.address import Mailbox
from postroad_transport.policy.originators import Originators, parse_originators
from postroad_transport.policy.session import SessionFacts

AUTH_AS_VALUES = ("Anonymous", "Internal", "External", "Partner")
"""What ``X-MS-Exchange-Organization-AuthAs`` may say (spec.md 6)."""

HOPS_FIELD = "X-Postroad-Hops"
"""Says how many ``Received`` fields the firewall has taken out so far, so that loops are still seen."""

_HOPS = b"\n" + HOPS_FIELD.lower().encode()
_HIDDEN = b"\nx-ms-exchange-"
_ROUTING = rb"received(?=[ \t]*+:)"
_ORGANIZATION = rb"x-ms-exchange-organization-[^\n:]*+"
_FOREST = rb"x-ms-exchange-forest-[^\n:]*+"
_STAMPS = rb"x-ms-exchange-organization-auth(?:as|source|mechanism|domain)(?=[ \t]*+:)"
_NAME_LENGTH = 76
_WINDOW = 4096

_find_received = re.compile(b"\n" + _ROUTING).findall
_find_hops = re.compile(re.escape(_HOPS) + rb"[ \t]*+:[ \t]*+(\d{1,3})[ \t]*+\r?\n").findall
_begins_with_field = re.compile(rb"[!-9;-~]++[ \t]*+:|\r\n|>?From |\Z").match
_find_auth_as = re.compile(rb"\nx-ms-exchange-organization-authas[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*)").findall
_AUTH_AS = {value.lower().encode(): value for value in AUTH_AS_VALUES}

_INTERNAL = frozenset(
    {
        str(Principal.AUTHENTICATED_USERS),
        str(Principal.HUB_TRANSPORT_SERVERS),
        str(Principal.EXTERNALLY_SECURED_SERVERS),
        str(Principal.LEGACY_EXCHANGE_SERVERS),
    }
)


def _pattern(*names: bytes) -> re.Pattern[bytes] | None:
    """Compile an expression for whole fields of these names; None for no names."""
    if not names:
        return None
    return re.compile(rb"\n(" + b"|".join(names) + rb")[^\n]*+(?:\n[ \t][^\n]*+)*")


# By what is *not* allowed: routing, organisation, forest, stamps.
_PATTERNS = {
    (routing, organization, forest, stamps): _pattern(
        *([_ROUTING] if routing else []),
        *([_ORGANIZATION] if organization else []),
        *([_FOREST] if forest else []),
        *([_STAMPS] if stamps and not organization else []),
    )
    for routing in (False, True)
    for organization in (False, True)
    for forest in (False, True)
    for stamps in (False, True)
}


class HeaderReport:
    """What one look at a received message's header found.

    ``header_end`` is the offset just after the blank line, ``header_size`` the size of the header block
    without it, both in bytes. ``hops`` counts the ``Received`` fields, those that a firewall took out on the way
    included; ``hops_hidden`` tells that this one takes some out. ``stripped`` names the fields that the
    firewall takes out, each once. ``kept`` is the header without them, its blank line included, to be followed
    by the content from ``header_end`` on; None where nothing is taken out and the content can be used as it
    is. ``believed`` is the AuthAs value of the message's own stamp where the session may assert one, else
    empty; ``stamped`` tells whether those stamps stay in the message.
    """

    __slots__ = (
        "_block",
        "_lowered",
        "_originators",
        "believed",
        "header_end",
        "header_size",
        "hops",
        "hops_hidden",
        "hostname",
        "kept",
        "stamped",
        "stripped",
    )

    def __init__(self, block: bytes, lowered: bytes, header_end: int, hostname: str) -> None:
        self._block = block
        self._lowered = lowered
        self._originators: Originators | None = None
        self.header_end = header_end
        self.header_size = len(block)
        self.hostname = hostname
        self.hops = 0
        self.hops_hidden = False
        self.stripped: tuple[str, ...] = ()
        self.kept: list[bytes] | None = None
        self.believed = ""
        self.stamped = False

    @property
    def from_mailboxes(self) -> tuple[Mailbox, ...]:
        """The mailboxes of ``From`` and ``Sender``, parsed when first asked for."""
        return self._parsed().mailboxes

    @property
    def from_malformed(self) -> bool:
        """Whether some ``From`` or ``Sender`` field cannot be read as a list of mailboxes."""
        return self._parsed().malformed

    def message_id(self) -> str | None:
        """Return the value of the ``Message-ID`` field, where there is one on one line."""
        start = self._lowered.find(b"\nmessage-id:")
        if start < 0:
            return None
        begin = start + 11
        end = self._block.find(b"\r\n", begin)
        value = self._block[begin : end if end >= 0 else None].strip()[:998].decode("utf-8", "replace")
        return value or None

    def _parsed(self) -> Originators:
        if self._originators is None:
            self._originators = parse_originators(self._block, self._lowered)
        return self._originators


def inspect(content: bytes | bytearray, permissions: frozenset[Permission], *, hostname: str) -> HeaderReport:
    """Look at a received message's header and take out what `permissions` do not let in.

    Parameters
    ----------
    content
        The message as received, dot-stuffing undone. Nothing keeps a view of it.
    permissions
        The session's receive permissions.
    hostname
        The server's name, for the stamps.
    """
    block_end, header_end = _header_ends(content)
    block = bytes(content[:block_end])
    lowered = b"\n" + block.lower()
    report = HeaderReport(block, lowered, header_end, hostname)
    received = len(_find_received(lowered))
    report.hops = received + _carried(lowered)
    hidden = lowered.find(_HIDDEN) >= 0
    routing, organization, forest, flag = _accepted(permissions)
    report.hops_hidden = bool(received) and not routing
    if not hidden and not report.hops_hidden:
        return report
    if hidden and flag:
        report.believed, clear = _believed(lowered)
        report.stamped = clear and organization
    pattern = _PATTERNS[not routing, not organization, not forest, not report.stamped]
    if pattern is not None:
        header, report.stripped = _strip(block, lowered, pattern)
        if report.stripped:
            report.kept = [header, bytes(content[block_end:header_end])]
    return report


def firewall_permission(name: str) -> Permission:
    """Return the receive permission that a field which the firewall took out would need.

    A stamp needs ``SMTP-Accept-Authentication-Flag`` besides this one.
    """
    lowered = name.lower()
    if lowered == "received":
        return Permission.ACCEPT_HEADERS_ROUTING
    if lowered.startswith("x-ms-exchange-forest-"):
        return Permission.ACCEPT_HEADERS_FOREST
    return Permission.ACCEPT_HEADERS_ORGANIZATION


def send_permission(name: str) -> Permission:
    """Return the send permission that a field which the firewall on the way out took out would need."""
    lowered = name.lower()
    if lowered == "received":
        return Permission.SEND_HEADERS_ROUTING
    if lowered.startswith("x-ms-exchange-forest-"):
        return Permission.SEND_HEADERS_FOREST
    return Permission.SEND_HEADERS_ORGANIZATION


class Outbound(NamedTuple):
    """A message as it may leave through a send connector; ``content`` is the one given where all may."""

    content: Content
    stripped: tuple[str, ...]


def outbound(content: Content, permissions: frozenset[Permission]) -> Outbound:
    """Take out of a message what the send connector's `permissions` do not let out (spec.md 1.2)."""
    pattern = _send_pattern(permissions)
    if pattern is None:
        return Outbound(content, ())
    head, body = _split(content)
    block = head[: _header_ends(head)[0]]
    lowered = b"\n" + block.lower()
    header, stripped = _strip(block, lowered, pattern)
    if not stripped:
        return Outbound(content, ())
    if Permission.SEND_HEADERS_ROUTING not in permissions and (received := len(_find_received(lowered))):
        header = _hops_line(received + _carried(lowered)) + header
    left = (header + head[len(block) :], *body)
    # Without some of its header fields a plain message is as plain as before.
    return Outbound(PlainContent(left) if isinstance(content, PlainContent) else left, stripped)


def auth_as(session: SessionFacts, report: HeaderReport) -> str:
    """Return the message's AuthAs value: the believed stamp's, else what the session is (spec.md 6)."""
    return report.believed or _session_auth_as(session.principals)


def stamps(session: SessionFacts, report: HeaderReport) -> bytes:
    """Return the stamp fields to put in front of the message; empty where it keeps believed ones.

    A session that may not assert stamps has its own replaced by what it is. One that may, but may not bring
    organisation headers, has them written anew with the value it asserted. Where ``Received`` fields are taken
    out, their number is put in their place.
    """
    hops = _hops_line(report.hops) if report.hops_hidden else b""
    if report.stamped:
        return hops
    lines = _stamp_lines(auth_as(session, report), report.hostname, session.auth_mechanism)
    return hops + lines + (b"" if report.believed else _domain_secured_mark(session.secured_domain))


def _hops_line(hops: int) -> bytes:
    return f"{HOPS_FIELD}: {hops}\r\n".encode()


def _carried(lowered: bytes) -> int:
    """Return the largest number that the message's own hops fields give: each firewall on the way adds one."""
    if lowered.find(_HOPS) < 0:
        return 0
    return max(map(int, _find_hops(lowered)), default=0)


@lru_cache(maxsize=1024)
def _accepted(permissions: frozenset[Permission]) -> tuple[bool, bool, bool, bool]:
    """Return whether routing, organisation and forest headers and the authentication flag are let in."""
    return (
        Permission.ACCEPT_HEADERS_ROUTING in permissions,
        Permission.ACCEPT_HEADERS_ORGANIZATION in permissions,
        Permission.ACCEPT_HEADERS_FOREST in permissions,
        Permission.ACCEPT_AUTHENTICATION_FLAG in permissions,
    )


@lru_cache(maxsize=1024)
def _send_pattern(permissions: frozenset[Permission]) -> re.Pattern[bytes] | None:
    return _PATTERNS[
        Permission.SEND_HEADERS_ROUTING not in permissions,
        Permission.SEND_HEADERS_ORGANIZATION not in permissions,
        Permission.SEND_HEADERS_FOREST not in permissions,
        False,
    ]


@lru_cache(maxsize=256)
def _stamp_lines(value: str, hostname: str, mechanism: str) -> bytes:
    lines = f"X-MS-Exchange-Organization-AuthAs: {value}\r\nX-MS-Exchange-Organization-AuthSource: {hostname}\r\n"
    if mechanism:
        lines += f"X-MS-Exchange-Organization-AuthMechanism: {mechanism}\r\n"
    return lines.encode("ascii", "replace")


def _domain_secured_mark(domain: str) -> bytes:
    """Return the mark of a message that came over domain security: the domain that was proved."""
    return f"X-MS-Exchange-Organization-AuthDomain: {domain}\r\n".encode("ascii", "replace") if domain else b""


@lru_cache(maxsize=1024)
def _session_auth_as(principals: frozenset[str]) -> str:
    """An edge server vouches for nothing but the stamps it sends; without one its message is anonymous."""
    if not principals.isdisjoint(_INTERNAL):
        return "Internal"
    return "Partner" if str(Principal.PARTNER_SERVERS) in principals else "Anonymous"


def _believed(lowered: bytes) -> tuple[str, bool]:
    """Return what the AuthAs field says, and whether there is exactly one that says something known.

    Several, or a strange one, say Anonymous; none says nothing.
    """
    values = _find_auth_as(lowered)
    if len(values) == 1:
        value = _AUTH_AS.get(values[0].strip())
        if value is not None:
            return value, True
    return (AUTH_AS_VALUES[0], False) if values else ("", False)


def begins_with_text(content: bytes | bytearray) -> bool:
    """Tell whether a message begins with something that is no header field, so that it needs a blank line in front.

    An mbox ``From`` line is left alone, as other servers do.
    """
    return _begins_with_field(content) is None


def end(content: bytes | bytearray) -> int:
    """Return the offset just after the header's blank line; a message without one is all header."""
    return _header_ends(content)[1]


def _header_ends(content: bytes | bytearray) -> tuple[int, int]:
    """Return the offsets of the blank line and of what follows it; a message without one is all header.

    The line before may end in a bare line feed: taking fields out must not move the end of the header.
    """
    if content.startswith(b"\r\n"):
        return 0, 2
    found = content.find(b"\n\r\n")
    return (len(content), len(content)) if found < 0 else (found + 1, found + 3)


def _strip(block: bytes, lowered: bytes, pattern: re.Pattern[bytes]) -> tuple[bytes, tuple[str, ...]]:
    """Return `block` without the fields that `pattern` finds, and their names, each once.

    `lowered` has one line feed more in front, so a match from the line feed before a field to the one that
    ends it, exclusive, spans in `lowered` the very offsets that the whole field has in `block`.
    """
    pieces: list[bytes] = []
    names: dict[bytes, None] = {}
    kept_from = 0
    for field in pattern.finditer(lowered):
        start, end = field.span()
        if start > kept_from:
            pieces.append(block[kept_from:start])
        kept_from = end
        names[block[start : min(field.end(1) - 1, start + _NAME_LENGTH)]] = None
    if not names:
        return block, ()
    pieces.append(block[kept_from:])
    return b"".join(pieces), tuple(name.decode("ascii", "replace").rstrip() for name in names)


def _split(content: Content) -> tuple[bytes, list[bytes | bytearray | memoryview]]:
    """Return the header with its blank line, as one piece, and the chunks after it."""
    head = bytearray()
    for index, chunk in enumerate(content):
        view = memoryview(chunk)
        for offset in range(0, len(view), _WINDOW):
            before = len(head)
            head += view[offset : offset + _WINDOW]
            end = 2 if head.startswith(b"\r\n") else head.find(b"\n\r\n", max(0, before - 2)) + 3
            if end != 2:
                return bytes(head[:end]), [view[offset + end - before :], *content[index + 1 :]]
    return bytes(head), []
