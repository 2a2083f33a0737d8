"""Adding up the workers' metrics (pure).

A worker's snapshot is a list of :class:`Family`. Counters and histograms are summed; gauges are summed too,
but for those where the tier's value is the largest (:data:`postroad_transport.telemetry.metrics.MAXIMUM_GAUGES`).
The last snapshot of a worker that ended still counts for what only grows, so that no counter ever goes back.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from postroad_transport.telemetry.metrics import MAXIMUM_GAUGES

Labels = tuple[tuple[str, str], ...]


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One sample: its full name, its labels sorted by name, its value."""

    name: str
    labels: Labels
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric family as :mod:`prometheus_client` collects it."""

    name: str
    type: str
    documentation: str
    samples: tuple[Sample, ...]


def snapshot(registry: CollectorRegistry) -> list[Family]:
    """Read a registry. ``_created`` samples are left out: they mean nothing once summed."""
    return [
        Family(
            family.name,
            family.type,
            family.documentation,
            tuple(
                Sample(sample.name, tuple(sorted(sample.labels.items())), sample.value)
                for sample in family.samples
                if not sample.name.endswith("_created")
            ),
        )
        for family in registry.collect()
    ]


def only_growing(families: Iterable[Family]) -> list[Family]:
    """Keep what an ended worker still counts for: counters and histograms."""
    return [family for family in families if family.type in {"counter", "histogram"}]


def add(snapshots: Iterable[Iterable[Family]]) -> list[Family]:
    """Return one family per name over all `snapshots`, in order of first appearance."""
    order: dict[str, Family] = {}
    totals: dict[str, dict[tuple[str, Labels], float]] = {}
    for families in snapshots:
        for family in families:
            order.setdefault(family.name, family)
            values = totals.setdefault(family.name, {})
            largest = family.name in MAXIMUM_GAUGES
            for sample in family.samples:
                key = (sample.name, sample.labels)
                known = values.get(key)
                if known is None:
                    values[key] = sample.value
                else:
                    values[key] = max(known, sample.value) if largest else known + sample.value
    return [
        Family(
            name, family.type, family.documentation, tuple(Sample(*key, value) for key, value in totals[name].items())
        )
        for name, family in order.items()
    ]


def exposed(families: Iterable[Family]) -> list[Metric]:
    """Return families as :mod:`prometheus_client` writes them out."""
    metrics = []
    for family in families:
        metric = Metric(family.name, family.documentation, family.type)
        for sample in family.samples:
            metric.add_sample(sample.name, dict(sample.labels), sample.value)
        metrics.append(metric)
    return metrics
