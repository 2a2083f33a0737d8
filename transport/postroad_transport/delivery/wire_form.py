"""Message content as it goes through DATA: CRLF line ends, dots stuffed, terminator (RFC 5321 4.5.2, 2.3.8)."""

from __future__ import annotations

import re

from postroad_transport.message import Chunk, Content, PlainContent

_LINE_END = re.compile(rb"\r\n|\r|\n")


def data_form(content: Content) -> list[Chunk]:
    """Return chunks to write after 354, terminator included.

    The common message (clean line ends, no line that starts with a dot) is passed on as it is, without a copy;
    one that receiving found to be so is not even looked at.
    Bare CR and LF, which a client must not send and which make messages smuggle, become CRLF.
    """
    if isinstance(content, PlainContent):
        return [*content, b".\r\n"]
    chunks: list[Chunk] = []
    at_line_start = True
    for chunk in content:
        if not chunk:
            continue
        scanned = bytes(chunk) if isinstance(chunk, memoryview) else chunk
        ends = scanned.count(b"\r\n")
        if ends != scanned.count(b"\n") or ends != scanned.count(b"\r"):
            return _normalised(content)
        if b"\r\n." in scanned:
            chunk = scanned = scanned.replace(b"\r\n.", b"\r\n..")
        if at_line_start and scanned[0] == 0x2E:
            chunks.append(b".")
        chunks.append(chunk)
        at_line_start = scanned.endswith(b"\r\n")
    chunks.append(b".\r\n" if at_line_start else b"\r\n.\r\n")
    return chunks


def _normalised(content: Content) -> list[Chunk]:
    whole = _LINE_END.sub(b"\r\n", b"".join(content))
    return data_form([whole])
