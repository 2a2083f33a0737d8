"""examples/autoscaling: what the autoscaler asks for, the adapter serves, and the pods expose."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from chart_kit import CHART, documents, rendered
from prometheus_client import CollectorRegistry

from postroad_transport.telemetry.metrics import Metrics

EXAMPLE = Path(__file__).parents[2] / "examples" / "autoscaling"


def rules() -> list[dict[str, Any]]:
    return list(yaml.safe_load((EXAMPLE / "prometheus-adapter.yaml").read_text())["rules"]["custom"])


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_serves_and_the_pods_expose() -> None:
    objects = documents(rendered("mail", "--values", str(EXAMPLE / "postroad.yaml")))
    spec = objects["HorizontalPodAutoscaler/pr-default"]["spec"]
    (asked,) = (metric["pods"]["metric"]["name"] for metric in spec["metrics"])
    assert spec["behavior"]["scaleDown"]["policies"]
    assert "PodMonitor/pr-default" in objects
    (rule,) = rules()
    series = re.fullmatch(r'(\w+)\{namespace!="",pod!=""\}', rule["seriesQuery"])
    assert series is not None
    registry = CollectorRegistry()
    Metrics(registry)
    assert series[1] == asked in {family.name for family in registry.collect() if family.type == "gauge"}
    # The adapter names a metric after its series unless told otherwise.
    assert "name" not in rule
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}


def test_the_charts_readme_has_the_same_rule() -> None:
    block = re.search(r"for prometheus-adapter.*?```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    assert block is not None
    assert yaml.safe_load(block[1])["rules"] == rules()
