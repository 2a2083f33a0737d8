"""Receive connectors that share clients: all is served, but which connector a client gets may surprise."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple

from postroad_operator.compile import cidrs
from postroad_operator.resources import ReceiveConnector

#: Other connectors that are named.
_NAMED = 3


class _Range(NamedTuple):
    version: int
    first: int
    last: int
    text: str


def overlaps(
    connector: ReceiveConnector, before: ReceiveConnector | None, others: Iterable[ReceiveConnector]
) -> list[str]:
    """Return a warning for each other connector whose ranges lie within this one's, or around them.

    Nothing is said when the change leaves ports and ranges as they are, nor of ranges that are the same (a conflict).
    `others` listen on a port of this one's.
    """
    if before is not None and _reach(before) == _reach(connector):
        return []
    own = _ranges(tuple(connector.spec.remote_ip_ranges))
    ports = {binding.port for binding in connector.spec.bindings if binding.port}
    warnings: list[str] = []
    for other in sorted(others, key=lambda item: item.source):
        shared = sorted(ports & {binding.port for binding in other.spec.bindings})
        if shared and (text := _relation(own, _ranges(tuple(other.spec.remote_ip_ranges)), other.source)):
            warnings.append(f"spec.remoteIPRanges: port {', '.join(map(str, shared))}: {text}")
    more = len(warnings) - _NAMED
    return warnings[:_NAMED] + ([f"spec.remoteIPRanges: overlaps with {more} more"] if more > 0 else [])


def _relation(own: tuple[_Range, ...], others: tuple[_Range, ...], other: str) -> str:
    for mine in own:
        for theirs in others:
            if mine.version != theirs.version or (mine.first, mine.last) == (theirs.first, theirs.last):
                continue
            if theirs.first <= mine.first and mine.last <= theirs.last:
                return (
                    f"{mine.text} lies within {theirs.text} of {other}: its clients get this connector, for the most"
                    " specific range wins"
                )
            if mine.first <= theirs.first and theirs.last <= mine.last:
                return (
                    f"{theirs.text} of {other} lies within {mine.text}: its clients get that connector, for the most"
                    " specific range wins"
                )
    return ""


def _reach(connector: ReceiveConnector) -> tuple[object, ...]:
    spec = connector.spec
    return spec.enabled, tuple(sorted(binding.port for binding in spec.bindings)), cidrs(spec.remote_ip_ranges)


@lru_cache(maxsize=4096)
def _ranges(ranges: tuple[str, ...]) -> tuple[_Range, ...]:
    """Return ranges as numbers; remembered, for every review looks at all connectors of a port."""
    found = []
    for text in cidrs(ranges):
        network = ip_network(text)
        found.append(_Range(network.version, int(network[0]), int(network[-1]), text))
    return tuple(found)
