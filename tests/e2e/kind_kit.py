"""What the tests on a kind cluster share: the cluster, and kubectl in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import pytest

CONTEXT = os.environ.get("POSTROAD_KIND_CONTEXT", "")
NAMESPACE = "mail"
SELECTOR = "app.kubernetes.io/component=transport"

needs_kind = pytest.mark.skipif(
    not CONTEXT or shutil.which("kubectl") is None,
    reason="NO KIND CLUSTER: make e2e makes one, where there is Docker; without it nothing runs under a kubelet",
)


def kubectl(*arguments: str, check: bool = True, stdin: str | None = None, namespace: str = NAMESPACE) -> str:
    done = subprocess.run(
        ["kubectl", "--context", CONTEXT, "--namespace", namespace, *arguments],
        capture_output=True,
        text=True,
        timeout=420,
        input=stdin,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def pods(selector: str = SELECTOR) -> list[dict[str, Any]]:
    return list(json.loads(kubectl("get", "pods", "--selector", selector, "--output", "json"))["items"])
