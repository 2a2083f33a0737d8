"""The hop that accepts and discards."""

from __future__ import annotations

from collections.abc import Sequence

from postroad_transport.delivery.hop import Hop, Outcome, Result
from postroad_transport.message import Content, Envelope, Recipient

_DISCARDED = Outcome(Result.DELIVERED, "250 2.0.0 Discarded")


class DropHop(Hop):
    """Takes every message and keeps none."""

    async def deliver(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        content: Content,
    ) -> Sequence[Outcome]:
        """Return a success for each recipient."""
        return [_DISCARDED] * len(recipients)

    async def close(self) -> None:
        """Hold nothing, release nothing."""
