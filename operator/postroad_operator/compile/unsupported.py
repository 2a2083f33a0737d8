"""Fields that are accepted but not acted upon yet: nothing is silently ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from postroad_operator.resources import Resource


class NotYet(NamedTuple):
    """A field, when it counts as used, and what happens instead."""

    field: str
    used: Callable[[Any], bool]
    instead: str


#: By kind. An entry goes when the field is acted upon.
NOT_YET_ACTED_ON: dict[str, tuple[NotYet, ...]] = {
    "ReceiveConnector": (
        NotYet("spec.protocolLogging", lambda s: s.protocol_logging, "commands and replies are not logged"),
    ),
    "TransportCertificate": (
        NotYet(
            "spec.services",
            lambda s: "SMTP" not in s.services,
            "nothing here serves IMAP or POP: the certificate is presented nowhere",
        ),
    ),
}


def warnings(resource: Resource) -> list[str]:
    """Return a warning for each field of the resource that is not acted upon."""
    spec: Any = getattr(resource, "spec", None)
    return [
        f"{entry.field}: accepted but not acted upon yet: {entry.instead}"
        for entry in NOT_YET_ACTED_ON.get(resource.kind, ())
        if entry.used(spec)
    ]
