"""Adding up the workers' metrics."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from postroad_transport.telemetry.aggregate import add, exposed, only_growing, snapshot
from postroad_transport.telemetry.metrics import MAXIMUM_GAUGES, Metrics


def value(families: list[Metric], name: str, **labels: str) -> float:
    return sum(s.value for f in families for s in f.samples if s.name == name and s.labels == labels)


def worker(received: int, oldest: float, open_sessions: int) -> Metrics:
    metrics = Metrics(CollectorRegistry())
    metrics.messages_received.labels("mx").inc(received)
    metrics.queue_oldest_age.labels("dns:a.example").set(oldest)
    metrics.sessions_open.labels("mx").set(open_sessions)
    metrics.accept_seconds.labels("mx").observe(0.002)
    return metrics


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e6), st.integers(0, 5000)), min_size=1, max_size=4))
def test_counters_and_plain_gauges_add_up_and_the_oldest_age_is_the_largest(
    workers: list[tuple[int, float, int]],
) -> None:
    merged = exposed(add(snapshot(worker(*facts).registry) for facts in workers))
    assert value(merged, "postroad_messages_received_total", connector="mx") == sum(w[0] for w in workers)
    assert value(merged, "postroad_sessions_open", connector="mx") == sum(w[2] for w in workers)
    assert value(merged, "postroad_queue_oldest_age_seconds", destination="dns:a.example") == max(
        w[1] for w in workers
    )
    assert value(merged, "postroad_accept_seconds_count", connector="mx") == len(workers)
    assert value(merged, "postroad_accept_seconds_bucket", connector="mx", le="0.0025") == len(workers)


def test_what_an_ended_worker_counted_stays_but_its_gauges_go() -> None:
    ended = only_growing(snapshot(worker(7, 100.0, 3).registry))
    merged = exposed(add([ended, snapshot(worker(5, 1.0, 2).registry)]))
    assert value(merged, "postroad_messages_received_total", connector="mx") == 12
    assert value(merged, "postroad_sessions_open", connector="mx") == 2
    assert value(merged, "postroad_queue_oldest_age_seconds", destination="dns:a.example") == 1.0


def test_every_gauge_that_is_a_maximum_exists() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    assert {family.name for family in registry.collect()} >= MAXIMUM_GAUGES
