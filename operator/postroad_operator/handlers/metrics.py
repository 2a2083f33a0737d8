"""The operator's own metrics, all in one place (documented in docs/operator.md)."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from postroad_operator.compile import Verdict
from postroad_operator.resources import KINDS

_COMPILE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_REVIEW = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_PROGRAMMED = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 120, 300)


class OperatorMetrics:
    """One operator process's metrics. Label values are bounded: kinds, verdicts, tiers."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.compilations = Counter("postroad_operator_compilations", "Compilations.", ["tier"], registry=r)
        self.compile_seconds = Histogram(
            "postroad_operator_compile_seconds", "Seconds a compilation took.", registry=r, buckets=_COMPILE
        )
        self.objects = Gauge(
            "postroad_operator_objects", "Resources by kind and verdict.", ["tier", "kind", "reason"], registry=r
        )
        self.writes = Counter(
            "postroad_operator_writes", "Objects and statuses written.", ["kind", "part"], registry=r
        )
        self.apply_errors = Counter(
            "postroad_operator_apply_errors", "Requests that the API server refused or did not answer.", registry=r
        )
        self.programmed_seconds = Histogram(
            "postroad_operator_programmed_seconds",
            "Seconds from seeing a change to every ready pod serving it.",
            registry=r,
            buckets=_PROGRAMMED,
        )
        self.pods = Gauge(
            "postroad_operator_pods", "Ready transport pods, by whether they serve what is published.",
            ["tier", "current"], registry=r,
        )  # fmt: skip
        self.reviews = Counter(
            "postroad_operator_reviews",
            "Changes that the API server asked about, by kind and answer.",
            ["kind", "verdict"],
            registry=r,
        )
        self.review_seconds = Histogram(
            "postroad_operator_review_seconds", "Seconds a review took.", registry=r, buckets=_REVIEW
        )
        self.events = Counter(
            "postroad_operator_events", "Events, by whether they were posted.", ["outcome"], registry=r
        )
        self.leader = Gauge("postroad_operator_leader", "1 while this replica writes.", registry=r)
        self.watch_age = Gauge(
            "postroad_operator_watch_age_seconds", "Seconds since the watch showed the Lease.", registry=r
        )
        self.watch_complete = Gauge(
            "postroad_operator_watch_complete",
            "1 when the watches have shown all that the last list held; of the leader.",
            registry=r,
        )

    def count_verdicts(self, tier: str, verdicts: Iterable[Verdict]) -> None:
        """Show how many resources of each kind have which verdict."""
        tally = Tally((verdict.source.partition("/")[0], str(verdict.reason)) for verdict in verdicts)
        for labels in list(self._shown(tier)):
            if labels[1:] not in tally:
                self.objects.remove(*labels)
        for (kind, reason), count in tally.items():
            if kind in KINDS:
                self.objects.labels(tier, kind, reason).set(count)

    def _shown(self, tier: str) -> Iterable[tuple[str, str, str]]:
        for family in self.objects.collect():
            for sample in family.samples:
                if sample.labels["tier"] == tier:
                    yield tier, sample.labels["kind"], sample.labels["reason"]
