"""From a view of the cluster to one compilation per tier; compiled again only when an input changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from postroad_operator.certificates import certified
from postroad_operator.compile import Compilation, TierSettings, compile_tier, speaks_direct_trust, tiers
from postroad_operator.handlers.cluster import View
from postroad_operator.handlers.issuers import Issuers
from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.publish import KubernetesApi, SecretBundles, certificates_name
from postroad_operator.resources import Invalid, Resource, TransportCertificate, labels
from postroad_operator.status import details
from postroad_transport.config.files import config_hash, encode

#: Longest time, in seconds, until certificates are looked at again.
CERTIFICATE_CHECK = 3600.0

Inputs = frozenset[tuple[Any, ...]]


@dataclass(slots=True)
class Tier:
    """One tier, compiled."""

    name: str
    inputs: Inputs
    compilation: Compilation
    hash: str
    fields: Mapping[str, Mapping[str, Any]]
    """The kinds' own status fields, by source."""
    looked_at: float
    look_again: float
    """When certificates are due, in seconds since the epoch; the clock may also have been put back since."""
    published_at: float = float("-inf")
    """Monotonic time since when the API server has it."""


@dataclass(slots=True)
class Compiler:
    """Compiles tiers, and remembers the last result of each."""

    api: KubernetesApi
    settings: TierSettings
    metrics: OperatorMetrics
    always: tuple[str, ...]
    """Tiers that exist even without resources."""
    known: dict[str, Tier] = field(default_factory=dict)
    issuers: Issuers = field(init=False)

    def __post_init__(self) -> None:
        self.issuers = Issuers(self.api)

    def names(self, view: View) -> list[str]:
        """Return every tier: of a resource, of something published, or of the settings."""
        resources = [watched.parsed for watched in view.resources.values() if watched.parsed is not None]
        published = {
            tier
            for (kind, _), document in view.own.items()
            if kind == "ConfigMap" and (tier := document["metadata"]["labels"].get(labels.TIER))
        }
        return sorted({*tiers(resources), *published, *self.always})

    async def compile(self, name: str, view: View) -> Tier:
        """Return the tier as the view wants it. Raises ApiError when certificates cannot be read or kept."""
        mine = [item for item in view.resources.values() if item.parsed is not None and belongs(item.parsed, name)]
        issuers = await self.issuers.follow(mine)
        hidden = view.hidden_ports(name)
        inputs = inputs_of(name, view) | set(issuers.items()) | {("hidden", *hidden.items())}
        now = time.time()
        before = self.known.get(name)
        if before is not None and before.inputs == inputs and before.looked_at <= now < before.look_again:
            return before
        objects = _objects(name, view)
        settings = replace(self.settings, tier=name, hidden_ports=hidden)
        bundles = (
            await SecretBundles.read(self.api, name, settings.namespace)
            if any(isinstance(item, TransportCertificate) for item in objects)
            or speaks_direct_trust(objects, name)
            # Of certificates that are gone, the keys are to go too.
            or ("Secret", certificates_name(name)) in view.own
            else SecretBundles(name, settings.namespace, None)
        )
        started = time.perf_counter()
        has = await asyncio.to_thread(certified, objects, settings, bundles, now, issuers=issuers)
        # Nothing is published before its keys are kept: a crash in between must not lose them.
        if await bundles.write(self.api):
            self.metrics.writes.labels("Secret", "certificates").inc()
        compilation = await asyncio.to_thread(compile_tier, has.snapshot)
        encoded = encode(compilation.config)
        resources = {item.source: item for item in objects if isinstance(item, Resource)}
        self.metrics.compilations.labels(name).inc()
        self.metrics.compile_seconds.observe(time.perf_counter() - started)
        self.metrics.count_verdicts(name, compilation.verdicts)
        tier = Tier(
            name,
            inputs,
            compilation,
            config_hash(encoded),
            details(compilation, resources, has.pkcs10, now),
            now,
            min(now + CERTIFICATE_CHECK, max(has.renew_at, now + 1.0) if has.renew_at is not None else float("inf")),
        )
        if before is not None and before.hash == tier.hash:
            tier.published_at = before.published_at
        self.known[name] = tier
        return tier


def inputs_of(tier: str, view: View) -> Inputs:
    """Return what identifies everything that a tier's compilation looks at; statuses do not count."""
    mine = {
        (source, watched.identity.uid, generation_of(watched.parsed))
        for source, watched in view.resources.items()
        if watched.parsed is not None and belongs(watched.parsed, tier)
    }
    return frozenset(mine | {(watched.identity, watched.version) for watched in view.references})


def _objects(tier: str, view: View) -> tuple[Resource | Invalid, ...]:
    resources = [item.parsed for item in view.resources.values() if item.parsed and belongs(item.parsed, tier)]
    return (*resources, *(item.parsed for item in view.references if item.parsed is not None))


def belongs(item: Resource | Invalid, tier: str) -> bool:
    """Tell whether a resource is a tier's."""
    # One whose tier cannot be read gets its verdict from every tier; they are all the same.
    own = item.tier if isinstance(item, Invalid) else str(getattr(getattr(item, "spec", None), "tier", ""))
    return own in ("", tier)


def generation_of(item: Resource | Invalid) -> int:
    """Return the generation of a resource, readable or not."""
    return item.generation if isinstance(item, Invalid) else item.metadata.generation
