"""What the watches have shown: kopf indexes filled as objects come, read by the loop as one view."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import kopf

from postroad_operator.publish import Identity
from postroad_operator.resources import GROUP, KINDS, VERSION, Ignored, Invalid, Resource, labels, parse
from postroad_operator.status import Pod, pod_of

#: Secrets that no resource can refer to; their content is not kept.
_IRRELEVANT_SECRETS = frozenset({"helm.sh/release.v1", "kubernetes.io/service-account-token"})
#: What has to be complete before anything is published: these decide what the configuration holds.
INPUTS = (*KINDS, "Secret", "ConfigMap")


@dataclass(frozen=True, slots=True)
class Watched:
    """One object as it was last seen. ``document`` is kept of those that the operator itself writes."""

    identity: Identity
    version: str
    parsed: Resource | Invalid | None = None
    status: Mapping[str, Any] = field(default_factory=dict)
    document: dict[str, Any] | None = None
    pod: Pod | None = None


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


class Cluster:
    """The indexes, and the signal that something has come.

    kopf does not drop an object from an index when it was deleted while the watch was interrupted; :meth:`forget`
    does, once a list has shown that it is gone.
    """

    def __init__(self, namespace: str, lease: str) -> None:
        self.changed = asyncio.Event()
        self.last_heard = time.monotonic()
        self.seen: dict[tuple[str, int], float] = {}
        """When a generation of a resource was first seen (monotonic), until it is programmed."""
        self._namespace = namespace
        self._lease = lease
        self._indices: dict[str, Mapping[Any, Any]] = {}
        self._gone: set[str] = set()

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """Add the indexes and signals to a kopf registry."""
        for kind in KINDS:
            self._watch(registry, kind, GROUP, VERSION, f"{kind.lower()}s")
        self._watch(registry, "Secret", "", "v1", "secrets")
        self._watch(registry, "ConfigMap", "", "v1", "configmaps")
        self._watch(registry, "Pod", "", "v1", "pods", {labels.COMPONENT: labels.TRANSPORT})

        async def heard(**_: Any) -> None:
            self.last_heard = time.monotonic()

        def is_ours(name: str | None, **_: Any) -> bool:
            return name == self._lease

        kopf.on.event("coordination.k8s.io", "v1", "leases", registry=registry, id="lease", when=is_ours)(heard)

        async def started(**arguments: Any) -> None:
            self._indices = {kind: arguments[_index(kind)] for kind in (*INPUTS, "Pod")}

        kopf.on.startup(registry=registry, id="indexes")(started)

    def _watch(
        self,
        registry: kopf.OperatorRegistry,
        kind: str,
        group: str,
        version: str,
        plural: str,
        selector: dict[str, Any] | None = None,
    ) -> None:
        async def keep(body: kopf.Body, **_: Any) -> dict[tuple[str, str], Watched]:
            watched = watched_of(kind, dict(body))
            return {(watched.identity.namespace, watched.identity.name): watched}

        async def noticed(body: kopf.Body, **_: Any) -> None:
            if kind in KINDS:
                generation = body.metadata.get("generation", 0)
                source = f"{kind}/{body.metadata.namespace}/{body.metadata.name}"
                if (source, generation) not in self.seen and not _observed(body, generation):
                    self.seen[source, generation] = time.monotonic()
            self.changed.set()

        kopf.index(group, version, plural, registry=registry, id=_index(kind), labels=selector)(keep)
        kopf.on.event(group, version, plural, registry=registry, id=f"{_index(kind)}-changed", labels=selector)(
            noticed
        )

    def identities(self, kind: str) -> set[Identity]:
        """Return what the index of a kind holds."""
        return {watched.identity for watched in self._all(kind)}

    def forget(self, gone: set[Identity]) -> None:
        """Leave these objects out from now on."""
        self._gone |= {identity.uid for identity in gone}

    def view(self) -> View:
        """Return everything as it is now."""
        view = View()
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
        view.pods = sorted(
            (watched.pod for watched in self._all("Pod") if watched.pod is not None), key=lambda pod: pod.name
        )
        return view

    def _all(self, kind: str) -> list[Watched]:
        index = self._indices.get(kind)
        if index is None:
            return []
        return [watched for key in list(index) for watched in index[key] if watched.identity.uid not in self._gone]


def watched_of(kind: str, document: dict[str, Any]) -> Watched:
    """Return what is kept of an object. Total: whatever it holds."""
    metadata = document.get("metadata") or {}
    identity = Identity(metadata.get("namespace", ""), metadata.get("name", ""), metadata.get("uid", ""))
    version = str(metadata.get("resourceVersion", ""))
    if kind == "Pod":
        return Watched(identity, version, pod=pod_of(document))
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


def _observed(body: Mapping[str, Any], generation: int) -> bool:
    """Tell whether the object's status already is about this generation: it was programmed before we started."""
    status = body.get("status") or {}
    return any(
        condition.get("type") == "Programmed"
        and condition.get("status") == "True"
        and condition.get("observedGeneration") == generation
        for condition in status.get("conditions") or ()
    )


def _index(kind: str) -> str:
    return f"{kind.lower()}s"
