"""Conditions and status fields: from a verdict and what the pods serve to what a resource says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_operator.compile import Reason, Verdict
from postroad_operator.resources import labels
from postroad_operator.status import Answer, Serving, conditions, pod_of, status_of

NOW = 1_700_000_000.0
SOURCE = "ReceiveConnector/default/mx"
WANTED = "new"


def verdict(accepted: bool = True, reason: Reason = Reason.ACCEPTED, **more: Any) -> Verdict:
    return Verdict(SOURCE, accepted, reason, more.pop("message", "valid"), generation=3, **more)


def pods(*hashes: str, error: str = "", generation: int = 3) -> tuple[Answer, ...]:
    return tuple(Answer(f"pod-{n}", digest, {SOURCE: generation}, error) for n, digest in enumerate(hashes))


def table(items: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in items}


def test_all_is_well_when_every_ready_pod_serves_the_hash() -> None:
    found = conditions(verdict(), Serving(WANTED, pods("new", "new")), (), NOW)
    assert table(found) == {
        "Accepted": ("True", "Accepted"),
        "Programmed": ("True", "Programmed"),
        "Ready": ("True", "Ready"),
        "Reconciling": ("False", "Settled"),
        "Stalled": ("False", "Progressing"),
    }
    assert {item["observedGeneration"] for item in found} == {3}
    assert {item["lastTransitionTime"] for item in found} == {"2023-11-14T22:13:20Z"}


@pytest.mark.parametrize(
    ("serving", "reason", "words"),
    [
        (Serving(WANTED, ()), "NoPods", "no pod of the tier is ready"),
        (Serving(WANTED, (), not_ready=2), "NoPods", "2 are not ready"),
        (Serving(WANTED, pods("new", "old")), "Waiting", "1 of 2 ready pods"),
        (Serving(WANTED, pods("old", "old")), "Waiting", "0 of 2 ready pods"),
        (Serving(WANTED, pods("", error="secret file x: missing")), "Refused", "pod-0: secret file x: missing"),
        (Serving(WANTED, pods("old"), rolling=True), "Waiting", "0 of 1"),
    ],
)
def test_programmed_is_false_and_says_why(serving: Serving, reason: str, words: str) -> None:
    found = {item["type"]: item for item in conditions(verdict(), serving, (), NOW)}
    assert (found["Programmed"]["status"], found["Programmed"]["reason"]) == ("False", reason)
    assert words in found["Programmed"]["message"]
    assert found["Ready"]["status"] == "False"
    assert found["Reconciling"]["status"] == "True"
    assert found["Stalled"]["status"] == "False"


def test_a_refused_resource_is_stalled_with_its_reason() -> None:
    refused = verdict(False, Reason.CONFLICT, message="port 25 is taken")
    found = {item["type"]: item for item in conditions(refused, Serving(WANTED, pods("new")), (), NOW)}
    assert [found[name]["status"] for name in ("Accepted", "Programmed", "Ready", "Reconciling", "Stalled")] == [
        *("False", "False", "False", "False", "True")
    ]
    assert found["Stalled"]["reason"] == found["Accepted"]["reason"] == "Conflict"
    assert found["Ready"]["message"] == "port 25 is taken"


def test_a_disabled_resource_is_settled_and_a_pending_one_is_not() -> None:
    serving = Serving(WANTED, pods("new"))
    assert table(conditions(verdict(reason=Reason.DISABLED), serving, (), NOW))["Ready"] == ("True", "Disabled")
    pending = table(conditions(verdict(reason=Reason.PENDING), serving, (), NOW))
    assert (pending["Programmed"], pending["Reconciling"]) == (("False", "Pending"), ("True", "Pending"))


def test_warnings_are_in_the_message() -> None:
    warned = verdict(warnings=("spec.fqdn: no certificate holds it",))
    assert "warning: spec.fqdn" in conditions(warned, Serving(WANTED), (), NOW)[0]["message"]


PROGRAMMED = [{"type": "Programmed", "status": "True", "observedGeneration": 3, "lastTransitionTime": "then"}]


@pytest.mark.parametrize(
    ("serving", "expected"),
    [
        (Serving(WANTED, pods("old", "new"), rolling=True), "True"),
        (Serving(WANTED, pods("old", "new"), rolling=False), "False"),
        (Serving(WANTED, pods("old", error="refused"), rolling=True), "False"),
        (Serving(WANTED, pods("old", generation=2), rolling=True), "False"),
    ],
)
def test_what_was_programmed_stays_so_while_another_change_rolls_out(serving: Serving, expected: str) -> None:
    found = {item["type"]: item for item in conditions(verdict(), serving, PROGRAMMED, NOW)}["Programmed"]
    assert found["status"] == expected
    assert (found["lastTransitionTime"] == "then") is (expected == "True")


def test_an_older_generation_does_not_count_as_programmed() -> None:
    before = [{**PROGRAMMED[0], "observedGeneration": 2}]
    found = conditions(verdict(), Serving(WANTED, pods("old"), rolling=True), before, NOW)
    assert table(found)["Programmed"] == ("False", "Waiting")


answers = st.lists(
    st.builds(
        Answer,
        pod=st.just("p"),
        hash=st.sampled_from(["", "old", WANTED]),
        generations=st.sampled_from([{}, {SOURCE: 2}, {SOURCE: 3}]),
        error=st.sampled_from(["", "broken"]),
    ),
    max_size=4,
).map(tuple)
servings = st.builds(Serving, st.just(WANTED), answers, st.booleans(), st.integers(0, 3))
verdicts = st.builds(
    Verdict, st.just(SOURCE), st.booleans(), st.sampled_from(Reason), st.text(max_size=20), generation=st.just(3)
)


@given(verdicts, servings, st.sampled_from([(), PROGRAMMED]))
def test_conditions_are_stable_and_consistent(
    given_verdict: Verdict, serving: Serving, before: list[dict[str, Any]]
) -> None:
    first = conditions(given_verdict, serving, before, NOW)
    # Looking again later at the same facts changes nothing: nothing would be written.
    assert conditions(given_verdict, serving, first, NOW + 60) == first
    state = {item["type"]: item["status"] == "True" for item in first}
    assert state["Ready"] == (state["Accepted"] and state["Programmed"])
    assert not (state["Reconciling"] and state["Stalled"])
    assert state["Ready"] != (state["Reconciling"] or state["Stalled"])
    assert all(item["reason"] and item["reason"][0].isupper() for item in first)
    if serving.answers and state["Programmed"] and not serving.rolling:
        assert all(answer.hash == WANTED for answer in serving.answers)
    if not serving.answers:
        assert not state["Programmed"]


@given(st.recursive(st.none() | st.booleans() | st.text(max_size=5), lambda s: st.lists(s, max_size=2), max_leaves=4))
def test_whatever_stood_in_a_status_before_is_survived(rubbish: object) -> None:
    status = status_of(verdict(), Serving(WANTED), {}, {"conditions": rubbish}, NOW)
    assert len(status["conditions"]) == 5


def pod(**changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {labels.TIER: "default"}, **changes},
        "spec": {"containers": [{"ports": [{"name": "smtp", "containerPort": 25}]}]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def test_a_pod_says_where_it_is_asked() -> None:
    named = pod()
    named["spec"]["containers"][0]["ports"].append({"name": "metrics", "containerPort": 9925})
    found = pod_of(named)
    assert found is not None
    assert (found.address, found.port, found.ready, found.tier) == ("10.0.0.1", 9925, True, "default")
    annotated = pod_of(pod(annotations={labels.METRICS_PORT: "1234"}))
    assert annotated is not None
    assert annotated.port == 1234
    for bad in ("0", "70000", "x", "-1"):
        unknown = pod_of(pod(annotations={labels.METRICS_PORT: bad}))
        assert unknown is not None
        assert unknown.port == 0


def test_pods_that_are_going_or_of_no_tier_do_not_count() -> None:
    assert pod_of(pod(deletionTimestamp="2026-01-01T00:00:00Z")) is None
    assert pod_of(pod(labels={})) is None
    assert pod_of({**pod(), "status": {"phase": "Failed"}}) is None
    assert pod_of({}) is None
