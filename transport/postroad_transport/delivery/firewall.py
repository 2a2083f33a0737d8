"""The header firewall on the way out: a send connector's hop behind its permissions (spec.md 1.2)."""

from __future__ import annotations

from collections.abc import Sequence

from postroad_transport.config import Permission
from postroad_transport.delivery.hop import Hop, Outcome
from postroad_transport.message import Content, Envelope, Recipient
from postroad_transport.policy.headers import outbound


class HeaderFirewall(Hop):
    """Hands on what `permissions` let out.

    Parameters
    ----------
    hop
        Where the rest of the message goes.
    permissions
        What holds for everything leaving through the send connector.
    """

    def __init__(self, hop: Hop, permissions: frozenset[Permission]) -> None:
        self._hop = hop
        self._permissions = permissions

    async def deliver(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: Content
    ) -> Sequence[Outcome]:
        """Deliver without the headers that may not leave."""
        return await self._hop.deliver(envelope, recipients, outbound(content, self._permissions).content)

    async def close(self) -> None:
        """Close the hop behind."""
        await self._hop.close()
