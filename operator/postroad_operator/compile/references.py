"""What resources refer to: Secrets and ConfigMaps of their own namespace."""

from __future__ import annotations

from collections.abc import Iterable

from postroad_operator.compile.verdict import Reason, RefusedError
from postroad_operator.resources import ConfigMap, Invalid, Resource, Secret


class References:
    """Looks up references; a missing or unreadable target refuses the resource that needs it."""

    def __init__(self, objects: Iterable[Resource | Invalid]) -> None:
        self._targets = {item.source: item for item in objects}

    def secret(self, namespace: str, name: str, key: str, field: str) -> bytes:
        """Return one value of a Secret. Raises RefusedError naming `field`."""
        target = self._find("Secret", namespace, name, field)
        value = target.value(key) if isinstance(target, Secret) else None
        if value is None:
            raise RefusedError(Reason.REF_NOT_FOUND, f"{field}: Secret {name} has no key {key}: add it")
        return value

    def optional_secret(self, namespace: str, name: str, key: str, field: str) -> bytes | None:
        """Return one value of a Secret, None where it has no such key. Raises RefusedError naming `field`."""
        target = self._find("Secret", namespace, name, field)
        return target.value(key) if isinstance(target, Secret) else None

    def config_map(self, namespace: str, name: str, key: str, field: str) -> str:
        """Return one value of a ConfigMap. Raises RefusedError naming `field`."""
        target = self._find("ConfigMap", namespace, name, field)
        value = target.data.get(key) if isinstance(target, ConfigMap) else None
        if value is None:
            raise RefusedError(Reason.REF_NOT_FOUND, f"{field}: ConfigMap {name} has no key {key}: add it")
        return value

    def _find(self, kind: str, namespace: str, name: str, field: str) -> Resource:
        target = self._targets.get(f"{kind}/{namespace}/{name}")
        if target is None:
            raise RefusedError(
                Reason.REF_NOT_FOUND, f"{field}: there is no {kind} {name} in namespace {namespace}: create it"
            )
        if isinstance(target, Invalid):
            raise RefusedError(
                Reason.INVALID_REF, f"{field}: {kind} {name} cannot be read: {'; '.join(map(str, target.problems))}"
            )
        return target
