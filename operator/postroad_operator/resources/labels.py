"""Labels and annotations that the operator, the chart and the pods agree on."""

from __future__ import annotations

from postroad_operator.resources.base import GROUP

MANAGED_BY = {"app.kubernetes.io/managed-by": "postroad"}
COMPONENT = "app.kubernetes.io/component"
TRANSPORT = "transport"
TIER = f"{GROUP}/tier"
CONFIG_HASH = f"{GROUP}/config-hash"
#: How many resources the published configuration holds.
RESOURCES = f"{GROUP}/resources"
METRICS_PORT = f"{GROUP}/metrics-port"
METRICS_PORT_NAME = "metrics"
