"""Events: said when something has changed, once, not too often, and never with a secret."""

from __future__ import annotations

from typing import Any

import pytest
from compile_kit import rconn, secret
from hypothesis import given
from hypothesis import strategies as st

from postroad_operator.compile import Reason, Snapshot, TierSettings, Verdict, compile_tier
from postroad_operator.handlers.events import Budget, Recorder, event
from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.handlers.writer import Writer
from postroad_operator.status import Answer, Serving, Transition, conditions, status_of, transitions

SOURCE = "ReceiveConnector/mail/mx"
NOW = 1_700_000_000.0
GOOD = Verdict(SOURCE, True, Reason.ACCEPTED, "valid", generation=1)
BAD = Verdict(SOURCE, False, Reason.CONFLICT, "spec.bindings[0].port: taken", generation=1)
SERVED, BEHIND = Serving("h", (Answer("pod-0", "h"),)), Serving("h", (Answer("pod-0", "g"),))
FAILING = Serving("h", (Answer("pod-0", "g", error="secret file x: missing"),))


def status(verdict: Verdict = GOOD, serving: Serving = SERVED, **fields: Any) -> dict[str, Any]:
    return {"observedGeneration": 1, "conditions": conditions(verdict, serving, (), NOW), **fields}


def reasons(before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    return [("!" if item.warning else "") + item.reason for item in transitions(before, after)]


def newer(verdict: Verdict) -> Verdict:
    return Verdict(SOURCE, verdict.accepted, verdict.reason, verdict.message, generation=2)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, status(), ["Accepted", "Programmed"]),
        (None, status(serving=BEHIND), ["Accepted"]),
        (None, status(serving=Serving("h")), ["Accepted"]),
        (None, status(BAD), ["!Conflict"]),
        (status(serving=BEHIND), status(), ["Programmed"]),
        (status(), status(), []),
        (status(), status(BAD), ["!Conflict"]),
        (status(BAD), status(), ["Accepted", "Programmed"]),
        (status(BAD), status(BAD), []),
        (status(BAD), status(Verdict(SOURCE, False, Reason.OPEN_RELAY, "open")), ["!OpenRelay"]),
        (status(), status(newer(GOOD), BEHIND), []),
        (status(), status(GOOD, BEHIND), ["!NotProgrammed"]),
        (status(), status(GOOD, Serving("h")), ["!NotProgrammed"]),
        (status(serving=BEHIND), status(serving=FAILING), ["!NotProgrammed"]),
        (status(serving=FAILING), status(serving=FAILING), []),
        (status(), status(thumbprint="A"), ["Issued"]),
        (status(thumbprint="A"), status(thumbprint="B", dnsNames=["a"], notAfter="then"), ["Renewed"]),
        (status(thumbprint="A"), status(thumbprint="A"), []),
    ],
)
def test_what_is_said_of_a_change(before: Any, after: Any, said: list[str]) -> None:
    assert reasons(before, after) == said


VERDICTS = st.sampled_from([GOOD, BAD, Verdict(SOURCE, True, Reason.PENDING, "later"), newer(GOOD)])
SERVINGS = st.sampled_from([SERVED, BEHIND, FAILING, Serving("h")])


@given(VERDICTS, SERVINGS, VERDICTS, SERVINGS)
def test_nothing_is_said_twice(was: Verdict, served: Serving, now: Verdict, serves: Serving) -> None:
    before = status_of(was, served, {}, None, NOW)
    after = status_of(now, serves, {}, before, NOW + 1)
    # An operator that starts again sees the status that the last one wrote.
    assert transitions(after, status_of(now, serves, {}, after, NOW + 2)) == []


@given(st.text(max_size=3000))
def test_a_note_fits(message: str) -> None:
    verdict = Verdict(SOURCE, False, Reason.CONFLICT, message)
    (found,) = transitions(None, status(verdict))
    assert len(found.note.encode("utf-8", "replace")) <= 1024


def test_an_event_is_what_the_api_asks_for() -> None:
    found = event(Transition(True, "Conflict", "Compile", "taken"), SOURCE, "uid", "pod", 1_700_000_000_123_456_789)
    assert found["eventTime"] == "2023-11-14T22:13:20.123456Z"
    assert found["regarding"] == {
        "apiVersion": "postroad.dev/v1alpha1",
        "kind": "ReceiveConnector",
        "namespace": "mail",
        "name": "mx",
        "uid": "uid",
    }
    assert (found["type"], found["reason"], found["metadata"]["namespace"]) == ("Warning", "Conflict", "mail")


def test_the_rate_is_limited_and_warnings_have_a_share_of_their_own() -> None:
    budget = Budget(rate=1.0, burst=10.0)
    assert [budget.spend(False, 0.0) for _ in range(8)] == [True] * 5 + [False] * 3
    assert [budget.spend(True, 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert budget.spend(True, 1.0)
    assert not budget.spend(True, 1.5)


class _Api:
    def __init__(self) -> None:
        self.applied: list[dict[str, Any]] = []

    async def apply(self, document: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.applied.append(document)
        return document


async def test_a_status_that_the_watch_has_not_shown_yet_is_not_told_again() -> None:
    api: Any = _Api()
    recorder = Recorder(api, OperatorMetrics(), "pod")
    writer = Writer(api, OperatorMetrics(), lambda: True, recorder)
    await writer.put_status(SOURCE, "uid", "7", {}, status(serving=BEHIND))
    assert recorder._queue.qsize() == 1
    # The watch still shows version 7, without a status.
    await writer.put_status(SOURCE, "uid", "7", {}, status())
    notes = [recorder._queue.get_nowait()["reason"] for _ in range(recorder._queue.qsize())]
    assert notes == ["Accepted", "Programmed"]


def test_no_event_holds_what_a_secret_holds() -> None:
    content = "alice:hunter2-in-clear\nbob:$argon2id$v=19$broken\n"
    item = rconn(
        "mx",
        authMechanisms=["TLS", "BasicAuthRequireTLS"],
        authentication={"htpasswdSecretRef": {"name": "s", "key": "k"}},
    )
    compilation = compile_tier(Snapshot(TierSettings(), (item, secret("s", k=content))))
    (verdict,) = compilation.verdicts
    notes = " ".join(found.note for found in transitions(None, status_of(verdict, SERVED, {}, None, NOW)))
    assert "spec.authentication.htpasswdSecretRef" in notes
    assert "hunter2" not in notes
    assert "argon2id$" not in notes.replace("alice:$argon2id$...", "")
