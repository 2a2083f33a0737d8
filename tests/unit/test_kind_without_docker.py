"""``make kind`` where something is missing says so, and does nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "kind"
#: What sysexits(3) calls a service that is unavailable.
UNAVAILABLE = 69
TOOLS = ("docker", "kind", "kubectl", "helm")


def run(tools: Path, command: str = "up") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(SCRIPT), command],
        cwd=ROOT,
        env={"PATH": str(tools), "LOG": str(tools / "log")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def program(tools: Path, name: str, body: str = "exit 0") -> None:
    path = tools / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >>"$LOG"\n{body}\n')
    path.chmod(0o755)


@pytest.mark.parametrize("absent", [TOOLS, ("kind",), ("kubectl", "helm")])
def test_missing_tools_are_named_all_at_once(tmp_path: Path, absent: tuple[str, ...]) -> None:
    for name in TOOLS:
        if name not in absent:
            program(tmp_path, name)
    done = run(tmp_path)
    assert done.returncode == UNAVAILABLE
    assert f"Not on this machine: {' '.join(absent)}." in done.stderr
    assert not (tmp_path / "log").exists()


def test_a_docker_without_a_daemon_is_said_so(tmp_path: Path) -> None:
    for name in TOOLS:
        program(tmp_path, name, "exit 1" if name == "docker" else "exit 0")
    done = run(tmp_path)
    assert done.returncode == UNAVAILABLE
    assert "its daemon does not answer" in done.stderr
    assert (tmp_path / "log").read_text() == "docker info\n"


def test_a_cluster_that_cannot_be_made_points_at_the_ports(tmp_path: Path) -> None:
    for name in TOOLS:
        program(tmp_path, name, '[ "$1 $2" != "create cluster" ]' if name == "kind" else "exit 0")
    os.symlink("/bin/grep", tmp_path / "grep")
    done = run(tmp_path)
    assert done.returncode == UNAVAILABLE
    assert "ports 25, 465 and 587" in done.stderr


def test_from_nothing_to_a_message_in_this_order(tmp_path: Path) -> None:
    for name in TOOLS:
        program(tmp_path, name)
    os.symlink("/bin/grep", tmp_path / "grep")
    work = tmp_path / "work"
    (work / ".venv" / "bin").mkdir(parents=True)
    program(work / ".venv" / "bin", "postroad")
    done = subprocess.run(
        ["/bin/sh", str(SCRIPT), "up"],
        cwd=work,
        env={"PATH": str(tmp_path), "LOG": str(tmp_path / "log")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = [" ".join(line.split()[:2]) for line in (tmp_path / "log").read_text().splitlines()]
    assert steps[:6] == ["docker info", "kind get", "kind create", "docker build", "kind load", "helm upgrade"]
    assert steps[-3:] == ["helm test", "postroad probe", "kubectl --context"]


def test_the_clusters_ports_are_the_node_ports_of_its_values() -> None:
    (node,) = yaml.safe_load((ROOT / "kind-config.yaml").read_text())["nodes"]
    values = yaml.safe_load((ROOT / "charts/postroad/ci/kind-values.yaml").read_text())
    mapped = {port["hostPort"]: port["containerPort"] for port in node["extraPortMappings"]}
    assert mapped == {port["port"]: port["nodePort"] for port in values["transport"]["ports"]}
    assert set(mapped) == {25, 465, 587}
