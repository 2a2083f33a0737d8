"""The objects that carry a tier's configuration, as documents. Pure: nothing here asks or writes.

An empty namespace leaves it to whoever applies them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

from postroad_operator.compile import Compilation
from postroad_operator.resources.labels import CONFIG_HASH, MANAGED_BY, RESOURCES, TIER
from postroad_transport.config.files import CONFIG_FILE, compress, config_hash, encode

FIELD_MANAGER = "postroad-operator"


class Owner(NamedTuple):
    """The object that the published ones go with: usually the operator's Deployment."""

    api_version: str
    kind: str
    name: str
    uid: str

    def reference(self) -> dict[str, str]:
        """Return it as an owner reference."""
        return {"apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid}


def object_name(tier: str) -> str:
    """Return the name of a tier's ConfigMap and Secret."""
    return f"postroad-{tier}"


def certificates_name(tier: str) -> str:
    """Return the name of the Secret that keeps a tier's own CA and what was issued."""
    return f"postroad-{tier}-certificates"


def config_map(compilation: Compilation, namespace: str, owner: Owner | None = None) -> dict[str, Any]:
    """Return the ConfigMap: the configuration as gzip JSON, in one key."""
    encoded = encode(compilation.config)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(compilation.config.tier, namespace, owner)
        | {
            "annotations": {
                CONFIG_HASH: config_hash(encoded),
                RESOURCES: str(len(compilation.config.generations)),
            }
        },
        "binaryData": {CONFIG_FILE: base64.b64encode(compress(encoded)).decode("ascii")},
    }


def secret(
    compilation: Compilation, namespace: str, owner: Owner | None = None, *, also: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the Secret. `also` (base64) are files of the configuration before, which pods may still serve."""
    files = {name: base64.b64encode(content).decode("ascii") for name, content in compilation.secret_files.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(compilation.config.tier, namespace, owner),
        "type": "Opaque",
        "data": dict(sorted((dict(also or {}) | files).items())),
    }


def differs(observed: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Tell whether the object on the API server is not what it should be; what others added to metadata is theirs."""
    if observed is None:
        return True
    has, wants = observed.get("metadata", {}), wanted["metadata"]
    for part in ("labels", "annotations"):
        present = has.get(part) or {}
        if any(present.get(key) != value for key, value in wants.get(part, {}).items()):
            return True
    owners = {reference.get("uid") for reference in has.get("ownerReferences") or ()}
    if any(reference["uid"] not in owners for reference in wants.get("ownerReferences", ())):
        return True
    return any((observed.get(part) or {}) != wanted.get(part, {}) for part in ("data", "binaryData"))


def _metadata(tier: str, namespace: str, owner: Owner | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": object_name(tier),
        **({"namespace": namespace} if namespace else {}),
        "labels": {**MANAGED_BY, TIER: tier},
    }
    if owner is not None:
        metadata["ownerReferences"] = [owner.reference()]
    return metadata
