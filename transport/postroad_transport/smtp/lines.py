"""The input buffer of a connection, and how it is cut into command lines (RFC 5321 section 2.3.8).

A line ends at CRLF and nowhere else. What stands between two CRLFs gets exactly one answer, so a peer that
sees a line end where we see none (SMTP smuggling) cannot get a second command through.
"""

from __future__ import annotations

from enum import Enum


class Flaw(Enum):
    """Why a line cannot be a command."""

    TOO_LONG = "too long"
    BARE_LINE_END = "bare CR or LF"


class InputBuffer:
    """Bytes received and not yet used. At most what the transport hands over before it is paused.

    What one read brought in is used up before the next in nearly every case, so bytes with a cursor are
    cheaper than a buffer that is appended to: a command line costs one slice.

    Parameters
    ----------
    limit : int
        Bytes of the longest line, without its CRLF.
    """

    __slots__ = ("_data", "_limit", "_skip_answered", "_skipping", "_start")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = b""
        self._start = 0
        self._skipping = False
        self._skip_answered = False

    def __len__(self) -> int:
        return len(self._data) - self._start

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        start = self._start
        self._data = self._data[start:] + data if start < len(self._data) else data
        self._start = 0

    def lone_line(self, data: bytes) -> bytes | None:
        """Return `data` without its CRLF where it is one good line and nothing waits before it, else None: feed it.

        So does a client write that waits for each reply, and what never enters the buffer need not be taken out.
        """
        lines = data.splitlines()
        if len(lines) != 1 or self._skipping or self._start < len(self._data):
            return None
        line = lines[0]
        # CRLF is the only line end of two octets.
        return line if len(line) == len(data) - 2 and len(line) <= self._limit else None

    def clear(self) -> None:
        """Forget everything: what came in clear before a TLS handshake (RFC 3207 section 4.2)."""
        self._data = b""
        self._start = 0
        self._skipping = False

    def take(self, count: int | None = None) -> bytes:
        """Remove and return up to `count` bytes; all by default."""
        start = self._start
        end = len(self._data) if count is None else min(start + count, len(self._data))
        taken = self._data[start:end]
        self._advance(end)
        return taken

    def find(self, separator: bytes) -> int:
        """Return how many bytes stand before `separator`, or -1."""
        found = self._data.find(separator, self._start)
        return found if found < 0 else found - self._start

    def next_line(self) -> bytes | Flaw | None:
        """Remove and return the next line without its CRLF; None when more input is needed.

        A line of more than `limit` bytes, or one holding a CR or LF of its own, is dropped as it comes in and
        answered with a :class:`Flaw`, once: a bare LF at once (a client that sends only LF would wait for
        ever), any other at its CRLF.
        """
        while True:
            data, start = self._data, self._start
            if start == len(data):
                self._data, self._start = b"", 0
                return None
            end = data.find(b"\r\n", start)
            if end < 0:
                return self._incomplete(start)
            self._start = end + 2
            if self._skipping:
                self._skipping = False
                if not self._skip_answered:
                    return Flaw.TOO_LONG
                continue
            if end - start > self._limit:
                return Flaw.TOO_LONG
            line = data[start:end]
            if 0x0A in line or 0x0D in line:  # ten times as fast as with bytes on the left
                return Flaw.BARE_LINE_END
            return line

    def _advance(self, position: int) -> None:
        if position == len(self._data):
            self._data = b""
            self._start = 0
        else:
            self._start = position

    def _incomplete(self, start: int) -> Flaw | None:
        data = self._data
        bare = not self._skipping and data.find(b"\n", start) >= 0
        if bare or self._skipping or len(data) - start > self._limit + 1:
            if not self._skipping:
                self._skipping, self._skip_answered = True, bare
            # A CR at the very end may be the first half of the CRLF that ends this line.
            self._advance(len(data) - (1 if data.endswith(b"\r") else 0))
        return Flaw.BARE_LINE_END if bare else None
