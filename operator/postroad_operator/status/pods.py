"""The pods of a tier: where to ask them, and what their answers mean together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from postroad_operator.resources.labels import CONFIG_HASH, METRICS_PORT, METRICS_PORT_NAME, TIER


@dataclass(frozen=True, slots=True)
class Pod:
    """A transport pod, as far as the operator looks at it. ``port`` 0: it does not say where to ask."""

    namespace: str
    name: str
    uid: str
    tier: str
    address: str
    port: int
    ready: bool
    config_hash: str = ""
    """The hash in its annotation: the last one that it was told of."""
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    """The named ports of its containers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a pod's ``/configz`` said. ``hash`` is empty while its workers differ, or when it did not answer."""

    pod: str
    hash: str = ""
    generations: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    """Why it serves something else, or why it could not be asked."""
    thumbprints: frozenset[str] = frozenset()
    """Of the certificates that all of its workers serve."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What the ready pods of a tier serve.

    ``rolling`` is true for a short time after a publication: a pod that still serves the hash before, and has
    reported no error, is then on its way rather than behind.
    """

    wanted: str
    answers: tuple[Answer, ...] = ()
    rolling: bool = False
    not_ready: int = 0
    blocked: str = ""
    """Why the wanted hash cannot be published; empty: it is."""

    @property
    def complete(self) -> bool:
        """Whether there are ready pods and every one serves the wanted hash."""
        return bool(self.answers) and all(answer.hash == self.wanted for answer in self.answers)

    def served_by(self, source: str, generation: int, *, was_programmed: bool) -> int:
        """Return how many pods serve this generation of a resource.

        A resource that was programmed stays so while a change of another one rolls out: its own generation is
        served all the while.
        """
        return sum(
            answer.hash == self.wanted
            or (was_programmed and self.rolling and not answer.error and answer.generations.get(source) == generation)
            for answer in self.answers
        )

    def shown(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the status fields of a resource, with ``servedBy`` for one that has a thumbprint."""
        thumbprint = fields.get("thumbprint")
        if not thumbprint or not self.answers:
            return fields
        serve = sum(thumbprint in answer.thumbprints for answer in self.answers)
        return {**fields, "servedBy": f"{serve}/{len(self.answers)}"}

    def first_error(self) -> str:
        """Return one pod's reason for serving something else, with its name; empty if none gave one."""
        for answer in self.answers:
            if answer.error and answer.hash != self.wanted:
                return f"{answer.pod}: {answer.error}"
        return ""


def pod_of(document: Mapping[str, Any]) -> Pod | None:
    """Read a Pod object; None for one that is going, or that belongs to no tier."""
    metadata, status = document.get("metadata") or {}, document.get("status") or {}
    labels = metadata.get("labels") or {}
    tier = labels.get(TIER)
    if not tier or metadata.get("deletionTimestamp") or status.get("phase") in ("Succeeded", "Failed"):
        return None
    annotations = metadata.get("annotations") or {}
    ports = _ports((document.get("spec") or {}).get("containers") or ())
    return Pod(
        namespace=metadata.get("namespace", ""),
        name=metadata.get("name", ""),
        uid=metadata.get("uid", ""),
        tier=str(tier),
        address=str(status.get("podIP") or ""),
        port=_port(annotations.get(METRICS_PORT)) or ports.get(METRICS_PORT_NAME, 0),
        ready=any(
            condition.get("type") == "Ready" and condition.get("status") == "True"
            for condition in status.get("conditions") or ()
        ),
        config_hash=str(annotations.get(CONFIG_HASH) or ""),
        labels=labels,
        ports=ports,
    )


def _port(annotation: object) -> int:
    return (
        int(annotation)
        if isinstance(annotation, str) and annotation.isdecimal() and 0 < int(annotation) < 65536
        else 0
    )


def _ports(containers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    return {
        str(port["name"]): int(port.get("containerPort") or 0)
        for container in containers
        for port in container.get("ports") or ()
        if port.get("name")
    }
