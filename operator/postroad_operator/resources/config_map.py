"""ConfigMap: the ordinary Kubernetes document, as far as references read it."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from postroad_operator.resources.base import Resource


class ConfigMap(Resource):
    """A v1 ConfigMap."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["ConfigMap"] = "ConfigMap"
    data: dict[str, str] = {}
