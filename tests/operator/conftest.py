"""Fixtures of the operator's tests: a real API server where there is one, and namespaces on it."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_kit import Clock
from control_plane import ControlPlane, missing

FAKETIME = [
    Path(f"/usr/lib/{name}/faketime/libfaketimeMT.so.1") for name in ("x86_64-linux-gnu", "aarch64-linux-gnu")
]
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd and kube-apiserver with our CRDs. The tests that need them are skipped where they are not installed."""
    if absent := missing():
        pytest.skip(
            f"NO KUBERNETES API SERVER: {', '.join(absent)} not found in $KUBEBUILDER_ASSETS, in"
            " /usr/local/kubebuilder/bin or on the PATH; what only a real one can show is not shown by this run"
        )
    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"))
    try:
        plane.start()
        plane.install_crds()
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """A clock that can be moved, for operators."""
    found = [path for path in FAKETIME if path.exists()]
    if not found or shutil.which("faketime") is None:
        pytest.skip("NO FAKETIME: install Debian's faketime; what a clock that jumps does is not shown by this run")
    return Clock(found[0], tmp_path / "clock")


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """A namespace of the test's own. Nothing collects namespaces here; all go with etcd."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    control_plane.client.namespace(name)
    return name
