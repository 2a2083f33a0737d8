"""GSSAPI on a test's line: the 334 dialogue that AUTH and X-EXPS have in common."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from kdc_kit import Client

if TYPE_CHECKING:
    from conftest import Line


async def log_in(line: Line, client: Client, command: str = "X-EXPS GSSAPI", *, initial: bool = False) -> str:
    """Go through the dialogue, with an `initial` response or without; return the reply at its end."""
    reply = await line.ask(f"{command} {_encoded(client.answer(b''))}" if initial else command)
    while reply.startswith("334 "):
        reply = await line.ask(_encoded(client.answer(base64.b64decode(reply[4:]))))
    return reply


def _encoded(token: bytes) -> str:
    return base64.b64encode(token).decode()
