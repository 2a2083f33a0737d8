"""The few requests that the operator makes, over the credentials that kopf found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp

from postroad_operator.publish.objects import FIELD_MANAGER
from postroad_operator.resources import API_VERSION, KINDS

if TYPE_CHECKING:
    import kopf

#: Seconds until a request that gets no answer counts as failed.
TIMEOUT = 15.0
_APPLY = "application/apply-patch+yaml"
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PLURALS = {kind: (API_VERSION, f"{kind.lower()}s") for kind in KINDS} | {
    "ConfigMap": ("v1", "configmaps"),
    "Secret": ("v1", "secrets"),
    "Pod": ("v1", "pods"),
    "Service": ("v1", "services"),
    "Certificate": ("cert-manager.io/v1", "certificates"),
    "CertificateRequest": ("cert-manager.io/v1", "certificaterequests"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    "Deployment": ("apps/v1", "deployments"),
    "Event": ("events.k8s.io/v1", "events"),
    "ValidatingWebhookConfiguration": ("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "CustomResourceDefinition": ("apiextensions.k8s.io/v1", "customresourcedefinitions"),
}


class ApiError(Exception):
    """The API server refused, or did not answer (``code`` 0). The message holds no content of any object."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Identity(NamedTuple):
    """Which object a list named: enough to tell what is gone."""

    namespace: str
    name: str
    uid: str


class KubernetesApi:
    """Requests to the API server. Close it after use."""

    def __init__(self, connection: kopf.ConnectionInfo) -> None:
        self._server = connection.server.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=connection.as_ssl_context(), limit=16),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            trust_env=connection.trust_env,
        )
        self._connection = connection

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    def renew(self, connection: kopf.ConnectionInfo) -> None:
        """Use the newer credentials of the same server: a pod's token is replaced every hour."""
        self._connection = connection

    async def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Return an object, None if there is none; namespace None: the kind has none. Raises ApiError."""
        try:
            return await self._request("GET", _path(kind, namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def documents(self, kind: str, namespace: str | None) -> list[dict[str, Any]]:
        """List objects whole; all namespaces for None. Raises ApiError."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            query = {"limit": "500"} | ({"continue": token} if token else {})
            answer = await self._request("GET", _path(kind, namespace), query)
            found += answer.get("items") or ()
            token = answer.get("metadata", {}).get("continue", "")
            if not token:
                return found

    async def identities(self, kind: str, namespace: str | None) -> set[Identity]:
        """List what exists, names only; all namespaces for None. Raises ApiError."""
        found: set[Identity] = set()
        token = ""
        while True:
            query = {"limit": "2000"} | ({"continue": token} if token else {})
            answer = await self._request("GET", _path(kind, namespace), query, headers={"Accept": _METADATA_ONLY})
            for item in answer.get("items") or ():
                metadata = item["metadata"]
                found.add(Identity(metadata.get("namespace", ""), metadata["name"], metadata["uid"]))
            token = answer.get("metadata", {}).get("continue", "")
            if not token:
                return found

    async def apply(
        self, document: dict[str, Any], *, subresource: str = "", manager: str = FIELD_MANAGER
    ) -> dict[str, Any]:
        """Server-side apply, taking over fields that others set. Raises ApiError."""
        metadata = document["metadata"]
        path = _path(document["kind"], metadata.get("namespace"), metadata["name"])
        query = {"fieldManager": manager, "force": "true"}
        suffix = f"/{subresource}" if subresource else ""
        return await self._request("PATCH", path + suffix, query, document, {"Content-Type": _APPLY})

    async def create(self, document: dict[str, Any]) -> dict[str, Any]:
        """Create an object. Raises ApiError; code 409 when it exists."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request(
            "POST", _path(document["kind"], document["metadata"].get("namespace")), query, document
        )

    async def replace(self, document: dict[str, Any]) -> dict[str, Any]:
        """Replace an object. Raises ApiError; code 409 when it is no longer the version that `document` names."""
        metadata = document["metadata"]
        path = _path(document["kind"], metadata.get("namespace"), metadata["name"])
        return await self._request("PUT", path, {"fieldManager": FIELD_MANAGER}, document)

    async def delete(self, kind: str, namespace: str | None, name: str, uid: str) -> None:
        """Delete an object if it still is the one with this uid. Raises ApiError."""
        await self._request("DELETE", _path(kind, namespace, name), body={"preconditions": {"uid": uid}})

    async def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        sent = {"Accept": "application/json", "Content-Type": "application/json"} | (headers or {})
        try:
            async with self._session.request(
                method,
                self._server + path,
                params=query,
                data=data,
                headers=sent | self._connection.as_http_headers(),
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, f"{method} {path}: {str(error) or type(error).__name__}") from error
        if response.status >= 400:
            raise ApiError(response.status, f"{method} {path}: {response.status} {_reason(content)}")
        answer = json.loads(content)
        if not isinstance(answer, dict):
            raise ApiError(0, f"{method} {path}: not an object")
        return answer


def _path(kind: str, namespace: str | None, name: str = "") -> str:
    api_version, plural = _PLURALS[kind]
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    within = f"/namespaces/{namespace}" if namespace is not None else ""
    return f"{root}{within}/{plural}" + (f"/{name}" if name else "")


def _reason(content: bytes) -> str:
    """Return the status's reason, not its message: a message may quote what was sent."""
    try:
        status = json.loads(content)
    except ValueError:
        return ""
    return str(status.get("reason", "")) if isinstance(status, dict) else ""
