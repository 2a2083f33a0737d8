"""A real Kubernetes API server and its etcd, on loopback: no kubelet, no controllers, as in envtest."""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Where controller-runtime's envtest looks when KUBEBUILDER_ASSETS is not set.
DEFAULT_ASSETS = "/usr/local/kubebuilder/bin"
CRDS = Path(__file__).parents[2] / "crds"
GROUP = "postroad.dev/v1alpha1"


def binary(name: str) -> Path | None:
    """Return the program where envtest would find it, or from the PATH."""
    path = Path(os.environ.get("KUBEBUILDER_ASSETS") or DEFAULT_ASSETS) / name
    if path.is_file() and os.access(path, os.X_OK):
        return path
    found = shutil.which(name)
    return Path(found) if found else None


def missing() -> list[str]:
    """Return the programs without which there is no API server."""
    return [name for name in ("etcd", "kube-apiserver", "kubectl") if binary(name) is None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], *, timeout: float = 30.0, what: str = "condition") -> Any:
    """Poll until `condition` returns something true; return it."""
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out waiting for {what}")
        time.sleep(0.05)


def refusals(log: Path) -> list[str]:
    """Return the lines of a log that tell of a request which the API server refused for want of a right."""
    # Not a time of day, a port or a name with these digits in it.
    return [
        line for line in log.read_text().splitlines() if re.search(r"(?<![\w,.:-])403(?![\w-])|[Ff]orbidden", line)
    ]


class Authority:
    """A CA and what it issues, as files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
        certificate = self._builder(self.name, self.key).add_extension(x509.BasicConstraints(True, None), True)
        self.path = directory / "ca.crt"
        self.path.write_bytes(certificate.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, organization: str = "") -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if organization:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            self._builder(x509.Name(attributes), key)
            .add_extension(x509.SubjectAlternativeName(names), False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False
            )
        )
        stem = name.replace(":", "-")
        chain, secret = self.directory / f"{stem}.crt", self.directory / f"{stem}.key"
        chain.write_bytes(certificate.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(_pem(key))
        return chain, secret

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
        )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class ApiError(Exception):
    def __init__(self, code: int, body: dict[str, Any]) -> None:
        super().__init__(f"{code}: {body.get('message', body)}")
        self.code = code
        self.message = str(body.get("message", ""))


@dataclass
class Client:
    """The few requests that tests make, as one identity."""

    server: str
    context: ssl.SSLContext

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type, "Accept": accept}
        request = urllib.request.Request(self.server + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self.context) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read()
            try:
                raise ApiError(error.code, json.loads(text)) from None
            except ValueError:
                raise ApiError(error.code, {"message": text.decode(errors="replace")}) from None

    def path(self, kind: str, namespace: str, name: str = "") -> str:
        plural = kind.lower() + "s"
        core = kind in ("Secret", "ConfigMap", "Pod", "Event", "Service")
        group = "api/v1" if core else "apis/coordination.k8s.io/v1" if kind == "Lease" else f"apis/{GROUP}"
        return f"/{group}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")

    def apply(self, document: dict[str, Any], namespace: str = "default", *, dry_run: bool = False) -> Any:
        """Server-side apply, with strict validation of fields."""
        query = "?fieldManager=tests&force=true&fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        path = self.path(document["kind"], namespace, document["metadata"]["name"])
        return self.request("PATCH", path + query, document, "application/apply-patch+yaml")

    def get(self, kind: str, name: str, namespace: str = "default") -> Any:
        try:
            return self.request("GET", self.path(kind, namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def list(self, kind: str, namespace: str = "default") -> list[dict[str, Any]]:
        return list(self.request("GET", self.path(kind, namespace))["items"])

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        with contextlib.suppress(ApiError):
            self.request("DELETE", self.path(kind, namespace, name) + "?gracePeriodSeconds=0")

    def namespace(self, name: str) -> None:
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})


class ControlPlane:
    """etcd and kube-apiserver as processes; ``kubeconfig`` is that of an administrator."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        authority = Authority(directory)
        self.authority = authority
        self._server = authority.issue("kube-apiserver")
        self._admin = authority.issue("admin", organization="system:masters")
        signing = ec.generate_private_key(ec.SECP256R1())
        (directory / "accounts.key").write_bytes(_pem(signing))
        (directory / "accounts.pub").write_bytes(
            signing.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        self._etcd_port, self._peer_port, self.port = free_port(), free_port(), free_port()
        self.kubeconfig = self._write_kubeconfig("admin", self._admin)
        context = ssl.create_default_context(cafile=str(authority.path))
        context.load_cert_chain(*map(str, self._admin))
        self.client = Client(f"https://127.0.0.1:{self.port}", context)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> ControlPlane:
        self._spawn(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{self._peer_port}",
            f"--initial-cluster=default=http://127.0.0.1:{self._peer_port}",
            "--unsafe-no-fsync",
        )
        self.start_server()
        return self

    def start_server(self) -> None:
        """Start the API server and wait until it is ready."""
        chain, key = self._server
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={chain}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.path}",
            f"--service-account-key-file={self.directory / 'accounts.pub'}",
            f"--service-account-signing-key-file={self.directory / 'accounts.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--allow-privileged=true",
            "--profiling=false",
        )
        wait_for(self._ready, timeout=90, what=f"the API server (see {self.directory / 'kube-apiserver.log'})")

    def stop_server(self) -> None:
        self._end("kube-apiserver")

    @contextlib.contextmanager
    def frozen_server(self) -> Iterator[None]:
        """Stop the API server in its tracks: connections stay, nothing is answered."""
        process = self._processes["kube-apiserver"]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)
            wait_for(self._ready, timeout=60, what="the API server to go on")

    def stop(self) -> None:
        for name in reversed(list(self._processes)):
            self._end(name)

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        program = binary("kubectl")
        assert program is not None
        done = subprocess.run(
            [program, f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.directory / 'cache'}", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            input=stdin,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout + done.stderr

    def install_crds(self) -> None:
        self.kubectl("apply", "--server-side", "--validate=strict", "-f", str(CRDS))
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(CRDS))
        # Discovery follows a moment later, and kubectl keeps what it was told before.
        wait_for(self._discovered, what="discovery of our kinds")
        shutil.rmtree(self.directory / "cache", ignore_errors=True)

    def _discovered(self) -> bool:
        try:
            groups = self.client.request(
                "GET", "/apis", accept="application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            )
        except ApiError:
            return False
        kinds = [
            resource["responseKind"]["kind"]
            for group in groups["items"]
            if group["metadata"]["name"] == "postroad.dev"
            for version in group["versions"]
            for resource in version["resources"]
        ]
        return len(kinds) == len(list(CRDS.glob("*.yaml")))

    def user_kubeconfig(self, name: str) -> Path:
        """Return the kubeconfig of a user with no rights but those that roles give it."""
        return self._write_kubeconfig(name, self.authority.issue(name))

    def _ready(self) -> bool:
        process = self._processes["kube-apiserver"]
        if process.poll() is not None:
            raise AssertionError((self.directory / "kube-apiserver.log").read_text()[-2000:])
        try:
            request = urllib.request.Request(f"{self.client.server}/readyz")
            with urllib.request.urlopen(request, timeout=5, context=self.client.context) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _spawn(self, name: str, *arguments: str) -> None:
        program = binary(name)
        assert program is not None
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen([program, *arguments], stdout=log, stderr=log)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _write_kubeconfig(self, name: str, pair: tuple[Path, Path]) -> Path:
        encode = lambda path: base64.b64encode(path.read_bytes()).decode()  # noqa: E731 (one line, used three times)
        # A colon would separate two files in $KUBECONFIG.
        path = self.directory / f"{name.replace(':', '-')}.kubeconfig"
        cluster = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority-data": encode(self.authority.path),
        }
        user = {"client-certificate-data": encode(pair[0]), "client-key-data": encode(pair[1])}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": name, "user": user}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
                    "current-context": "test",
                }
            )
        )
        path.chmod(0o600)
        return path
