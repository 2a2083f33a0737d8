"""Counters and histograms for what happens with every message: plain numbers, put into metric families when read.

:mod:`prometheus_client`'s own take a lock and check their labels at each step, which threads need and one event loop
does not: half a microsecond a count, one an observation. These have the methods of theirs that the hot path uses.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Tally:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Count."""
        self.value += amount


class Distribution:
    """How often values fell below each of `bounds`, which ascend."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By bucket; the last holds what is above all bounds."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count `value`."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class TallyCounter(Collector):
    """A family of tallies, one for each combination of label values."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._label_names = tuple(labels)
        self._tallies: dict[tuple[str, ...], Tally] = {}
        registry.register(self)

    def labels(self, *values: str) -> Tally:
        """Return the tally of these label values, made when first asked for."""
        return self._tallies.setdefault(values, Tally())

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Yield the family without its samples."""
        yield CounterMetricFamily(self._name, self._documentation, labels=self._label_names)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the family."""
        for family in self.describe():
            for values, tally in self._tallies.items():
                family.add_metric(values, tally.value)
            yield family


class TallyHistogram(Collector):
    """A family of distributions, one for each combination of label values."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._label_names = tuple(labels)
        self._bounds = tuple(buckets)
        self._distributions: dict[tuple[str, ...], Distribution] = {}
        registry.register(self)

    def labels(self, *values: str) -> Distribution:
        """Return the distribution of these label values, made when first asked for."""
        return self._distributions.setdefault(values, Distribution(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """Yield the family without its samples."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._label_names)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the family."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for family in self.describe():
            for values, distribution in self._distributions.items():
                below = accumulate(distribution.counts)
                family.add_metric(values, list(zip(bounds, below, strict=True)), distribution.sum)
            yield family
