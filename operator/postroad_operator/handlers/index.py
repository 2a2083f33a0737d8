"""What reviews look at: filled as events come, read from the webhook's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from postroad_operator.admission import World
from postroad_operator.compile import IssuedCertificate, Neighbourhood, TierSettings
from postroad_operator.publish import object_name
from postroad_operator.publish.published import published
from postroad_operator.resources import Invalid, Resource


class Index:
    """The neighbourhood of every resource, and the certificates that are published."""

    def __init__(self, settings: TierSettings) -> None:
        self._settings = settings
        self._neighbours = Neighbourhood(settings.hostname)
        self._published: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._decoded: dict[str, tuple[str, dict[str, IssuedCertificate]]] = {}
        self._hidden: Callable[[str], Mapping[int, tuple[str, ...]]] = lambda _tier: {}
        self._lock = threading.Lock()

    def put(self, item: Resource | Invalid) -> None:
        """Take in an object as it was last seen."""
        with self._lock:
            self._neighbours.put(item)

    def drop(self, source: str) -> None:
        """Leave an object out from now on."""
        with self._lock:
            self._neighbours.drop(source)

    def publish(self, name: str, version: str, document: Mapping[str, Any]) -> None:
        """Take in one of the operator's own ConfigMaps."""
        with self._lock:
            self._published[name] = version, document

    def expose(self, hidden: Callable[[str], Mapping[int, tuple[str, ...]]]) -> None:
        """Take in which ports of a tier Services hide clients' addresses on."""
        with self._lock:
            self._hidden = hidden

    @contextmanager
    def world(self, tier: str) -> Iterator[World]:
        """Hold everything still, and yield it as it is now."""
        with self._lock:
            settings = replace(self._settings, tier=tier, hidden_ports=self._hidden(tier))
            yield World(settings, self._neighbours, self._certificates(object_name(tier)))

    def _certificates(self, name: str) -> dict[str, IssuedCertificate]:
        version, document = self._published.get(name, ("", {}))
        known, certificates = self._decoded.get(name, ("", {}))
        if known != version:
            decoded = published(document)
            certificates = {
                item.source: IssuedCertificate(item, {}) for item in (decoded.certificates if decoded else ())
            }
            self._decoded[name] = version, certificates
        return certificates
