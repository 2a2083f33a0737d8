"""docs/operator.md and the code name the same metrics."""

from __future__ import annotations

import re
from pathlib import Path

from postroad_operator.handlers.metrics import OperatorMetrics

PAGE = Path(__file__).parents[2] / "docs" / "operator.md"


def test_every_operator_metric_is_documented_and_no_other() -> None:
    families = OperatorMetrics().registry.collect()
    ours = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert set(re.findall(r"`(postroad_operator_\w+)", PAGE.read_text())) == ours
