"""Mailboxes, paths and parameters of MAIL and RCPT (RFC 5321 4.1.2 and 4.1.3, RFC 6531), on bytes.

One compiled expression per production, matched against a window no longer than the longest legal path or
parameter list, so that the cost of refusing an argument does not depend on its length.

Wider than the grammar, because senders are: a few blanks between the colon and the path, blanks at the end
of the line, a path without its angle brackets, and ``_`` in domains. Narrower: no C1 controls and no Unicode
line or paragraph separators, which some reader of a log or a header would take for the end of a line.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache

import idna

LOCAL_PART_OCTETS = 64
LABEL_OCTETS = 63
PATH_OCTETS = 256
"""RFC 5321 4.5.3.1, brackets and source route included in the path."""
MAX_BLANKS = 8
PARAMETERS_OCTETS = 4096
"""Well above the sum of what all registered extensions add to a command."""
CACHED_PATHS = 4096
"""Paths whose mailbox is remembered: senders and recipients come again."""

# Possessive quantifiers stand after single characters only: CPython before 3.11.5 does not step back where a
# possessive group fails half-way (gh-106052).
_ATEXT = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]"
_DOT_STRING = _ATEXT + rb"++(?:\." + _ATEXT + rb"++)*"
_QTEXT = rb"[\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]*+"
_QUOTED = rb'"' + _QTEXT + rb"(?:\\[\x20-\x7e]" + _QTEXT + rb')*"'
_LABEL = rb"[A-Za-z0-9_\x80-\xff]++(?:-++[A-Za-z0-9_\x80-\xff]++)*"
_NAME = _LABEL + rb"(?:\." + _LABEL + rb")*"
_LITERAL = rb"\[[A-Za-z0-9.:]++\]"
_DOMAIN = rb"(?:" + _NAME + rb"|" + _LITERAL + rb")"
_ROUTE = rb"@" + _DOMAIN + rb"(?:,@" + _DOMAIN + rb")*:"
_MAILBOX = rb"(" + _DOT_STRING + rb"|" + _QUOTED + rb")(?:@(" + _DOMAIN + rb"))?"

_PATH = rb"<(?:" + _ROUTE + rb")?" + _MAILBOX + rb">"
_match_path = re.compile(_PATH).match
_match_bare_path = re.compile(_MAILBOX).match
_fullmatch_mailbox = re.compile(_MAILBOX).fullmatch
_fullmatch_dot_string = re.compile(_DOT_STRING).fullmatch
_fullmatch_parameter = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*+)(?:=([\x21-\x3c\x3e-\x7e\x80-\xff]++))?").fullmatch
_unescape = re.compile(rb"\\(.)", re.DOTALL).sub
_escape = re.compile(rb'([\\"])').sub
_search_control = re.compile("[\x80-\x9f\u2028\u2029]").search

_BLANK = 0x20
_QUOTE = 0x22
_BRACKET = 0x5B


class AddressSyntaxError(ValueError):
    """The argument does not follow the grammar; the message is one line fit for a 501 reply."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox.

    ``local`` is as sent, except that quotes a dot-string does not need are gone. ``domain`` is lower-case,
    with U-labels kept (NFC); an address literal keeps its brackets; only ``<postmaster>`` has none.
    """

    local: str
    domain: str
    address: str = field(init=False, repr=False, compare=False)
    """``local@domain``, or ``local`` alone where there is no domain."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", f"{self.local}@{self.domain}" if self.domain else self.local)

    @property
    def ascii_domain(self) -> str:
        """The domain with U-labels turned into A-labels (RFC 5890).

        Raises
        ------
        AddressSyntaxError
            The domain has no such form; never for a mailbox that was parsed here.
        """
        return self.domain if self.domain.isascii() else to_ascii(self.domain)


def to_ascii(domain: str) -> str:
    """Return a lower-case domain in A-labels (RFC 5890).

    Raises
    ------
    AddressSyntaxError
        A label is not a valid U-label (IDNA 2008), or the result is too long.
    """
    try:
        return idna.encode(domain, strict=True).decode("ascii")
    except UnicodeError:
        raise AddressSyntaxError("Domain is not a valid internationalized name") from None


def parse_reverse_path(argument: bytes, *, smtputf8: bool) -> tuple[Mailbox | None, bytes]:
    """Parse what follows ``MAIL FROM:``.

    Parameters
    ----------
    argument
        The rest of the command line, without its CRLF.
    smtputf8
        Whether the transaction may carry UTF-8 addresses (RFC 6531).

    Returns
    -------
    tuple
        The mailbox, None for the null reverse-path; and the bytes after the path, for `parse_parameters`.

    Raises
    ------
    AddressSyntaxError
        The argument does not start with a path.
    """
    start = _skip_blanks(argument)
    if argument.startswith(b"<>", start):
        return None, _rest(argument, start + 2)
    mailbox, rest = _parse_path(argument, start, smtputf8)
    if not mailbox.domain:
        raise AddressSyntaxError("Sender address needs a domain")
    return mailbox, rest


def parse_forward_path(argument: bytes, *, smtputf8: bool) -> tuple[Mailbox, bytes]:
    """Parse what follows ``RCPT TO:``; source routes are skipped (RFC 5321 appendix C).

    ``<postmaster>``, in any case, is the one mailbox that needs no domain (RFC 5321 4.5.1). Parameters,
    result and errors are those of `parse_reverse_path`, but that there is always a mailbox.
    """
    mailbox, rest = _parse_path(argument, _skip_blanks(argument), smtputf8)
    if not mailbox.domain and mailbox.local.lower() != "postmaster":
        raise AddressSyntaxError("Recipient address needs a domain")
    return mailbox, rest


def parse_mailbox(address: bytes, *, smtputf8: bool) -> Mailbox:
    """Parse a bare ``local@domain``: the addr-spec of a header field, an address in a resource.

    Raises
    ------
    AddressSyntaxError
        It is not a mailbox with a domain.
    """
    found = _fullmatch_mailbox(address) if len(address) <= PATH_OCTETS - 2 else None
    if found is None or found[2] is None:
        raise AddressSyntaxError("Address is malformed")
    return _mailbox(found, smtputf8)


def parse_parameters(rest: bytes, *, smtputf8: bool = False) -> dict[str, str | None]:
    """Parse the esmtp-parameters after a path (RFC 5321 4.1.2).

    Returns
    -------
    dict
        Keyword in upper case to value as sent; None for a keyword without ``=``.

    Raises
    ------
    AddressSyntaxError
        A parameter is malformed or given twice, or holds UTF-8 where `smtputf8` is false.
    """
    parameters: dict[str, str | None] = {}
    if not rest:
        return parameters
    if len(rest) > PARAMETERS_OCTETS:
        raise AddressSyntaxError("Parameters are too long")
    for item in rest.split(b" "):
        if not item:
            continue
        found = _fullmatch_parameter(item)
        if found is None:
            raise AddressSyntaxError("Parameter is malformed")
        keyword = found[1].decode("ascii").upper()
        if keyword in parameters:
            raise AddressSyntaxError(f"Parameter {keyword} is given twice")
        value: bytes | None = found[2]
        parameters[keyword] = None if value is None else _decode(value, smtputf8)
    return parameters


def _skip_blanks(argument: bytes) -> int:
    start = 0
    while start < MAX_BLANKS and argument.startswith(b" ", start):
        start += 1
    return start


def _rest(argument: bytes, end: int) -> bytes:
    if len(argument) == end:
        return b""
    if argument[end] != _BLANK:
        raise AddressSyntaxError("Path must be followed by a space")
    return argument[end:]


def _parse_path(argument: bytes, start: int, smtputf8: bool) -> tuple[Mailbox, bytes]:
    if _QUOTE in argument:  # it may hold blanks
        return _scan_path(argument, start, smtputf8)
    end = argument.find(b" ", start)
    if end < 0:
        return _whole_path(argument[start:], smtputf8), b""
    return _whole_path(argument[start:end], smtputf8), argument[end:]


@lru_cache(maxsize=CACHED_PATHS)
def _whole_path(path: bytes, smtputf8: bool) -> Mailbox:
    """Return the mailbox of a path without blanks, whose length the grammar bounds; none is kept of refused ones."""
    return _scan_path(path, 0, smtputf8)[0]


def _scan_path(argument: bytes, start: int, smtputf8: bool) -> tuple[Mailbox, bytes]:
    match = _match_path if argument.startswith(b"<", start) else _match_bare_path
    found = match(argument, start, start + PATH_OCTETS)
    if found is None:
        raise AddressSyntaxError("Address is malformed or too long")
    return _mailbox(found, smtputf8), _rest(argument, found.end())


def _mailbox(found: re.Match[bytes], smtputf8: bool) -> Mailbox:
    raw_local, raw_domain = found.groups()
    if len(raw_local) > LOCAL_PART_OCTETS:
        raise AddressSyntaxError("Local part is too long")
    if raw_local[0] == _QUOTE:
        raw_local = _normalise_quoted(raw_local)
    local = _decode(raw_local, smtputf8)
    if raw_domain is None:
        return Mailbox(local, "")
    if raw_domain[0] == _BRACKET:
        return Mailbox(local, _literal(raw_domain.decode("ascii")))
    domain = _decode(raw_domain, smtputf8).lower()
    if not domain.isascii():
        domain = unicodedata.normalize("NFC", domain)
        to_ascii(domain)
    elif len(domain) > LABEL_OCTETS and max(map(len, domain.split("."))) > LABEL_OCTETS:
        raise AddressSyntaxError("Domain label is too long")
    return Mailbox(local, domain)


def _decode(text: bytes, smtputf8: bool) -> str:
    if text.isascii():
        return text.decode("ascii")
    if not smtputf8:
        raise AddressSyntaxError("Non-ASCII characters need SMTPUTF8")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise AddressSyntaxError("Not valid UTF-8") from None
    if _search_control(decoded):
        raise AddressSyntaxError("Control characters are not allowed")
    return decoded


def _normalise_quoted(quoted: bytes) -> bytes:
    """Drop quotes that are not needed and escapes that escape nothing (RFC 5321 4.1.2, last paragraphs)."""
    content = _unescape(rb"\1", quoted[1:-1])
    if _fullmatch_dot_string(content):
        return content
    return b'"' + _escape(rb"\\\1", content) + b'"'


def _literal(literal: str) -> str:
    inner = literal[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:])}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        raise AddressSyntaxError("Address literal is malformed") from None
