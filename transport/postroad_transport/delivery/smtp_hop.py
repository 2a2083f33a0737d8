"""The next hop by SMTP or LMTP: hosts in order, kept connections, one outcome per recipient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from postroad_transport.delivery.hop import Hop, Outcome
from postroad_transport.message import Content, Envelope, Recipient
from postroad_transport.routing.resolver import Resolver
from postroad_transport.routing.table import Route
from postroad_transport.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class HopSettings:
    """What every SMTP hop of a worker shares.

    ``resolver`` gives the resolver for a connector's ``resolvers`` (empty: the system's). ``read_secret``
    returns the content of a secret file by name and raises ``ConfigError``. ``local_endpoints`` are the
    ``(address, port)`` pairs this tier listens on: mail is never routed back to them by MX.
    """

    hostname: str
    resolver: Callable[[tuple[str, ...]], Resolver]
    metrics: Metrics
    read_secret: Callable[[str], bytes]
    trust_bundle: str = ""
    local_endpoints: frozenset[tuple[str, int]] = field(default_factory=frozenset)


class SmtpHop(Hop):
    """Delivers to one destination over kept SMTP or LMTP connections; :meth:`deliver` may be called concurrently."""

    concurrency: int
    """Transactions this hop runs at once (``limits.connections``); more calls wait their turn."""

    def __init__(self, route: Route, settings: HopSettings) -> None:
        self._route = route
        self._settings = settings
        raise NotImplementedError

    @property
    def has_capacity(self) -> bool:
        """Whether a :meth:`deliver` called now would start without waiting for another."""
        raise NotImplementedError

    async def deliver(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: Content
    ) -> Sequence[Outcome]:
        """Try once. Return one outcome per recipient, in order; never raises for anything a peer does."""
        raise NotImplementedError

    async def close(self) -> None:
        """Say QUIT on idle connections and close them all."""
        raise NotImplementedError


def make_hop(route: Route, settings: HopSettings) -> SmtpHop:
    """Return the hop for a route whose target is SmtpHost, Lmtp, SmartHostRouting or DnsRouting."""
    return SmtpHop(route, settings)
