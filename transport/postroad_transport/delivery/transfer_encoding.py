"""A message for a peer that takes less than its content holds: 8-bit and binary parts are encoded. Pure.

RFC 6152 section 3 and RFC 3030 section 3 let a client convert what the next server cannot take. Leaves become
quoted-printable (text in lines) or base64 (everything else), and their Content-Transfer-Encoding says so; multipart
and message/rfc822 may not be encoded themselves (RFC 2045 section 6.4), so what is in them is. Nothing else changes,
to the byte: the content is taken as a list of edits to be made in it. Python's ``email`` would do the encoding, but
writes the whole message anew, with other folds, blanks and line ends, and the signatures of the parts that could have
stayed as they were are gone; hence the splitter here, which finds out no more than where the parts are.

What cannot be converted, or must not be (RFC 1847 section 2.1, RFC 3156 section 3), is told by
:class:`UnconvertibleError`. Time is linear in the size for each level of parts, and parts and levels are bounded.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from postroad_transport.message import Body, Chunk, Content

MAX_DEPTH = 20
"""Nesting of parts that hold what has to be encoded."""
MAX_PARTS = 10_000
"""Parts and delimiters looked at, inner ones included."""
MAX_FIELD = 2000
"""Bytes of a MIME field."""

_LINE = 998  # RFC 5321 section 4.5.3.1.6, without CRLF
_BASE64_BLOCK = 57 * 16384
_TEXT_BLOCK = 1 << 18
_SCAN_BLOCK = 1 << 16
_IDENTITIES = ("7bit", "8bit", "binary")
_SEALED = ("multipart/signed", "multipart/encrypted")
_IN_ASCII = bytes(range(128)) + b"?" * 128

_find_fields = re.compile(
    rb"\n(content-type|content-transfer-encoding|mime-version)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*)", re.IGNORECASE
).finditer
_media_type = re.compile(rb"[^\s;/()]+/[^\s;/()]+").match
_find_parameters = re.compile(rb';\s*([^\s;="]+)\s*=\s*(?:"([^"\\]*+(?:\\.[^"\\]*+)*)"|([^\s;"]++))').finditer
_delimiter_rest = re.compile(rb"(--)?[ \t]*+(?=\r\n|\Z)").match
_unquote = re.compile(rb"\\(.)").sub
_drop_comments = re.compile(rb"\([^()]*+\)").sub


class UnconvertibleError(Exception):
    """The message cannot be made to fit; says why."""


class _Field(NamedTuple):
    """A header field: offsets from the beginning of the header, its line end included, and its unfolded value."""

    start: int
    end: int
    value: bytes


def convert(content: Content, given: Body, target: Body) -> Content:
    """Return `content` as `target` allows it; `content` itself where it is so already.

    Parameters
    ----------
    given
        What was declared: only in BINARYMIME there are other line ends than CRLF, long lines and NUL.
    target
        SEVEN_BIT or EIGHT_BIT_MIME.

    Raises
    ------
    UnconvertibleError
        It cannot be converted, or must not be.
    """
    if given is not Body.BINARY_MIME and (
        target is not Body.SEVEN_BIT or all(bytes(chunk).isascii() for chunk in content)
    ):
        return content
    conversion = _Conversion(b"".join(content), given, target)
    conversion.entity(0, len(conversion.data), "text/plain", message=True)
    return conversion.result() if conversion.edits else content


class _Conversion:
    """Collects the edits, ascending by offset: from, to, and what stands there instead."""

    def __init__(self, data: bytes, given: Body, target: Body) -> None:
        self.data = data
        self.edits: list[tuple[int, int, list[bytes]]] = []
        self._lines = given is Body.BINARY_MIME
        self._eight_bit = target is Body.EIGHT_BIT_MIME
        self._parts = 0

    def result(self) -> list[Chunk]:
        view = memoryview(self.data)
        chunks: list[Chunk] = []
        at = 0
        for start, end, instead in self.edits:
            chunks.append(view[at:start])
            chunks += instead
            at = end
        chunks.append(view[at:])
        return [chunk for chunk in chunks if chunk]

    def entity(self, start: int, end: int, default: str, *, message: bool = False, depth: int = 0) -> None:
        """Make an entity fit: header, blank line, body. `default` is its type where it names none."""
        if self._fits(start, end):
            return
        self._count()
        if depth > MAX_DEPTH:
            raise UnconvertibleError("parts nested too deep")
        header, body = self._split(start, end)
        if not header.isascii():
            raise UnconvertibleError("8-bit bytes in a header")
        if not _has_clean_line_ends(header):
            raise UnconvertibleError("a header in binary")
        if self._fits(body, end):
            return
        fields = _mime_fields(header)
        kind, boundary = _content_type(fields.get("content-type"), default)
        label = fields.get("content-transfer-encoding")
        encoding = _token(label) if label else "7bit"
        if encoding not in _IDENTITIES:
            raise UnconvertibleError("a part is not encoded as it says")
        if kind in _SEALED:
            raise UnconvertibleError(f"{kind} must not be altered")
        version = b"MIME-Version: 1.0\r\n" if message and "mime-version" not in fields else b""
        blank = start + len(header)
        if kind.startswith("multipart/") or kind == "message/rfc822":
            self._relabel(start, blank, label, self._composite_label(encoding), version)
            if kind == "message/rfc822":
                self.entity(body, end, "text/plain", message=True, depth=depth + 1)
            else:
                inner = "message/rfc822" if kind == "multipart/digest" else "text/plain"
                self._multipart(body, end, boundary, inner, depth + 1)
            return
        readable = kind.startswith(("text/", "message/global"))
        if kind.startswith("message/") and not readable:
            raise UnconvertibleError("a message in it that may not be encoded")
        encoded = _quoted_printable(self.data[body:end]) if readable else None
        name = "base64" if encoded is None else "quoted-printable"
        self._relabel(start, blank, label, name, version)
        self.edits.append((body, end, _base64(self.data, body, end) if encoded is None else encoded))

    def _split(self, start: int, end: int) -> tuple[bytes, int]:
        """Return the header without its blank line, and where the body begins."""
        if self.data.startswith(b"\r\n", start, end):
            return b"", start + 2
        blank = self.data.find(b"\r\n\r\n", start, end)
        return (self.data[start : blank + 2], blank + 4) if blank >= 0 else (self.data[start:end], end)

    def _count(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise UnconvertibleError("too many parts")

    def _multipart(self, body: int, end: int, boundary: bytes, default: str, depth: int) -> None:
        """Make the parts fit (RFC 2046 section 5.1.1); where the last delimiter is missing, the end is one."""
        if not boundary:
            raise UnconvertibleError("a multipart without a boundary")
        # The CRLF in front of a delimiter is its own; in front of the first it may be that of the blank line.
        delimiter = b"\r\n--" + boundary
        part: int | None = None
        at = self.data.find(delimiter, body - 2, end)
        while at >= 0:
            self._count()
            rest = _delimiter_rest(self.data, at + len(delimiter), end)
            if rest:
                if part is None:
                    self._filler(body, at)
                elif part < at:
                    self.entity(part, at, default, depth=depth)
                if rest[1]:
                    self._filler(rest.end(), end)
                    return
                part = rest.end() + 2
            at = self.data.find(delimiter, at + len(delimiter), end)
        if part is None:
            raise UnconvertibleError("a multipart without parts")
        if part < end:
            self.entity(part, end, default, depth=depth)

    def _filler(self, start: int, end: int) -> None:
        """Make what is before the first and behind the last delimiter fit, which nobody is to read."""
        if self._fits(start, end):
            return
        text = self.data[start:end].translate(_IN_ASCII)
        if self._lines and not _is_lines(text):
            raise UnconvertibleError("binary between the parts")
        self.edits.append((start, end, [text]))

    def _composite_label(self, encoding: str) -> str:
        """Return what a multipart that has said `encoding` says once its parts are converted."""
        if encoding == "7bit" or (encoding == "8bit" and self._eight_bit):
            return encoding
        return "8bit" if self._eight_bit else "7bit"

    def _relabel(self, start: int, blank: int, label: _Field | None, name: str, more: bytes) -> None:
        """Put Content-Transfer-Encoding in the place of `label`, else at the header's end, with `more` fields."""
        field = b"Content-Transfer-Encoding: %b\r\n" % name.encode()
        if label is None:
            if name != "7bit":
                more += field
        elif _token(label) != name:
            self.edits.append((start + label.start, start + label.end, [field]))
        if more:
            self.edits.append((blank, blank, [more]))

    def _fits(self, start: int, end: int) -> bool:
        # In small pieces: to copy the whole, once a level, takes ten times as long as to look at it.
        if not self._eight_bit and not all(
            self.data[at : min(at + _SCAN_BLOCK, end)].isascii() for at in range(start, end, _SCAN_BLOCK)
        ):
            return False
        return not self._lines or _is_lines(self.data[start:end])


def _mime_fields(header: bytes) -> dict[str, _Field]:
    fields: dict[str, _Field] = {}
    for found in _find_fields(b"\n" + header):
        name = found[1].decode().lower()
        if name in fields or len(found[2]) > MAX_FIELD:
            raise UnconvertibleError(f"{name} twice, or too long")
        fields[name] = _Field(found.start(), found.end(), found[2].replace(b"\r\n", b"").strip())
    return fields


def _token(field: _Field) -> str:
    return _drop_comments(b"", field.value).strip().decode().lower()


def _content_type(field: _Field | None, default: str) -> tuple[str, bytes]:
    """Return type/subtype in lower case, and the boundary, empty where there is none."""
    if field is None:
        return default, b""
    kind = _media_type(field.value)
    boundaries = [
        _unquote(rb"\1", found[2]) if found[2] is not None else found[3]
        for found in _find_parameters(field.value)
        if found[1].lower() == b"boundary"
    ]
    if len(boundaries) > 1:
        raise UnconvertibleError("two boundaries")
    # RFC 2045 section 5.2: what cannot be read is text/plain.
    return kind[0].decode().lower() if kind else "text/plain", boundaries[0] if boundaries else b""


def _has_clean_line_ends(data: bytes) -> bool:
    return data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r")


def _is_lines(data: bytes) -> bool:
    """Tell whether `data` is what 8BITMIME allows: lines of 998 bytes at most that end with CRLF, and no NUL."""
    if b"\0" in data or not _has_clean_line_ends(data):
        return False
    start = 0
    while len(data) - start > _LINE:
        # The last line end that the first line may have: what is before it is short lines only if this is repeated.
        found = data.rfind(b"\n", start, start + _LINE + 2)
        if found < 0:
            return False
        start = found + 1
    return True


def _quoted_printable(data: bytes) -> list[bytes] | None:
    """Return `data`, text in lines, in quoted-printable; None where only base64 will do (RFC 2045 section 6.7)."""
    if not _has_clean_line_ends(data):
        return None
    blocks = []
    data += b"\r\n"
    start = 0
    while start < len(data):
        last = data.rfind(b"\r\n", start, start + _TEXT_BLOCK)
        if last < 0:
            return None
        block = binascii.b2a_qp(data[start : last + 2])
        if b"=\r\n--" in block:
            # A soft line break must not make a delimiter of what was none.
            return None
        blocks.append(block)
        start = last + 2
    blocks[-1] = blocks[-1][:-2]
    return blocks


def _base64(data: bytes, start: int, end: int) -> list[bytes]:
    """Return that part of `data` in base64, in lines; the last one without its line end."""
    blocks = [
        base64.encodebytes(data[at : min(at + _BASE64_BLOCK, end)]).replace(b"\n", b"\r\n")
        for at in range(start, end, _BASE64_BLOCK)
    ]
    blocks[-1] = blocks[-1][:-2]
    return blocks
