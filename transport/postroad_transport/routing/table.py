"""Where mail for a domain goes: accepted domains first, then the best send connector.

1. An accepted domain (exact, else the nearest parent with ``match_subdomains``) that has ``deliver`` goes there.
2. Everything else goes by send connector. The most specific address space wins: the domain itself, then the
   longest ``*.suffix``, then ``*``. ``*.example.com`` covers ``a.example.com`` and ``a.b.example.com``, not
   ``example.com``. Among equals the lowest cost wins, then the connector's name (alphabetically first).
3. What nothing covers is :class:`Unroutable`: for good (550 5.4.4) when the domain is foreign, for now
   (451 4.4.4) when the tier has accepted responsibility for the domain, because then the fault is ours.

A lookup costs one dictionary probe a label, whatever the number of domains and connectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from postroad_transport.config import (
    AcceptedDomain,
    DnsRouting,
    Drop,
    Lmtp,
    Maildir,
    RetryPolicy,
    SendConnector,
    SmartHostRouting,
    SmtpHost,
    TierConfig,
)
from postroad_transport.policy.address import AddressSyntaxError, to_ascii
from postroad_transport.policy.reply import Reply

Target = Maildir | Lmtp | SmtpHost | DnsRouting | SmartHostRouting | Drop

_DEFAULT_RETRY = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Route:
    """Where mail for one domain goes.

    ``connector`` is the send connector's name, or the kind of target (``maildir``, ``lmtp``, ``smtp``) where an
    accepted domain names its own. ``destination`` is the stable key of the queue: ``maildir:PATH``,
    ``lmtp:HOST:PORT``, ``smtp:HOST:PORT``, ``dns:DOMAIN``, ``smarthost:CONNECTOR``, ``drop:CONNECTOR``.
    """

    connector: str
    destination: str
    target: Target
    send_connector: SendConnector | None
    retry: RetryPolicy


@dataclass(frozen=True, slots=True)
class Unroutable:
    """No route. A 4xx `reply` means that the message waits, a 5xx that it fails now."""

    reply: Reply


def ascii_domain(domain: str) -> str | None:
    """Return `domain` in lower case as A-labels, without a final dot; None where it has no such form."""
    domain = domain.lower().removesuffix(".")
    if domain.isascii():
        return domain
    try:
        return to_ascii(domain)
    except AddressSyntaxError:
        return None


class RoutingTable:
    """The routes of one configuration. Immutable; a reload builds a new one.

    Parameters
    ----------
    config
        The served configuration.
    """

    def __init__(self, config: TierConfig) -> None:
        self._exact: dict[str, AcceptedDomain] = {}
        self._parents: dict[str, AcceptedDomain] = {}
        for accepted in config.accepted_domains:
            self._exact.setdefault(accepted.domain, accepted)
            if accepted.match_subdomains:
                self._parents.setdefault(accepted.domain, accepted)
        self._spaces = _best_connectors(config.send_connectors)

    def route(self, domain: str) -> Route | Unroutable:
        """Return the route of `domain` (A-labels, U-labels, or an address literal such as ``[192.0.2.1]``)."""
        name = ascii_domain(domain)
        if name is None or not name:
            return Unroutable(Reply(550, "5.1.2", f"Not a domain name: {domain!a}"))
        accepted = self._accepted(name)
        if accepted is not None and accepted.deliver is not None:
            return _own_route(accepted.deliver)
        connector = self._connector(name)
        if connector is not None:
            return _connector_route(connector, name)
        if accepted is not None:
            return Unroutable(Reply(451, "4.4.4", f"No route yet for the accepted domain {name}"))
        return Unroutable(Reply(550, "5.4.4", f"No send connector covers {name}"))

    def explain(self, domain: str) -> tuple[Route | Unroutable, str, str]:
        """Return what :meth:`route` returns, the resource that decided it, and why it did, in words."""
        route = self.route(domain)
        name = ascii_domain(domain) or ""
        accepted = self._accepted(name)
        if isinstance(route, Unroutable):
            if accepted is None:
                return route, "", f"no accepted domain and no address space covers {domain}"
            return route, accepted.source, f"it has no deliver, and no address space covers {domain}"
        connector = route.send_connector
        if connector is not None:
            space = next(text for text in _spaces(name) if self._spaces.get(text) is connector)
            rest = "" if accepted is None else f"; the accepted domain {accepted.domain} has no deliver"
            return route, connector.source, f"address space {space} is the most specific that covers {domain}{rest}"
        source = accepted.source if accepted is not None else ""
        return route, source, f"spec.deliver of the accepted domain that covers {domain}"

    def _accepted(self, name: str) -> AcceptedDomain | None:
        accepted = self._exact.get(name)
        if accepted is None and self._parents:
            for parent in _parents(name):
                accepted = self._parents.get(parent)
                if accepted is not None:
                    break
        return accepted

    def _connector(self, name: str) -> SendConnector | None:
        for space in _spaces(name):
            connector = self._spaces.get(space)
            if connector is not None:
                return connector
        return None


def _spaces(name: str) -> Iterator[str]:
    """Yield the address spaces that cover `name`, the most specific first."""
    yield name
    for parent in _parents(name):
        yield "*." + parent
    yield "*"


def _parents(name: str) -> Iterator[str]:
    """Yield the parent domains of `name`, nearest first; an address literal has none."""
    if name.startswith("["):
        return
    at = name.find(".")
    while at != -1:
        yield name[at + 1 :]
        at = name.find(".", at + 1)


def _best_connectors(connectors: Iterable[SendConnector]) -> dict[str, SendConnector]:
    """Return, for each address space, the connector that wins it."""
    ranked = sorted(
        (
            (space.cost, connector.name, space.domain, connector)
            for connector in connectors
            for space in connector.address_spaces
        ),
        key=lambda entry: entry[:2],
    )
    best: dict[str, SendConnector] = {}
    for _, _, domain, connector in ranked:
        best.setdefault(domain, connector)
    return best


def _own_route(target: Maildir | Lmtp | SmtpHost) -> Route:
    match target:
        case Maildir():
            return Route("maildir", f"maildir:{target.path}", target, None, _DEFAULT_RETRY)
        case Lmtp():
            return Route("lmtp", f"lmtp:{target.host}:{target.port}", target, None, _DEFAULT_RETRY)
        case SmtpHost():
            return Route("smtp", f"smtp:{target.host}:{target.port}", target, None, _DEFAULT_RETRY)


def _connector_route(connector: SendConnector, domain: str) -> Route:
    target = connector.routing
    match target:
        case DnsRouting():
            destination = f"dns:{domain}"
        case SmartHostRouting():
            destination = f"smarthost:{connector.name}"
        case Lmtp():
            destination = f"lmtp:{target.host}:{target.port}"
        case Drop():
            destination = f"drop:{connector.name}"
    return Route(connector.name, destination, target, connector, connector.retry)
