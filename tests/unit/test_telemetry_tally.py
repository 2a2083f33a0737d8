"""Plain counters read as prometheus_client's own do; steps and other events keep their order."""

from __future__ import annotations

import json
import os

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from postroad_transport.telemetry.aggregate import exposed, snapshot
from postroad_transport.telemetry.events import EventLog, Routed
from postroad_transport.telemetry.tally import TallyCounter, TallyHistogram

_NAMES = st.sampled_from(["a", "b", 'odd "name"\\'])
_BOUNDS = (0.001, 0.5, 1, 30)


def _text(registry: CollectorRegistry) -> str:
    shown = CollectorRegistry()
    shown.collect = lambda: exposed(snapshot(registry))  # type: ignore[method-assign]  # what is to be shown
    return generate_latest(shown).decode()


@given(st.lists(st.tuples(_NAMES, st.integers(0, 10**12))))
def test_a_tally_is_scraped_as_a_counter_is(counted):
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    counter = Counter("postroad_things", "Things.", ["connector"], registry=theirs)
    tally = TallyCounter("postroad_things", "Things.", ["connector"], registry=ours)
    for name, amount in counted:
        counter.labels(name).inc(amount)
        tally.labels(name).inc(amount)
    assert _text(ours) == _text(theirs)


@given(st.lists(st.tuples(_NAMES, st.sampled_from([0.0, *_BOUNDS]) | st.floats(0, 100))))
def test_a_distribution_is_scraped_as_a_histogram_is(observed):
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("postroad_seconds", "Seconds.", ["connector"], buckets=_BOUNDS, registry=theirs)
    distribution = TallyHistogram("postroad_seconds", "Seconds.", ["connector"], buckets=_BOUNDS, registry=ours)
    for name, value in observed:
        histogram.labels(name).observe(value)
        distribution.labels(name).observe(value)
    assert _text(ours) == _text(theirs)


def test_steps_and_events_are_written_in_their_order_and_what_is_not_known_is_left_out(tmp_path):
    file = tmp_path / "events"
    log = EventLog(os.open(file, os.O_WRONLY | os.O_CREAT), worker=1, clock=lambda: 12.5)
    log.emit("worker.started", reason=None)
    log.step(Routed(id="m", recipients=["a@b.example"], connector="out", destination="b.example"))
    log.emit("worker.drained", sessions=0)
    assert file.read_bytes() == b""
    log.flush()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"ts": 12.5, "event": "worker.started", "worker": 1},
        {
            "event": "ROUTE",
            "ts": 12.5,
            "worker": 1,
            "id": "m",
            "recipients": ["a@b.example"],
            "connector": "out",
            "destination": "b.example",
        },
        {"ts": 12.5, "event": "worker.drained", "worker": 1, "sessions": 0},
    ]
