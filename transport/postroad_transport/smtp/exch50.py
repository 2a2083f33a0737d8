"""XEXCH50: properties of a message in Exchange's own binary form, sent between RCPT and DATA.

Only a session with ``Accept-Exch50`` (spec.md 1.1) is offered it. The octets are read and dropped: their format is
of use to Exchange alone, and a server that did not take them would make a legacy server hold back its mail.
"""

from __future__ import annotations

from collections.abc import Awaitable

from postroad_transport.policy.receive import check_exch50
from postroad_transport.policy.verdict import Refuse
from postroad_transport.smtp import replies
from postroad_transport.smtp.bdat import ChunkReader
from postroad_transport.smtp.content import ContentVerbs

MAX_EXCH50 = 1 << 20
"""Octets of properties; Exchange sends a few hundred for each recipient."""


class Exch50(ContentVerbs):
    """Mixin with XEXCH50."""

    def verb_xexch50(self, argument: bytes) -> bytes | Awaitable[bytes]:
        """Take ``XEXCH50 octets recipients``."""
        verdict = check_exch50(self.connector.policy, self.facts)
        if isinstance(verdict, Refuse):
            return self.refusal("XEXCH50", verdict)
        if not self._begun:
            return replies.MAIL_FIRST
        if not self._recipients:
            return replies.NO_VALID_RECIPIENTS if self._recipients_refused else replies.RCPT_FIRST
        if self._chunks is not None or self._chunks_refused:
            return replies.CHUNKS_STARTED
        words = argument.split()
        if len(words) != 2 or not all(word.isdigit() and len(word) <= 9 for word in words):
            return replies.EXCH50_SYNTAX
        if int(words[0]) > MAX_EXCH50:
            return replies.TOO_BIG
        return self._drain(int(words[0]))

    async def _drain(self, octets: int) -> bytes:
        self._writer.write(replies.SEND_EXCH50)
        await self._receive(ChunkReader(octets, None))
        return replies.EXCH50_OK
