"""Start the real tier, as a user would, from manifests, and talk to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PASSWORD = "correct horse"
#: bcrypt of PASSWORD at the lowest cost, so that logins do not dominate the tests.
PASSWORD_HASH = "$2b$04$6tcdIZE7k749KmKiOBbvte9T9.5OZozpns/zfPBFWJb9XKjWlj.I."


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], *, timeout: float = 15.0, what: str = "condition") -> Any:
    """Poll until `condition` returns something true; return it."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out waiting for {what}")
        time.sleep(0.02)


def document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "postroad.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def secret(name: str, **values: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}


@dataclass
class Manifests:
    """A directory of manifests for one tier: submission, smtps and mx ports, one local domain."""

    directory: Path
    submission: int = field(default_factory=free_port)
    smtps: int = field(default_factory=free_port)
    mx: int = field(default_factory=free_port)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def at(cls, directory: Path) -> Manifests:
        """Return manifests that stand in `directory` already."""
        manifests = cls.__new__(cls)
        manifests.directory, manifests.documents = directory, {}
        return manifests

    def __post_init__(self) -> None:
        limits = {"tarpit": "0s", "connectionsPerSource": 2000}
        self.put("users", secret("users", htpasswd=f"alice@mail.example:{PASSWORD_HASH}\n"))
        self.put(
            "cert",
            document(
                "TransportCertificate",
                "mail",
                {"dnsNames": ["mail.example", "hub1.mail.example", "hub1", "localhost"], "ca": {}},
            ),
        )
        self.put(
            "submission",
            document(
                "ReceiveConnector",
                "submission",
                {
                    "usage": "Client",
                    "fqdn": "mail.example",
                    "bindings": [
                        {"port": self.submission, "tls": "STARTTLS"},
                        {"port": self.smtps, "tls": "Implicit"},
                    ],
                    "requireTLS": True,
                    "authentication": {"htpasswdSecretRef": {"name": "users", "key": "htpasswd"}},
                    "limits": limits,
                },
            ),
        )
        self.put(
            "mx",
            document(
                "ReceiveConnector",
                "mx",
                {
                    "usage": "Internet",
                    "fqdn": "mail.example",
                    "authMechanisms": ["TLS"],
                    "bindings": [{"port": self.mx}],
                    "limits": limits,
                },
            ),
        )
        self.put(
            "domain",
            document(
                "AcceptedDomain",
                "mail-example",
                {
                    "domain": "mail.example",
                    "default": True,
                    "type": "Authoritative",
                    "deliver": {"maildir": {"path": "maildir/{domain}/{local}"}},
                },
            ),
        )

    def put(self, name: str, body: dict[str, Any]) -> None:
        """Write (or overwrite) one manifest, in one rename as editors do."""
        self.documents[name] = body
        self.directory.mkdir(parents=True, exist_ok=True)
        target = self.directory / f"{name}.yaml"
        temporary = self.directory / f".{name}.tmp"
        temporary.write_text(yaml.safe_dump(body))
        temporary.replace(target)

    def smart_host(self, port: int, **spec: Any) -> None:
        """Send everything else to a host on loopback."""
        retry = {"schedule": ["1s"], "expiration": "10m"}
        self.put(
            "outbound",
            document(
                "SendConnector",
                "outbound",
                {
                    "addressSpaces": [{"domain": "*"}],
                    "smartHosts": [{"host": "127.0.0.1", "port": port}],
                    "retry": retry,
                    **spec,
                },
            ),
        )


class Tier:
    """A running `postroad run`."""

    def __init__(
        self,
        manifests: Manifests,
        state_dir: Path,
        *,
        workers: int = 2,
        hostname: str = "hub1.mail.example",
        role: str = "hub",
    ):
        self.manifests = manifests
        self.state_dir = state_dir
        self.workers = workers
        self.hostname = hostname
        self.role = role
        self.process: subprocess.Popen[bytes] | None = None
        self.output = state_dir.parent / "tier.out"
        self.run: dict[str, Any] = {}

    def start(self) -> Tier:
        """Start, and wait until it serves."""
        (self.state_dir / "run.json").unlink(missing_ok=True)
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "postroad_operator.cli",
                    "run",
                    str(self.manifests.directory),
                    "--state-dir",
                    str(self.state_dir),
                    "--workers",
                    str(self.workers),
                    "--metrics-port",
                    "0",
                    "--hostname",
                    self.hostname,
                    "--role",
                    self.role,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,
            )
        self.run = wait_for(self._read_run, timeout=30, what=f"run.json ({self.output})")
        return self

    def _read_run(self) -> dict[str, Any] | None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the tier ended with {self.process.returncode}:\n{self.output.read_text()}")
        with contextlib.suppress(OSError, ValueError):
            run: dict[str, Any] = json.loads((self.state_dir / "run.json").read_text())
            if run["pid"] == self.process.pid:
                return run
        return None

    def pids(self) -> list[int]:
        """Return the supervisor's and its workers' process ids."""
        assert self.process is not None
        tree, frontier = [self.process.pid], [self.process.pid]
        while frontier:
            pid = frontier.pop()
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found = [int(child) for child in children.read_text().split()]
                    tree += found
                    frontier += found
        return tree

    def kill(self) -> None:
        """kill -9 everything at once."""
        assert self.process is not None
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Stop as an operator would; return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=45)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return self.process.returncode

    def tls_context(self) -> ssl.SSLContext:
        """Trust the tier's CA and nothing else."""
        return ssl.create_default_context(cafile=self.run["ca"])

    @contextlib.contextmanager
    def submit(self, user: str = "alice@mail.example", password: str = PASSWORD) -> Iterator[smtplib.SMTP]:
        """Open an authenticated submission session, certificate checked."""
        with smtplib.SMTP("127.0.0.1", self.manifests.submission, timeout=30) as client:
            client._host = "mail.example"
            client.starttls(context=self.tls_context())
            client.login(user, password)
            yield client

    def http(self, path: str) -> str:
        """GET one of the read-only endpoints."""
        with urllib.request.urlopen(f"http://{self.run['metrics']}{path}", timeout=10) as response:
            return str(response.read().decode())

    def is_ready(self) -> bool:
        """Tell whether all that is configured is served."""
        try:
            return self.http("/readyz") == "ok\n"
        except urllib.error.HTTPError:
            return False

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of `name` that have these labels."""
        from prometheus_client.parser import text_string_to_metric_families

        return sum(
            sample.value
            for family in text_string_to_metric_families(self.http("/metrics"))
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `postroad` command."""
        return subprocess.run(
            [sys.executable, "-m", "postroad_operator.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def events(self) -> list[dict[str, Any]]:
        """Return the event log so far."""
        lines = (self.state_dir / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def mailbox(self, local: str = "alice", domain: str = "mail.example") -> list[bytes]:
        """Return the new messages in a Maildir."""
        folder = self.state_dir / "maildir" / domain / local / "new"
        return [path.read_bytes() for path in sorted(folder.glob("*"))] if folder.is_dir() else []
