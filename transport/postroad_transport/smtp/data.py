r"""Finding the end of DATA, and what the data was (RFC 5321 sections 4.1.1.4 and 4.5.2). Pure: bytes in, state out.

The data ends at ``<CRLF>.<CRLF>`` and at nothing else. Input is fed in whatever pieces the network gives; each
byte is looked at a constant number of times, at C speed, and only an acceptable message is kept in memory.
"""

from __future__ import annotations

from enum import Enum
from io import IncrementalNewlineDecoder
from typing import Protocol

_END = b"\r\n.\r\n"
_DOT_LINE = b"\r\n."
_DOT = b"."
_FEW_DOTS = 8
_LARGE = 16 * 1024


class Fault(Enum):
    """Why content cannot be taken; answered once all of it was received."""

    TOO_MUCH = "more than the size limit"
    LINE_TOO_LONG = "a line over the limit"
    BARE_LINE_END = "a CR or LF that is not part of CRLF"


class LineEnds:
    """Notices a CR or LF that is not part of a CRLF, in whatever pieces the content comes.

    The standard library's newline decoder notes the kinds of line end it sees, in one pass over each piece;
    counting CR, LF and CRLF takes three passes and five times as long.
    """

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = IncrementalNewlineDecoder(None, translate=False)

    def feed(self, data: bytes | bytearray) -> None:
        """Look at the next piece."""
        self._decoder.decode(data.decode("latin-1"))

    def bare(self) -> bool:
        """Tell, after the last piece, whether there was one."""
        self._decoder.decode("", final=True)
        return self._decoder.newlines not in (None, "\r\n")


def has_bare_line_end(content: bytearray, end: int | None = None) -> bool:
    """Tell whether a CR or LF before `end` is not part of a CRLF."""
    line_ends = LineEnds()
    line_ends.feed(content if end is None else content[:end])
    return line_ends.bare()


class Sink(Protocol):
    """Takes content as it arrives."""

    fault: Fault | None

    def feed(self, data: bytes) -> bytes | None:
        """Take `data`. Return None when more is needed, else what follows the end."""


class DataScanner:
    """Collects one message.

    Parameters
    ----------
    size_limit : int
        Bytes of content, transparent dots included; 0: none.
    line_limit : int
        Bytes of a line as it is on the wire, CRLF included; 0: none.
    strict_line_ends : bool
        A CR or LF outside of a CRLF is a fault.
    """

    __slots__ = (
        "_body",
        "_line_ends",
        "_line_start",
        "_stuffed",
        "fault",
        "line_limit",
        "size_limit",
    )

    def __init__(self, size_limit: int = 0, line_limit: int = 0, *, strict_line_ends: bool = True) -> None:
        self.size_limit = size_limit
        self.line_limit = line_limit
        self.fault: Fault | None = None
        # The CRLF that ended the DATA command is the start of the terminator of an empty message, and makes
        # the first line like every other one. It is dropped at the end.
        self._body = bytearray(b"\r\n")
        self._line_start = 2
        self._line_ends = LineEnds() if strict_line_ends else None
        self._stuffed = False

    @property
    def plain(self) -> bool:
        """Whether all line ends are known to be CRLF, and no line of the message begins with a dot."""
        return self._line_ends is not None and not self._stuffed

    def feed(self, data: bytes) -> bytes | None:
        """Take `data`. Return None when more is needed, else what follows the end of data."""
        body = self._body
        known = len(body)
        body += data
        found = self._find_end(max(0, known - 4))
        if found < 0:
            if self._line_ends is not None and self.fault is None:
                self._line_ends.feed(data)
            self._check(len(body))
            return None
        rest = bytes(body[found + 5 :])
        del body[found + 2 :]
        self._check(len(body), ended=True)
        if self._line_ends is not None and self.fault is None:
            self._line_ends.feed(data[: len(data) - len(rest)] if rest else data)
            if self._line_ends.bare():
                self.fault = Fault.BARE_LINE_END
        return rest

    def content(self) -> bytearray:
        """Return the message, dots unstuffed. To be called once, after the end, when there is no fault."""
        body = self._body
        if self._stuffed:
            body = body.replace(_DOT_LINE, b"\r\n")
        del body[:2]
        self._body = bytearray()
        return body

    def _find_end(self, start: int) -> int:
        """Return where the terminator begins, -1 where it has not come; note lines that begin with a dot.

        Searched backwards: the line with a dot that is found first is nearly always the terminator, at the very end
        of what was received, and the only one.
        """
        body = self._body
        if not self._stuffed:
            dot = _last_dot_line(body, start, len(body))
            if dot < 0:
                return -1
            if body.startswith(_END, dot) and _last_dot_line(body, start, dot + 2) < 0:
                return dot
            self._stuffed = True
        return body.find(_END, start)

    def _check(self, length: int, *, ended: bool = False) -> None:
        if self.fault is None:
            too_much = self.size_limit and length - 2 > self.size_limit + (0 if ended else 4)
            # Of the two faults the one that comes first in the data counts.
            end = min(length, self.size_limit + 2) if too_much else length
            if self.line_limit and end - self._line_start > self.line_limit:
                self._check_lines(end)
            if too_much and self.fault is None:
                self.fault = Fault.TOO_MUCH
        if self.fault is not None:
            # Only the terminator still matters.
            del self._body[:-4]

    def _check_lines(self, length: int) -> None:
        """Step from line start to line start, each time as far as one line may reach."""
        start, limit = self._line_start, self.line_limit
        while length - start > limit:
            last = self._body.rfind(b"\r\n", start, start + limit)
            if last < 0:
                self.fault = Fault.LINE_TOO_LONG
                return
            start = last + 2
        self._line_start = start


def _last_dot_line(body: bytearray, start: int, end: int) -> int:
    """Return where the last CRLF before a line that begins with a dot stands in `body[start:end]`, or -1.

    A single octet is found ten times as fast as three, and a large content is an encoded attachment more often than
    text: it has no dots but the header's.
    """
    for _ in range(_FEW_DOTS if end - start > _LARGE else 1):
        dot = body.rfind(_DOT, start, end)
        if dot < 0:
            return -1
        if body.startswith(_DOT_LINE, dot - 2):
            return dot - 2
        end = dot
    return body.rfind(_DOT_LINE, start, end)
