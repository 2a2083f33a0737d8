"""The operator's own endpoints: healthy while the watch shows the Lease, and every metric documented."""

from __future__ import annotations

import time
from pathlib import Path

import aiohttp
import pytest

from postroad_operator.handlers.cluster import Cluster
from postroad_operator.handlers.health import endpoints
from postroad_operator.handlers.leader import Times
from postroad_operator.handlers.metrics import OperatorMetrics

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "operator.md"


async def ask(port: int, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        return response.status, await response.text()


@pytest.mark.parametrize(("silent", "status"), [(0.0, 200), (44.0, 200), (46.0, 503), (1e6, 503)])
async def test_health_fails_when_the_watch_shows_nothing_and_heals_with_it(silent: float, status: int) -> None:
    cluster, metrics = Cluster("mail", "lease"), OperatorMetrics()
    async with endpoints("127.0.0.1", 0, cluster, metrics, lambda: True, dead_after=Times().dead) as port:
        cluster.last_heard = time.monotonic() - silent
        for path in ("/healthz", "/readyz"):
            assert (await ask(port, path))[0] == status
        lines = (await ask(port, "/metrics"))[1].splitlines()
        (age,) = (line for line in lines if line.startswith("postroad_operator_watch_age_seconds "))
        assert float(age.split()[1]) == pytest.approx(silent, abs=5)
        assert "postroad_operator_leader 1.0" in lines
        cluster.last_heard = time.monotonic()
        assert (await ask(port, "/healthz"))[0] == 200


def test_every_metric_is_documented() -> None:
    text = DOCUMENTATION.read_text()
    for family in OperatorMetrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}" in text, name


@pytest.mark.parametrize("duration", [2.0, 12.0, 30.0])
def test_a_leader_stops_before_anyone_takes_over_and_long_before_the_watch_counts_as_dead(duration: float) -> None:
    times = Times(duration)
    assert times.retry * 2 < times.deadline < duration < times.dead
