"""Reading BDAT chunks (RFC 3030): a count of octets, no end marker, no transparency."""

from __future__ import annotations

from postroad_transport.smtp.data import Fault


class ChunkReader:
    """Takes exactly `octets` bytes, into `body` or, where the message is refused anyway, to nowhere."""

    __slots__ = ("_body", "_left", "fault")

    def __init__(self, octets: int, body: bytearray | None) -> None:
        self._left = octets
        self._body = body
        self.fault = Fault.TOO_MUCH if body is None else None

    def feed(self, data: bytes) -> bytes | None:
        """Take `data`. Return None when more is needed, else what follows the chunk."""
        if len(data) < self._left:
            self._left -= len(data)
            if self._body is not None:
                self._body += data
            return None
        if self._body is not None:
            self._body += data if len(data) == self._left else data[: self._left]
        rest = data[self._left :]
        self._left = 0
        return rest


def parse_bdat(argument: bytes) -> tuple[int, bool] | None:
    """Return (octets, last) of ``BDAT`` arguments, or None when they are malformed (RFC 3030 section 2)."""
    size, _, last = argument.partition(b" ")
    if not size.isdigit() or len(size) > 18 or last.upper() not in {b"", b"LAST"}:
        return None
    return int(size), bool(last)
