"""The conditions of a resource, in the words of kstatus: Reconciling and Stalled are true only in those states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from postroad_operator.compile import Reason, Verdict
from postroad_operator.status.pods import Serving

#: Length of a message in the CRD's schema.
MAX_MESSAGE = 32_768


class _State(NamedTuple):
    status: bool
    reason: str
    message: str


def conditions(
    verdict: Verdict, serving: Serving, previous: Iterable[Mapping[str, Any]], now: float
) -> list[dict[str, Any]]:
    """Return the conditions that a resource should have.

    Parameters
    ----------
    verdict
        The compiler's word on it.
    serving
        What the ready pods of its tier serve.
    previous
        Its conditions until now: the time of a transition is kept while the status stays the same.
    now
        Seconds since the epoch.
    """
    before = {str(item.get("type")): item for item in previous if isinstance(item, Mapping)}
    accepted = _accepted(verdict)
    programmed = _programmed(verdict, serving, _was_programmed(before.get("Programmed"), verdict.generation))
    ready = _ready(accepted, programmed)
    waiting = verdict.accepted and not programmed.status
    states = {
        "Accepted": accepted,
        "Programmed": programmed,
        "Ready": ready,
        "Reconciling": _State(
            waiting, programmed.reason if waiting else "Settled", programmed.message if waiting else "nothing to do"
        ),
        "Stalled": _State(
            not verdict.accepted,
            "Progressing" if verdict.accepted else accepted.reason,
            "nothing is in the way" if verdict.accepted else accepted.message,
        ),
    }
    return [_condition(name, state, verdict.generation, before.get(name), now) for name, state in states.items()]


def timestamp(seconds: float) -> str:
    """Write a time as the API server does: RFC 3339, UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _accepted(verdict: Verdict) -> _State:
    text = verdict.message
    if verdict.accepted and verdict.warnings:
        text += "; warning: " + "; ".join(verdict.warnings)
    return _State(verdict.accepted, str(verdict.reason), text)


def _was_programmed(condition: Mapping[str, Any] | None, generation: int) -> bool:
    return (
        condition is not None
        and condition.get("status") == "True"
        and condition.get("observedGeneration", 0) == generation
    )


def _programmed(verdict: Verdict, serving: Serving, was_programmed: bool) -> _State:
    if verdict.reason is Reason.BLOCKED:
        return _State(False, "Blocked", "what was published before goes on being served")
    if not verdict.accepted:
        return _State(False, "NotAccepted", "it is left out of the configuration")
    if verdict.reason is Reason.PENDING:
        return _State(False, "Pending", verdict.message)
    pods = len(serving.answers)
    if serving.blocked and not pods:
        return _State(False, "Blocked", serving.blocked)
    if not pods:
        return _State(False, "NoPods", f"no pod of the tier is ready{_not_ready(serving)}")
    serve = serving.served_by(verdict.source, verdict.generation, was_programmed=was_programmed)
    if serve < pods:
        # The allowance is all or nothing: the count that is told is of what is served.
        serve = serving.served_by(verdict.source, verdict.generation, was_programmed=False)
    count = f"{serve} of {pods} ready pods serve this generation{_not_ready(serving)}"
    if serve == pods:
        return _State(True, "Disabled" if verdict.reason is Reason.DISABLED else "Programmed", count)
    if serving.blocked:
        return _State(False, "Blocked", f"{count}; {serving.blocked}")
    error = serving.first_error()
    return _State(False, "Refused", f"{count}; {error}") if error else _State(False, "Waiting", count)


def _not_ready(serving: Serving) -> str:
    return f"; {serving.not_ready} are not ready" if serving.not_ready else ""


def _ready(accepted: _State, programmed: _State) -> _State:
    if accepted.status and programmed.status:
        return _State(True, programmed.reason if programmed.reason == "Disabled" else "Ready", programmed.message)
    return _State(False, *(accepted if not accepted.status else programmed)[1:])


def _condition(
    name: str, state: _State, generation: int, before: Mapping[str, Any] | None, now: float
) -> dict[str, Any]:
    status = "True" if state.status else "False"
    since = before.get("lastTransitionTime") if before is not None and before.get("status") == status else None
    return {
        "type": name,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": since or timestamp(now),
        "reason": state.reason,
        "message": state.message[:MAX_MESSAGE],
    }
