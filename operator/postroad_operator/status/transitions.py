"""What is worth an Event: the difference between the status that a resource has and the one it gets. Pure.

Whatever is derived from two statuses is said once: an operator that starts again finds its own last status and has
nothing to say. ``Ready`` has no Event of its own, for it changes with ``Accepted`` or with ``Programmed``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Bytes of a note (events.k8s.io/v1).
MAX_NOTE = 1024


@dataclass(frozen=True, slots=True)
class Transition:
    """One Event: a warning or not, one word for programs, one for what was done, a sentence for people."""

    warning: bool
    reason: str
    action: str
    note: str


def transitions(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[Transition]:
    """Return what has happened between two statuses of a resource; `before` is None where there was none."""
    was, now = _conditions(before or {}), _conditions(after)
    found = [
        *_accepted(was.get("Accepted", {}), now.get("Accepted", {})),
        *_certificate(before or {}, after),
        *_programmed(was.get("Programmed", {}), now.get("Programmed", {})),
    ]
    return [
        Transition(item.warning, item.reason, item.action, _shortened(item.note)) for item in found if item.reason
    ]


def _accepted(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Transition]:
    same = was.get("status") == now.get("status")
    if now.get("status") == "True" and not same:
        yield Transition(False, "Accepted", "Compile", str(now.get("message")))
    elif now.get("status") == "False" and not (same and was.get("reason") == now.get("reason")):
        yield Transition(True, str(now.get("reason")), "Compile", str(now.get("message")))


def _programmed(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Transition]:
    reason, message = str(now.get("reason")), str(now.get("message"))
    if now.get("status") == "True":
        if was.get("status") != "True":
            yield Transition(False, "Programmed", "Publish", message)
    elif reason == "Refused":
        if was.get("status") != "False" or was.get("reason") != reason:
            yield Transition(True, "NotProgrammed", "Publish", message)
    elif was.get("status") == "True" and reason not in ("NotAccepted", "Pending"):
        if was.get("observedGeneration") != now.get("observedGeneration"):
            # A change of the resource itself is on its way to the pods: its arrival will be the news.
            return
        yield Transition(True, "NotProgrammed", "Publish", message)


def _certificate(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Transition]:
    was, now = before.get("thumbprint"), after.get("thumbprint")
    if now and now != was:
        names = ", ".join(map(str, after.get("dnsNames") or ()))
        renewal = f", to be renewed at {after['renewalTime']}" if after.get("renewalTime") else ""
        note = f"certificate {now} for {names}, good until {after.get('notAfter')}{renewal}"
        yield Transition(False, "Renewed" if was else "Issued", "Certify", note)


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    items = status.get("conditions")
    return {
        str(item.get("type")): item
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, Mapping)
    }


def _shortened(note: str) -> str:
    encoded = note.encode("utf-8", "replace")
    if len(encoded) <= MAX_NOTE:
        return note
    return encoded[: MAX_NOTE - 3].decode("utf-8", "ignore") + "..."
