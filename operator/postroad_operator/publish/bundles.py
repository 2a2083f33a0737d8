"""Issued certificates and the tier's own CA, kept in one Secret between compilations."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from postroad_operator.publish.api import KubernetesApi
from postroad_operator.publish.objects import certificates_name
from postroad_operator.resources.labels import MANAGED_BY, TIER

_SUFFIX = ".pem"


class SecretBundles:
    """A certificate store over one Secret: read whole, changed in memory, written whole if it changed.

    The write names the version that was read, so two writers can never both make a CA: the second is refused and
    has to read again. ``name`` is that of the Secret, where it is not the one of the tier's certificates.
    """

    def __init__(self, tier: str, namespace: str, observed: dict[str, Any] | None, *, name: str = "") -> None:
        self._name = name or certificates_name(tier)
        self._tier = tier
        self._namespace = namespace
        self._observed = observed
        self._bundles: dict[str, bytes] = {}
        for key, text in ((observed or {}).get("data") or {}).items():
            if key.endswith(_SUFFIX):
                try:
                    self._bundles[key.removesuffix(_SUFFIX)] = base64.b64decode(text)
                except (binascii.Error, ValueError):
                    self._bundles[key.removesuffix(_SUFFIX)] = b""
        self._changed = False

    @classmethod
    async def read(cls, api: KubernetesApi, tier: str, namespace: str) -> SecretBundles:
        """Read the Secret as it is now. Raises ApiError."""
        return cls(tier, namespace, await api.get("Secret", namespace, certificates_name(tier)))

    def load(self, name: str) -> bytes | None:
        """Return a bundle, None if there is none."""
        return self._bundles.get(name)

    def save(self, name: str, bundle: bytes) -> None:
        """Keep a bundle; :meth:`write` makes it durable."""
        self._changed = self._changed or self._bundles.get(name) != bundle
        self._bundles[name] = bundle

    def names(self) -> tuple[str, ...]:
        """Return the names of all bundles."""
        return tuple(self._bundles)

    def remove(self, name: str) -> None:
        """Drop a bundle, if there is one; :meth:`write` makes it durable."""
        self._changed = self._bundles.pop(name, None) is not None or self._changed

    async def write(self, api: KubernetesApi) -> bool:
        """Write the Secret if anything changed; return whether it did.

        Raises
        ------
        ApiError
            Code 409: somebody else wrote it meanwhile; read again.
        """
        if not self._changed:
            return False
        metadata: dict[str, Any] = {
            "name": self._name,
            "namespace": self._namespace,
            "labels": {**MANAGED_BY, **({TIER: self._tier} if self._tier else {})},
        }
        data = {f"{name}{_SUFFIX}": base64.b64encode(value).decode() for name, value in sorted(self._bundles.items())}
        document = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
        if self._observed is None:
            self._observed = await api.create(document)
        else:
            # What others put into its metadata stays; it has no owner, so that the CA outlives an uninstall.
            kept = {key: value for key, value in self._observed["metadata"].items() if key != "managedFields"}
            self._observed = await api.replace({**document, "metadata": kept})
        self._changed = False
        return True
