"""Replies of the peers we send to (RFC 5321 section 4.2): a parser without I/O, strict about what it trusts."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_LINE = 4096
"""Bytes of one reply line; RFC 5321 section 4.5.3.1.5 allows 512."""
MAX_LINES = 512
"""Lines of one reply."""

_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?=\s|$)")
_SHOWN = 400


class ReplySyntaxError(Exception):
    """The peer does not speak SMTP; nothing it says from here on can be trusted."""


class PeerReply(NamedTuple):
    """One reply: its code, and the text of each line without the code."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def texts(self) -> list[str]:
        """The lines as text; what is not UTF-8 or not printable is replaced."""
        return [_printable(line.decode("utf-8", "replace")) for line in self.lines]

    @property
    def enhanced(self) -> str:
        """The enhanced status code (RFC 2034) of the first line, or empty."""
        found = _ENHANCED.match(self.lines[0].decode("ascii", "replace"))
        return found[0] if found else ""

    @property
    def line(self) -> str:
        """The reply as one line of bounded length, for outcomes and logs."""
        texts = self.texts
        if len(texts) > 1:
            enhanced = self.enhanced
            texts[1:] = [text.removeprefix(enhanced).lstrip() for text in texts[1:]]
        return f"{self.code} {' '.join(texts)}"[:_SHOWN].rstrip()


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


class ReplyParser:
    """Turns bytes, cut anywhere, into replies. Holds at most one unfinished reply of bounded size."""

    def __init__(self) -> None:
        self._partial = b""
        self._code = 0
        self._lines: list[bytes] = []

    @property
    def idle(self) -> bool:
        """Whether nothing of a further reply has arrived."""
        return not self._partial and not self._lines

    def feed(self, data: bytes) -> list[PeerReply]:
        """Take in `data`; return the replies that are now complete.

        Raises
        ------
        ReplySyntaxError
            A line has no valid code, is too long, or a multi-line reply changes its code or never ends.
        """
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        if len(self._partial) > MAX_LINE:
            raise ReplySyntaxError("endless reply line")
        replies: list[PeerReply] = []
        for line in lines:
            digits, separator = line[:3], line[3:4]
            if len(line) > MAX_LINE + 1 or len(digits) != 3 or not digits.isdigit() or not b"2" <= digits[:1] <= b"5":
                raise ReplySyntaxError("not an SMTP reply")
            code = int(digits)
            if self._lines and code != self._code:
                raise ReplySyntaxError("reply code changes within a reply")
            self._code = code
            self._lines.append(line[4:].rstrip(b"\r"))
            if separator in (b" ", b"", b"\r"):
                replies.append(PeerReply(code, tuple(self._lines)))
                self._lines = []
            elif separator != b"-":
                raise ReplySyntaxError("not an SMTP reply")
            elif len(self._lines) >= MAX_LINES:
                raise ReplySyntaxError("endless reply")
        return replies
