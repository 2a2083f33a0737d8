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
    """Bytes received and not yet used. At most what the transport hands over before it is paused."""

    __slots__ = ("_buffer", "_skip_answered", "_skipping", "_start")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0
        self._skipping = False
        self._skip_answered = False

    def __len__(self) -> int:
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        if self._start and self._start == len(self._buffer):
            self._buffer.clear()
            self._start = 0
        self._buffer += data

    def clear(self) -> None:
        """Forget everything: what came in clear before a TLS handshake (RFC 3207 section 4.2)."""
        self._buffer.clear()
        self._start = 0
        self._skipping = False

    def take(self, count: int | None = None) -> bytes:
        """Remove and return up to `count` bytes; all by default."""
        end = len(self._buffer) if count is None else min(self._start + count, len(self._buffer))
        taken = bytes(self._buffer[self._start : end])
        self._advance(end)
        return taken

    def find(self, separator: bytes) -> int:
        """Return how many bytes stand before `separator`, or -1."""
        found = self._buffer.find(separator, self._start)
        return found if found < 0 else found - self._start

    def next_line(self, limit: int) -> bytes | Flaw | None:
        """Remove and return the next line without its CRLF; None when more input is needed.

        A line of more than `limit` bytes, or one holding a CR or LF of its own, is dropped as it comes in and
        answered with a :class:`Flaw`, once: a bare LF at once (a client that sends only LF would wait for
        ever), any other at its CRLF.
        """
        buffer, start = self._buffer, self._start
        while True:
            end = buffer.find(b"\r\n", start)
            if end < 0:
                return self._incomplete(start, limit)
            line = bytes(buffer[start:end])
            start = end + 2
            self._advance(start)
            if self._skipping:
                self._skipping = False
                if not self._skip_answered:
                    return Flaw.TOO_LONG
                start = self._start
                continue
            if len(line) > limit:
                return Flaw.TOO_LONG
            if b"\n" in line or b"\r" in line:
                return Flaw.BARE_LINE_END
            return line

    def _advance(self, position: int) -> None:
        self._start = position
        if position == len(self._buffer):
            self._buffer.clear()
            self._start = 0

    def _incomplete(self, start: int, limit: int) -> Flaw | None:
        buffer = self._buffer
        bare = not self._skipping and buffer.find(b"\n", start) >= 0
        if bare or self._skipping or len(buffer) - start > limit + 1:
            if not self._skipping:
                self._skipping, self._skip_answered = True, bare
            # A CR at the very end may be the first half of the CRLF that ends this line.
            keep = 1 if buffer.endswith(b"\r") else 0
            self._advance(len(buffer) - keep)
        return Flaw.BARE_LINE_END if bare else None
