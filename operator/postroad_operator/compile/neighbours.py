"""Which resources a verdict depends on: the part of a snapshot that has to be compiled to judge one change.

Compiling everything takes time in proportion to everything. The verdict on one resource hangs on few others: those
on the same port and range, of the same domain, along a chain of aliases, the connectors that route it. This index
finds them; the compiler then judges them as it judges all. A rule of the compiler that makes a verdict depend on
another resource has its key here (a property test compares both results).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from postroad_operator.compile.cidrs import cidrs
from postroad_operator.resources import (
    KINDS,
    AcceptedDomain,
    Invalid,
    ReceiveConnector,
    Resource,
    SendConnector,
    TransportCertificate,
)
from postroad_operator.resources.scalars import ascii_domain

#: Resources that would suffer from a change and are looked at: enough to name some.
DEPENDENTS = 32

Key = tuple[object, ...]


class Neighbourhood:
    """An index over the resources of all tiers. ``hostname`` stands for the fqdn of connectors that give none."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._resources: dict[str, Resource] = {}
        self._keys: dict[str, tuple[Key, ...]] = {}
        self._holders: dict[Key, dict[str, None]] = {}
        self._listeners: dict[Key, Counter[Key]] = defaultdict(Counter)
        self._references: dict[str, dict[str, Resource | Invalid]] = defaultdict(dict)

    def put(self, item: Resource | Invalid) -> None:
        """Add an object, or take it in place of an older version of itself."""
        self.drop(item.source)
        kind, namespace, _ = (*item.source.split("/", 2), "", "")[:3]
        if kind not in KINDS:
            self._references[namespace][item.source] = item
        elif isinstance(item, Resource):
            keys = tuple(self._held(item))
            self._resources[item.source] = item
            self._keys[item.source] = keys
            for key in keys:
                self._holders.setdefault(key, {})[item.source] = None
                if key[1] == "listener":
                    self._listeners[key[:3]][key] += 1

    def drop(self, source: str) -> None:
        """Take an object out; one that is not there is no error."""
        kind, namespace, _ = (*source.split("/", 2), "", "")[:3]
        if kind not in KINDS:
            self._references[namespace].pop(source, None)
        if self._resources.pop(source, None) is None:
            return
        for key in self._keys.pop(source):
            holders = self._holders[key]
            del holders[source]
            if not holders:
                del self._holders[key]
            if key[1] == "listener":
                listeners = self._listeners[key[:3]]
                listeners[key] -= 1
                if not listeners[key]:
                    del listeners[key]

    def around(self, *versions: Resource, names: Iterable[str] = ()) -> tuple[Resource | Invalid, ...]:
        """Return what has to be compiled along with a resource, without the resource itself.

        Parameters
        ----------
        versions
            The resource before and after its change, as far as there are both.
        names
            For a TransportCertificate: the names that it holds.

        Returns
        -------
        tuple
            Everything that the verdict on each version depends on, whole; and of what could be refused because of
            the change at most :data:`DEPENDENTS`, with what their verdicts depend on.
        """
        own = {version.source for version in versions}
        found: dict[str, Resource] = {}
        waiting = list(versions)
        for version in versions:
            waiting += self._dependents(version, names)
        seen_keys: set[Key] = set()
        while waiting:
            item = waiting.pop()
            for key in self._needed(item):
                if key in seen_keys:
                    continue
                seen_keys.add(key)
                for source in self._holders.get(key, ()):
                    if source not in found and source not in own:
                        found[source] = self._resources[source]
                        waiting.append(found[source])
            if item.source not in own:
                found[item.source] = item
        namespaces = {item.metadata.namespace for item in (*found.values(), *versions)}
        references = [item for name in namespaces for item in self._references.get(name, {}).values()]
        return (*found.values(), *references)

    def on_ports(self, connector: ReceiveConnector) -> list[ReceiveConnector]:
        """Return the other enabled receive connectors on any of the connector's ports."""
        sources: dict[str, None] = {}
        for binding in connector.spec.bindings:
            for key in self._listeners.get((connector.spec.tier, "listener", binding.port), ()):
                sources.update(self._holders[key])
        sources.pop(connector.source, None)
        others = (self._resources[source] for source in sources)
        return [other for other in others if isinstance(other, ReceiveConnector)]

    def _held(self, item: Resource) -> Iterator[Key]:
        """Yield the keys under which others find the resource."""
        spec: Any = getattr(item, "spec", None)
        tier = spec.tier
        match item:
            case ReceiveConnector():
                yield from self._listening(item)
                fqdn = self._fqdn(item)
                yield (tier, "fqdn", fqdn)
                yield (tier, "fqdn", "*." + fqdn.partition(".")[2])
            case SendConnector():
                yield from ((tier, "space", pattern) for pattern in _spaces(item))
            case AcceptedDomain():
                yield (tier, "domain", ascii_domain(spec.domain))
                if spec.alias_of:
                    yield (tier, "alias", ascii_domain(spec.alias_of))
                if spec.default:
                    yield (tier, "default")
                if not spec.alias_of and spec.deliver is None:
                    yield from ((tier, "routed", pattern) for pattern in _patterns(ascii_domain(spec.domain)))
            case TransportCertificate():
                yield (tier, "certificate")
                if spec.subscription is not None:
                    yield (tier, "subscription")

    def _needed(self, item: Resource) -> Iterator[Key]:
        """Yield the keys of those that the verdict on the resource depends on."""
        spec: Any = getattr(item, "spec", None)
        tier = spec.tier
        match item:
            case ReceiveConnector():
                yield (tier, "certificate")
                if not spec.enabled:
                    return
                own = list(self._listening(item))
                for key in own:
                    if key[1] != "listener":
                        yield key
                        continue
                    # Connectors that treat the port alike meet only on the same range; otherwise the oldest decides
                    # for all of them.
                    if set(self._listeners.get(key[:3], ())) - {key}:
                        yield from list(self._listeners[key[:3]])
                        yield key
            case AcceptedDomain():
                yield (tier, "domain", ascii_domain(spec.domain))
                if spec.default:
                    yield (tier, "default")
                if spec.alias_of:
                    yield (tier, "domain", ascii_domain(spec.alias_of))
                elif spec.deliver is None:
                    yield from ((tier, "space", pattern) for pattern in _patterns(ascii_domain(spec.domain)))
            case TransportCertificate() if spec.subscription is not None:
                # Two that give one certificate different roles conflict.
                yield (tier, "subscription")

    def _dependents(self, item: Resource, names: Iterable[str]) -> list[Resource]:
        """Return some of those whose verdict may change with the resource, through more than a shared key."""
        spec: Any = getattr(item, "spec", None)
        keys: list[Key]
        match item:
            case SendConnector():
                keys = [(spec.tier, "routed", pattern) for pattern in _spaces(item)]
            case AcceptedDomain():
                keys = [(spec.tier, "alias", ascii_domain(spec.domain))]
            case TransportCertificate():
                keys = [(spec.tier, "fqdn", name.lower().removesuffix(".")) for name in names]
            case _:
                return []
        found: dict[str, None] = {}
        while keys and len(found) < DEPENDENTS:
            for source in self._holders.get(keys.pop(), ()):
                if source == item.source or source in found:
                    continue
                found[source] = None
                other: Any = self._resources[source]
                if isinstance(other, AcceptedDomain):
                    keys.append((spec.tier, "alias", ascii_domain(other.spec.domain)))
                if len(found) >= DEPENDENTS:
                    break
        return [self._resources[source] for source in found]

    def _listening(self, item: ReceiveConnector) -> Iterator[Key]:
        spec = item.spec
        if not spec.enabled:
            return
        ranges = cidrs(spec.remote_ip_ranges)
        for binding in spec.bindings:
            if binding.port:
                proxy = binding.proxy_protocol
                trusted = None if proxy is None else cidrs(proxy.trusted_ranges)
                yield (spec.tier, "listener", binding.port, binding.tls == "Implicit", trusted)
                yield from ((spec.tier, "range", binding.port, network) for network in ranges)

    def _fqdn(self, item: ReceiveConnector) -> str:
        return ascii_domain(item.spec.fqdn) if item.spec.fqdn else self._hostname.lower()


def _spaces(item: SendConnector) -> Iterator[str]:
    for space in item.spec.address_spaces:
        wildcard = "*." if space.domain.startswith("*.") else ""
        name = space.domain.removeprefix("*.")
        yield name if name == "*" else wildcard + ascii_domain(name)


def _patterns(domain: str) -> Iterator[str]:
    """Yield the address spaces that take a domain."""
    labels = domain.split(".")
    yield domain
    yield from (f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels)))
    yield "*"
