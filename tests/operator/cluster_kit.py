"""The operator as a process, and transport processes that pose as pods; a thread plays their kubelets."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from control_plane import ApiError, Client, ControlPlane, free_port, wait_for

from postroad_transport.config.files import CONFIG_FILE, store

SOURCES = os.pathsep.join(str(Path(__file__).parents[2] / part) for part in ("operator", "transport"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": SOURCES}


def manifest(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "postroad.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def mx_connector(port: int, **changes: Any) -> dict[str, Any]:
    """Return the specification of the connector ``mx`` of a :func:`settled_tier`."""
    return {
        "usage": "Internet",
        "fqdn": "mail.example",
        "bindings": [{"port": port}],
        "authMechanisms": ["TLS"],
        "limits": {"tarpit": "0s"},
    } | changes


def condition(document: dict[str, Any] | None, name: str) -> dict[str, Any]:
    status = (document or {}).get("status") or {}
    return next((item for item in status.get("conditions", ()) if item["type"] == name), {})


def holds(document: dict[str, Any] | None, name: str) -> bool:
    """Tell whether a condition is true for the generation that the object has now."""
    found = condition(document, name)
    return bool(
        document
        and found.get("status") == "True"
        and found.get("observedGeneration") == document["metadata"]["generation"]
    )


@dataclass
class Operator:
    """One ``postroad operator`` process."""

    kubeconfig: Path
    namespace: str
    log: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Operator:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "postroad_operator.cli", "operator", "--namespace", self.namespace),
                    *("--address", "127.0.0.1", "--port", str(self.port), "--hostname", "hub1.mail.example"),
                    *("--lease-duration", "4"),
                    *self.options,
                ],
                env={**ENVIRONMENT, "KUBECONFIG": str(self.kubeconfig), **self.environment},
                stdout=log,
                stderr=log,
            )
        return self

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(20)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples, -1 when the process does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as response:
                lines = response.read().decode().splitlines()
        except OSError:
            return -1.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + " ", name + "{")))

    def health(self) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


class Clock:
    """A clock of its own, in `file`, for processes with this ``environment``; their monotonic clock goes on."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.put(0)

    def put(self, seconds: float) -> None:
        """Set by how many seconds it differs from the system's."""
        self._file.with_suffix(".new").write_text(f"{seconds:+.0f}\n")
        self._file.with_suffix(".new").rename(self._file)


class TransportPod:
    """A ``postroad transport`` process with a Pod object that stands for it."""

    def __init__(self, client: Client, namespace: str, number: int, directory: Path) -> None:
        self.client = client
        self.namespace = namespace
        self.name = f"postroad-default-{number}"
        self.address = f"127.0.0.{number + 2}"
        self.directory = directory / self.name
        self.config = self.directory / "config"
        self.config.mkdir(parents=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._seen: tuple[str, str] = ("", "")
        self.frozen = False

    def create(self) -> None:
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "labels": {"app.kubernetes.io/component": "transport", "postroad.dev/tier": "default"},
            },
            "spec": {
                "containers": [
                    {
                        "name": "transport",
                        "image": "postroad",
                        "ports": [{"name": "metrics", "containerPort": self.port}],
                    }
                ]
            },
        }
        self.client.request("POST", self.client.path("Pod", self.namespace), document)

    def set_ready(self, ready: bool) -> None:
        status = {
            "phase": "Running",
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        }
        path = self.client.path("Pod", self.namespace, self.name) + "/status"
        self.client.request("PATCH", path, {"status": status}, "application/strategic-merge-patch+json")

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "postroad_operator.cli", "transport", "--workers", "1"),
                    *("--config-dir", str(self.config), "--state-dir", str(self.directory / "state")),
                    *("--address", self.address, "--metrics-port", str(self.port), "--drain-timeout", "1"),
                ],
                env=ENVIRONMENT,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def configz(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://{self.address}:{self.port}/configz", timeout=5) as response:
                return dict(json.load(response))
        except OSError:
            return {}

    def mount(self) -> bool:
        """Do as the kubelet does: put the ConfigMap and the Secret where they are mounted. True when they exist."""
        if self.frozen:
            return True
        config = self.client.get("ConfigMap", "postroad-default", self.namespace)
        secret = self.client.get("Secret", "postroad-default", self.namespace)
        if config is None or secret is None:
            return False
        seen = config["metadata"]["resourceVersion"], secret["metadata"]["resourceVersion"]
        if seen != self._seen:
            files = {name: base64.b64decode(text) for name, text in (secret.get("data") or {}).items()}
            store(self.config, base64.b64decode(config["binaryData"][CONFIG_FILE]), files)
            self._seen = seen
        return True


class Cluster:
    """A namespace with an operator and three pods."""

    def __init__(self, plane: ControlPlane, namespace: str, directory: Path) -> None:
        self.plane, self.namespace, self.client, self.directory = plane, namespace, plane.client, directory
        self.operators: list[Operator] = []
        self.pods = [TransportPod(self.client, namespace, number, directory) for number in range(3)]
        self._stop = threading.Event()
        self._kubelet = threading.Thread(target=self._run_kubelet, daemon=True)

    def operator(self, *options: str, environment: dict[str, str] | None = None) -> Operator:
        log = self.directory / f"operator-{len(self.operators)}.log"
        operator = Operator(self.plane.kubeconfig, self.namespace, log, options, environment=environment or {})
        self.operators.append(operator.start())
        return operator

    def start_pods(self) -> None:
        for pod in self.pods:
            pod.create()
        for pod in self.pods:
            wait_for(pod.mount, what="a published configuration")
            pod.start()
        self._kubelet.start()
        for pod in self.pods:
            wait_for(pod.configz, what=f"{pod.name} to serve (see {pod.directory / 'log'})")
            pod.set_ready(True)

    def stop(self) -> None:
        self._stop.set()
        if self._kubelet.is_alive():
            self._kubelet.join()
        for operator in self.operators:
            operator.stop()
        for pod in self.pods:
            pod.stop()

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return dict(self.client.apply(manifest(kind, name, spec), self.namespace))

    def get(self, kind: str, name: str) -> Any:
        return self.client.get(kind, name, self.namespace)

    def wait_condition(self, kind: str, name: str, which: str, *, timeout: float = 30.0) -> dict[str, Any]:
        def check() -> Any:
            found = self.get(kind, name)
            return found if holds(found, which) else None

        try:
            return dict(wait_for(check, timeout=timeout, what=f"{kind}/{name} {which}"))
        except AssertionError as error:
            logs = "\n".join(operator.log.read_text()[-3000:] for operator in self.operators)
            raise AssertionError(f"{error}: {self.get(kind, name)}\n{logs}") from None

    def wait_settled(self) -> None:
        """Wait until every pod serves what is published and every good resource says so."""
        self.wait_condition("ReceiveConnector", "mx", "Programmed")

    def _run_kubelet(self) -> None:
        while not self._stop.is_set():
            for pod in self.pods:
                with contextlib.suppress(ApiError, OSError):
                    pod.mount()
            time.sleep(0.1)


def versions(cluster: Cluster) -> dict[str, str]:
    """Return the version of everything that the operator writes, but for its Lease."""
    kinds = ("ReceiveConnector", "AcceptedDomain", "TransportCertificate", "ConfigMap", "Secret", "Pod")
    return {
        f"{kind}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for kind in kinds
        for item in cluster.client.list(kind, cluster.namespace)
    }


@contextlib.contextmanager
def settled_tier(plane: ControlPlane, namespace: str, directory: Path, port: int, *options: str) -> Iterator[Cluster]:
    """Yield a tier of three pods in a namespace of its own: a CA certificate, a connector, a domain; all programmed.

    `port` is the connector's, `options` are the operator's.
    """
    plane.client.namespace(namespace)
    cluster = Cluster(plane, namespace, directory)
    cluster.apply("TransportCertificate", "mail", {"ca": {}, "dnsNames": ["mail.example"]})
    cluster.apply("ReceiveConnector", "mx", mx_connector(port))
    cluster.apply(
        "AcceptedDomain",
        "mail",
        {"domain": "mail.example", "deliver": {"maildir": {"path": "mail/{local}"}}, "default": True},
    )
    try:
        cluster.operator(*options)
        cluster.start_pods()
        cluster.wait_settled()
        yield cluster
    finally:
        cluster.stop()
