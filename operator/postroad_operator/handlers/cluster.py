"""What the watches have shown: indexes filled as events come, read by the loop as one view.

kopf's own indexes are not used: filling them takes time that grows with the square of the number of objects (each
object that was read waits on one condition that each further object wakes), and they keep what was deleted while a
watch was interrupted. :mod:`~postroad_operator.handlers.audit` tells when ours are complete, and what is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import kopf

from postroad_operator.compile import Exposure, exposure_of, hidden_ports
from postroad_operator.handlers.index import Index
from postroad_operator.publish import Identity
from postroad_operator.resources import GROUP, KINDS, VERSION, Ignored, Invalid, Resource, labels, parse
from postroad_operator.status import Pod, pod_of

#: Secrets that no resource can refer to; their content is not kept.
_IRRELEVANT_SECRETS = frozenset({"helm.sh/release.v1", "kubernetes.io/service-account-token"})
#: What has to be complete before anything is published: these decide what the configuration holds.
INPUTS = (*KINDS, "Secret", "ConfigMap", "Service")


@dataclass(frozen=True, slots=True)
class Watched:
    """One object as it was last seen. ``document`` is kept of those that the operator itself writes."""

    identity: Identity
    version: str
    parsed: Resource | Invalid | None = None
    status: Mapping[str, Any] = field(default_factory=dict)
    document: dict[str, Any] | None = None
    pod: Pod | None = None
    exposure: Exposure | None = None


@dataclass(slots=True)
class View:
    """Everything at one moment."""

    resources: dict[str, Watched] = field(default_factory=dict)
    """The four kinds, by source."""
    references: list[Watched] = field(default_factory=list)
    """Secrets and ConfigMaps that resources may refer to."""
    own: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """What the operator published, by kind and name, in its own namespace."""
    pods: list[Pod] = field(default_factory=list)
    exposures: list[Exposure] = field(default_factory=list)
    """Services that hide clients' addresses, of the operator's own namespace, as the pods."""

    def hidden_ports(self, tier: str) -> dict[int, tuple[str, ...]]:
        """Return the ports on which a tier does not see its clients' addresses, and the Services that hide them."""
        return hidden_ports(tier, self.exposures, self.pods)


class Cluster:
    """The indexes, and the signal that something has come."""

    def __init__(self, namespace: str, lease: str) -> None:
        self.changed = asyncio.Event()
        self.last_heard = time.monotonic()
        self.seen: dict[tuple[str, int], float] = {}
        """When a generation of a resource was first seen (monotonic), until it is programmed."""
        self.index: Index | None = None
        """What reviews look at; None while nobody asks for reviews."""
        self._namespace = namespace
        self._lease = lease
        self._objects: dict[str, dict[Identity, Watched]] = {kind: {} for kind in (*INPUTS, "Pod")}
        self._gone: set[str] = set()

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """Add one handler of events for each kind to a kopf registry."""
        for kind in KINDS:
            self._watch(registry, kind, GROUP, VERSION, f"{kind.lower()}s")
        self._watch(registry, "Secret", "", "v1", "secrets")
        self._watch(registry, "ConfigMap", "", "v1", "configmaps")
        self._watch(registry, "Pod", "", "v1", "pods")
        self._watch(registry, "Service", "", "v1", "services")

        async def heard(**_: Any) -> None:
            self.last_heard = time.monotonic()

        def is_ours(name: str | None, **_: Any) -> bool:
            return name == self._lease

        kopf.on.event("coordination.k8s.io", "v1", "leases", registry=registry, id="lease", when=is_ours)(heard)

    def _watch(self, registry: kopf.OperatorRegistry, kind: str, group: str, version: str, plural: str) -> None:
        kept = self._objects[kind]

        async def noticed(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 (kopf's name for it)
            watched = watched_of(kind, dict(body))
            if type == "DELETED":
                kept.pop(watched.identity, None)
            else:
                kept[watched.identity] = watched
                self._time(kind, watched)
            if self.index is not None:
                self._show(self.index, kind, watched, gone=type == "DELETED")
            self.changed.set()

        kopf.on.event(group, version, plural, registry=registry, id=plural)(noticed)

    def _show(self, index: Index, kind: str, watched: Watched, *, gone: bool) -> None:
        """Keep what reviews look at up to date."""
        if kind in ("Pod", "Service"):
            if watched.pod is not None or kind == "Service":
                index.expose(self._endpoints().hidden_ports)
        elif watched.document is not None:
            if kind == "ConfigMap" and not gone:
                index.publish(watched.identity.name, watched.version, watched.document)
        elif gone:
            index.drop(f"{kind}/{watched.identity.namespace}/{watched.identity.name}")
        elif watched.parsed is not None:
            index.put(watched.parsed)

    def _time(self, kind: str, watched: Watched) -> None:
        if kind in KINDS and watched.parsed is not None:
            item = watched.parsed
            generation = item.generation if isinstance(item, Invalid) else item.metadata.generation
            if not _observed(watched.status, generation):
                self.seen.setdefault((item.source, generation), time.monotonic())

    def identities(self, kind: str) -> set[Identity]:
        """Return what the index of a kind holds."""
        return {watched.identity for watched in self._all(kind)}

    def forget(self, gone: set[Identity]) -> None:
        """Leave these objects out from now on."""
        self._gone |= {identity.uid for identity in gone}
        if self.index is not None:
            for kind in INPUTS:
                alive = {identity[:2] for identity in self.identities(kind)}
                for identity in gone & self._objects[kind].keys():
                    if identity[:2] not in alive and kind != "Service":
                        self.index.drop(f"{kind}/{identity.namespace}/{identity.name}")
            self.index.expose(self._endpoints().hidden_ports)

    def view(self) -> View:
        """Return everything as it is now."""
        view = self._endpoints()
        for kind in KINDS:
            for watched in self._all(kind):
                if watched.parsed is not None:
                    view.resources[watched.parsed.source] = watched
        for kind in ("Secret", "ConfigMap"):
            for watched in self._all(kind):
                if watched.document is not None and watched.identity.namespace == self._namespace:
                    view.own[kind, watched.identity.name] = watched.document
                elif watched.parsed is not None:
                    view.references.append(watched)
        return view

    def _endpoints(self) -> View:
        """Return a view of the transport pods and the Services in front of them, and of nothing else."""
        pods = [watched.pod for watched in self._all("Pod") if watched.pod is not None]
        return View(
            pods=sorted((pod for pod in pods if pod.namespace == self._namespace), key=lambda pod: pod.name),
            exposures=[
                watched.exposure
                for watched in self._all("Service")
                if watched.exposure is not None and watched.exposure.namespace == self._namespace
            ],
        )

    def _all(self, kind: str) -> list[Watched]:
        return [watched for watched in self._objects[kind].values() if watched.identity.uid not in self._gone]


def watched_of(kind: str, document: dict[str, Any]) -> Watched:
    """Return what is kept of an object. Total: whatever it holds."""
    metadata = document.get("metadata") or {}
    identity = Identity(metadata.get("namespace", ""), metadata.get("name", ""), metadata.get("uid", ""))
    version = str(metadata.get("resourceVersion", ""))
    if kind == "Pod":
        ours = (metadata.get("labels") or {}).get(labels.COMPONENT) == labels.TRANSPORT
        return Watched(identity, version, pod=pod_of(document) if ours else None)
    if kind == "Service":
        return Watched(identity, version, exposure=exposure_of(document))
    if kind in KINDS:
        status = document.get("status")
        parsed = parse({**document, "apiVersion": f"{GROUP}/{VERSION}", "kind": kind})
        return Watched(
            identity,
            version,
            None if isinstance(parsed, Ignored) else parsed,
            status=status if isinstance(status, dict) else {},
        )
    if (metadata.get("labels") or {}).items() >= labels.MANAGED_BY.items():
        kept = {key: value for key, value in metadata.items() if key != "managedFields"}
        return Watched(identity, version, document={**document, "metadata": kept})
    if document.get("type") in _IRRELEVANT_SECRETS:
        return Watched(identity, version)
    parsed = parse({**document, "apiVersion": "v1", "kind": kind})
    return Watched(identity, version, None if isinstance(parsed, Ignored) else parsed)


def _observed(status: Mapping[str, Any], generation: int) -> bool:
    """Tell whether a status already is about this generation: it was programmed before we started."""
    conditions = status.get("conditions")
    return isinstance(conditions, list) and any(
        condition.get("type") == "Programmed"
        and condition.get("status") == "True"
        and condition.get("observedGeneration") == generation
        for condition in conditions
        if isinstance(condition, dict)
    )
