"""cert-manager as far as its Certificate goes: the definition on the API server, and a thread that issues."""

from __future__ import annotations

import base64
import contextlib
import threading
from datetime import UTC, datetime
from typing import Any

from control_plane import ApiError, ControlPlane, wait_for
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from postroad_operator.certificates import CertificateRequest, KeySource, create_authority, issue

#: The fields of cert-manager's own definition (v1) that are used, closed as those of the real one are.
_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_SUBJECT = ("countries", "provinces", "localities", "organizations", "organizationalUnits")
_SPEC: dict[str, Any] = {
    "type": "object",
    "required": ["issuerRef", "secretName"],
    "properties": {
        "secretName": _TEXT,
        "dnsNames": _TEXTS,
        "commonName": _TEXT,
        "literalSubject": _TEXT,
        "subject": {"type": "object", "properties": dict.fromkeys(_SUBJECT, _TEXTS)},
        "usages": {"type": "array", "items": {"type": "string", "enum": [
            "digital signature", "key encipherment", "server auth", "client auth",
        ]}},
        "duration": _TEXT,
        "renewBefore": _TEXT,
        "issuerRef": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": _TEXT, "kind": _TEXT, "group": _TEXT},
        },
        "privateKey": {
            "type": "object",
            "properties": {
                "algorithm": {"type": "string", "enum": ["RSA", "ECDSA", "Ed25519"]},
                "encoding": {"type": "string", "enum": ["PKCS1", "PKCS8"]},
                "rotationPolicy": {"type": "string", "enum": ["Never", "Always"]},
                "size": {"type": "integer"},
            },
        },
    },
}  # fmt: skip
_CONDITION: dict[str, Any] = {
    "type": "object",
    "required": ["status", "type"],
    "properties": dict.fromkeys(("type", "status", "reason", "message"), _TEXT)
    | {
        "observedGeneration": {"type": "integer", "format": "int64"},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
    },
}
DEFINITION: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "certificates.cert-manager.io"},
    "spec": {
        "group": "cert-manager.io",
        "names": {"kind": "Certificate", "listKind": "CertificateList", "plural": "certificates"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": _SPEC,
                            "status": {
                                "type": "object",
                                "properties": {"conditions": {"type": "array", "items": _CONDITION}},
                            },
                        },
                    }
                },
            }
        ],
    },
}
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class CertManager:
    """Issues for the Certificates of one namespace while ``working``; ``words`` is what it says until then."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.client, self.namespace = plane.client, namespace
        self.working = threading.Event()
        self.words = 'Waiting on certificate issuance from order post/mail-1: "pending"'
        self.authority = create_authority("Issuer of the cluster", datetime.now(UTC).timestamp())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._issued: dict[str, int] = {}

    def install(self) -> None:
        self.client.request("POST", _CRDS, DEFINITION)
        wait_for(self._served, what="the Certificate kind")
        self._thread.start()

    def uninstall(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(ApiError):
            self.client.request("DELETE", f"{_CRDS}/certificates.cert-manager.io")

    def path(self, name: str = "") -> str:
        return f"/apis/cert-manager.io/v1/namespaces/{self.namespace}/certificates" + (f"/{name}" if name else "")

    def get(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(self.client.request("GET", self.path(name)))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def renew(self, name: str) -> None:
        """Issue once more, as when renewBefore has come."""
        self._issued.pop(name, None)

    def _served(self) -> bool:
        try:
            self.client.request("GET", self.path())
        except ApiError:
            return False
        return True

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            with contextlib.suppress(ApiError, OSError):
                for item in self.client.request("GET", self.path())["items"]:
                    self._look(item)

    def _look(self, item: dict[str, Any]) -> None:
        name, generation = item["metadata"]["name"], item["metadata"]["generation"]
        if not self.working.is_set():
            self._say(name, generation, "False", self.words)
        elif self._issued.get(name) != generation:
            self._fill(item["spec"])
            self._issued[name] = generation
            self._say(name, generation, "True", "Certificate is up to date and has not expired")

    def _fill(self, spec: dict[str, Any]) -> None:
        wanted = CertificateRequest("x", "x", tuple(spec["dnsNames"]), KeySource.CA)
        made = issue(self.authority, wanted, datetime.now(UTC).timestamp())
        values = {"tls.crt": made.chain_pem, "tls.key": made.key_pem, "ca.crt": self.authority.trust_pem}
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": spec["secretName"]},
            "type": "kubernetes.io/tls",
            "data": {key: base64.b64encode(value).decode() for key, value in values.items()},
        }
        self.client.apply(secret, self.namespace)

    def _say(self, name: str, generation: int, status: str, message: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {
            "type": "Ready",
            "status": status,
            "reason": "Ready" if status == "True" else "Issuing",
            "message": message,
            "observedGeneration": generation,
            "lastTransitionTime": now,
        }
        self.client.request(
            "PATCH",
            self.path(name) + "/status",
            {"status": {"conditions": [ready]}},
            "application/merge-patch+json",
        )


class CorporateAuthority:
    """Signs PKCS #10 as an authority outside the cluster does."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Corporate CA")])

    def sign(self, pkcs10: str) -> str:
        asked = x509.load_pem_x509_csr(pkcs10.encode())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(asked.subject)
            .issuer_name(self._name)
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now.replace(microsecond=0))
            .not_valid_after(now.replace(year=now.year + 1, day=1))
        )
        for extension in asked.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
