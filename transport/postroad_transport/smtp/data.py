r"""Finding the end of DATA, and what the data was (RFC 5321 sections 4.1.1.4 and 4.5.2). Pure: bytes in, state out.

The data ends at ``<CRLF>.<CRLF>`` and at nothing else. Input is fed in whatever pieces the network gives; each
byte is looked at a constant number of times, at C speed, and only an acceptable message is kept in memory.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

_END = b"\r\n.\r\n"


class Fault(Enum):
    """Why content cannot be taken; answered once all of it was received."""

    TOO_MUCH = "more than the size limit"
    LINE_TOO_LONG = "a line over the limit"
    BARE_LINE_END = "a CR or LF that is not part of CRLF"


def has_bare_line_end(content: bytearray, end: int | None = None) -> bool:
    """Tell whether a CR or LF before `end` is not part of a CRLF."""
    cr, lf, crlf = content.count(b"\r", 0, end), content.count(b"\n", 0, end), content.count(b"\r\n", 0, end)
    return not cr == lf == crlf


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
        "_cr",
        "_crlf",
        "_last",
        "_lf",
        "_line_start",
        "_strict",
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
        self._strict = strict_line_ends
        self._cr = self._lf = self._crlf = 0
        self._last = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take `data`. Return None when more is needed, else what follows the end of data."""
        body = self._body
        known = len(body)
        body += data
        found = body.find(_END, max(0, known - 4))
        if found < 0:
            if self._strict:
                self._count(data)
            self._check(len(body))
            return None
        rest = bytes(body[found + 5 :])
        del body[found + 2 :]
        if self._strict:
            self._close_count(data, len(data) - len(rest))
        self._check(len(body), ended=True)
        if self.fault is None and self._strict and not self._cr == self._lf == self._crlf:
            self.fault = Fault.BARE_LINE_END
        return rest

    def content(self) -> bytearray:
        """Return the message, dots unstuffed. To be called once, after the end, when there is no fault."""
        body = self._body
        if body.find(b"\r\n.") >= 0:
            body = body.replace(b"\r\n.", b"\r\n")
        del body[:2]
        self._body = bytearray()
        return body

    def _count(self, data: bytes) -> None:
        """Count CR, LF and CRLF; the three agree only where each CR and LF is part of a CRLF."""
        self._cr += data.count(b"\r")
        self._lf += data.count(b"\n")
        self._crlf += data.count(b"\r\n")
        if self._last == 0x0D and data[:1] == b"\n":
            self._crlf += 1
        if data:
            self._last = data[-1]

    def _close_count(self, data: bytes, used: int) -> None:
        """Count the last piece up to and with the terminator, which is made of whole CRLFs itself."""
        self._count(data if used == len(data) else data[:used])

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
