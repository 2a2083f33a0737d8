"""How the operator finds the API server, and that it waits for one that is away."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import aiohttp
import kopf
import pytest

from postroad_operator.compile import TierSettings
from postroad_operator.handlers.service import OperatorSettings, log_in, operate
from postroad_operator.publish import ApiError, KubernetesApi

IN_POD = kopf.ConnectionInfo(server="https://kubernetes.default.svc", token="t")


@pytest.mark.parametrize(
    ("environment", "server"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}, "https://10.96.0.1:443"),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://[fd00::1]:6443"),
        ({}, IN_POD.server),
    ],
)
def test_a_pod_dials_the_address_that_the_kubelet_gives(
    environment: dict[str, str], server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: IN_POD)
    connection = log_in(environment)
    assert (connection.server, connection.token) == (server, "t")


def kubeconfig(path: Path, server: str) -> None:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))


def test_outside_of_a_pod_the_kubeconfig_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeconfig(tmp_path / "config", "https://cluster.example:6443")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    environment = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert log_in(environment).server == "https://cluster.example:6443"


async def test_an_api_server_that_says_nothing_is_told_by_the_name_of_the_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def request(*_arguments: object, **_options: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(aiohttp.ClientSession, "request", request)
    api = KubernetesApi(kopf.ConnectionInfo(server="http://127.0.0.1:1"))
    with pytest.raises(ApiError, match="TimeoutError"):
        await api.get("Deployment", "mail", "postroad")
    await api.close()


async def test_the_operator_waits_for_an_api_server_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Nobody listens on port 1.
    kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    caplog.set_level(logging.WARNING)
    owned = OperatorSettings(
        TierSettings(namespace="mail"), owner=("Deployment", "postroad"), address="127.0.0.1", port=0
    )
    running = asyncio.create_task(operate(owned))
    async with asyncio.timeout(20):
        while "waiting:" not in caplog.text and not running.done():
            await asyncio.sleep(0.02)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
