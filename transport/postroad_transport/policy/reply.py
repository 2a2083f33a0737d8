"""SMTP replies (RFC 5321 section 4.2, enhanced codes RFC 2034/3463)."""

from __future__ import annotations

from typing import NamedTuple


class Reply(NamedTuple):
    """One reply. ``enhanced`` may be empty (greetings, EHLO); ``text`` is one line without CR or LF."""

    code: int
    enhanced: str
    text: str

    @property
    def line(self) -> str:
        """The reply as one line without its CRLF."""
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"

    def encode(self) -> bytes:
        """Return the reply as it goes on the wire."""
        return self.line.encode("utf-8") + b"\r\n"
