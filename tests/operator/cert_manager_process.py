"""cert-manager itself: its controller as a process on the tests' API server, with its CRDs, without its webhook."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from control_plane import ApiError, ControlPlane, binary, wait_for

CONTROLLER = "cert-manager-controller"
#: A directory beside the controller: deploy/crds/cert-manager.io_*.yaml of cert-manager's repository.
DEFINITIONS = "cert-manager-crds"
#: What issues for a Certificate. The others watch kinds that are not used here.
_CONTROLLERS = (
    "issuers",
    "clusterissuers",
    "certificates-issuing",
    "certificates-key-manager",
    "certificates-metrics",
    "certificates-readiness",
    "certificates-request-manager",
    "certificates-revision-manager",
    "certificates-trigger",
    "certificaterequests-approver",
    "certificaterequests-issuer-ca",
    "certificaterequests-issuer-selfsigned",
)


def definitions() -> Path | None:
    """Return cert-manager's CRDs, None where they or its controller are not installed."""
    controller = binary(CONTROLLER)
    if controller is None:
        return None
    path = controller.parent / DEFINITIONS
    return path if path.is_dir() else None


class CertManagerProcess:
    """``namespace`` is where it keeps its locks and looks for the Secrets of ClusterIssuers."""

    def __init__(self, plane: ControlPlane, namespace: str, directory: Path) -> None:
        self.plane, self.namespace = plane, namespace
        self.log = directory / "cert-manager.log"
        self._process: subprocess.Popen[bytes] | None = None

    def install(self) -> None:
        """Install the CRDs and start the controller."""
        crds, controller = definitions(), binary(CONTROLLER)
        assert crds is not None
        assert controller is not None
        self.plane.kubectl("apply", "--server-side", "-f", str(crds))
        self.plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(crds))
        shutil.rmtree(self.plane.directory / "cache", ignore_errors=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(controller, f"--kubeconfig={self.plane.kubeconfig}"),
                    *(f"--cluster-resource-namespace={self.namespace}", "--leader-elect=false"),
                    *(f"--controllers={','.join(_CONTROLLERS)}", "--kube-api-qps=200", "--kube-api-burst=200"),
                    *("--metrics-listen-address=127.0.0.1:0", "--internal-healthz-listen-address=127.0.0.1:0"),
                ],
                stdout=log,
                stderr=log,
            )

    def uninstall(self) -> None:
        """Stop the controller; its CRDs go with all that was made of them, as on ``helm uninstall``."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if (crds := definitions()) is not None:
            self.plane.kubectl("delete", "--ignore-not-found", "-f", str(crds))

    def create(self, document: dict[str, Any]) -> None:
        """Apply an object of cert-manager."""
        self.plane.kubectl("apply", "--server-side", "-n", self.namespace, "-f", "-", stdin=json.dumps(document))

    def certificate(self, name: str) -> dict[str, Any] | None:
        """Return a Certificate."""
        try:
            return dict(self.plane.client.request("GET", self._path(name)))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def renew(self, name: str) -> None:
        """Do as ``cmctl renew``: say that it is to be issued once more."""

        def say() -> bool:
            document = self.certificate(name)
            assert document is not None
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            issuing = {
                "type": "Issuing",
                "status": "True",
                "reason": "ManuallyTriggered",
                "message": "Certificate re-issuance manually triggered",
                "observedGeneration": document["metadata"]["generation"],
                "lastTransitionTime": now,
            }
            conditions = [item for item in document["status"]["conditions"] if item["type"] != "Issuing"]
            document["status"]["conditions"] = [*conditions, issuing]
            with contextlib.suppress(ApiError):  # somebody else's write came between
                self.plane.client.request("PUT", self._path(name) + "/status", document)
                return True
            return False

        wait_for(say, what=f"the Issuing condition of {name}")

    def _path(self, name: str) -> str:
        return f"/apis/cert-manager.io/v1/namespaces/{self.namespace}/certificates/{name}"
