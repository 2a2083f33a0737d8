"""docs/metrics.md names every metric, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from postroad_transport.telemetry.metrics import Metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
SUPERVISOR = {
    "postroad_worker_up",
    "postroad_worker_restarts_total",
    "postroad_config_last_reload_success",
    "postroad_bans_active",
}


def test_the_metrics_page_lists_exactly_the_metrics_there_are() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    exposed = {
        family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()
    } | SUPERVISOR
    documented = set(re.findall(r"^\| `(postroad_\w+)`", DOCUMENT.read_text(), re.MULTILINE))
    assert documented == exposed
