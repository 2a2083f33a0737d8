"""What GitOps tools make of our statuses: Argo CD by our Lua script, kstatus (Flux, kpt, Helm 4) by its own rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from postroad_operator.compile import Reason, Verdict
from postroad_operator.resources import KINDS
from postroad_operator.status import Answer, Serving, status_of

HEALTH = Path(__file__).parents[2] / "examples/gitops/argocd/health"
SOURCE = "ReceiveConnector/mail/mx"
NOW = 1_700_000_000.0
GOOD = Verdict(SOURCE, True, Reason.ACCEPTED, "valid", generation=2)
BAD = Verdict(SOURCE, False, Reason.CONFLICT, "spec.domain: taken", generation=2)
DISABLED = Verdict(SOURCE, True, Reason.DISABLED, "disabled", generation=2)
PENDING = Verdict(SOURCE, True, Reason.PENDING, "to be issued", generation=2)
SERVED = Serving("h", (Answer("pod-0", "h"),))
BEHIND = Serving("h", (Answer("pod-0", "g"),))
FAILING = Serving("h", (Answer("pod-0", "g", error="secret file x: missing"),))
NO_PODS = Serving("h")


def resource(verdict: Verdict | None, serving: Serving = SERVED, *, generation: int = 2) -> dict[str, Any]:
    document: dict[str, Any] = {
        "apiVersion": "postroad.dev/v1alpha1",
        "kind": "ReceiveConnector",
        "metadata": {"name": "mx", "namespace": "mail", "generation": generation},
    }
    # As the API server stores one that nobody has seen yet: the CRD's default.
    status = {"observedGeneration": -1} if verdict is None else status_of(verdict, serving, {}, None, NOW)
    return document | {"status": status}


def kstatus(document: dict[str, Any]) -> str:
    """Return what ``status.Compute`` of fluxcd/cli-utils (kstatus) says of a custom resource, in its order."""
    metadata, status = document["metadata"], document.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    observed = status.get("observedGeneration")
    if observed is not None and "generation" in metadata and observed != metadata["generation"]:
        return "InProgress"
    conditions = status.get("conditions") or []
    for condition in conditions:
        if condition["type"] == "Reconciling" and condition["status"] == "True":
            return "InProgress"
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return "Failed"
    for condition in conditions:
        if condition["type"] == "Ready":
            return "Current" if condition["status"] == "True" else "InProgress"
    return "Current"


@pytest.fixture(scope="module")
def argocd() -> Any:
    """Our script as Argo CD runs it: Lua 5.1, the object as a global, no library that reaches outside."""
    lua51 = pytest.importorskip("lupa.lua51", reason="NO LUA: pip install lupa; the health check is not run")
    script = (HEALTH / "health.lua").read_text()

    def health(document: dict[str, Any]) -> tuple[str, str]:
        runtime = lua51.LuaRuntime(register_eval=False, register_builtins=False)
        for name in ("os", "io", "require", "package", "debug", "dofile", "loadfile"):
            runtime.globals()[name] = None
        runtime.globals()["obj"] = runtime.table_from(document, recursive=True)
        found = runtime.execute(script)
        return found["status"], found["message"]

    return health


CASES = [
    (resource(None), "Progressing", "InProgress"),
    (resource(GOOD), "Healthy", "Current"),
    (resource(GOOD, generation=3), "Progressing", "InProgress"),
    (resource(GOOD, BEHIND), "Progressing", "InProgress"),
    (resource(GOOD, NO_PODS), "Progressing", "InProgress"),
    (resource(GOOD, FAILING), "Degraded", "InProgress"),
    (resource(PENDING), "Progressing", "InProgress"),
    (resource(DISABLED), "Suspended", "Current"),
    (resource(BAD), "Degraded", "Failed"),
    (resource(BAD, NO_PODS), "Degraded", "Failed"),
]


@pytest.mark.parametrize(("document", "health", "_"), CASES)
def test_argo_cd_shows_the_state(argocd: Any, document: dict[str, Any], health: str, _: str) -> None:
    status, message = argocd(document)
    assert status == health
    assert message


@pytest.mark.parametrize(("document", "_", "status"), CASES)
def test_kstatus_waits_for_what_is_under_way_and_fails_what_is_stalled(
    document: dict[str, Any], _: str, status: str
) -> None:
    assert kstatus(document) == status


@given(
    st.sampled_from([None, GOOD, BAD, DISABLED, PENDING]),
    st.sampled_from([SERVED, BEHIND, FAILING, NO_PODS]),
    st.sampled_from([1, 2, 3]),
)
def test_the_two_never_contradict_each_other(
    argocd: Any, verdict: Verdict | None, serving: Serving, generation: int
) -> None:
    document = resource(verdict, serving, generation=generation)
    argo, flux = argocd(document)[0], kstatus(document)
    assert (flux == "Current") == (argo in ("Healthy", "Suspended"))
    assert flux != "Failed" or argo == "Degraded"


def test_a_stalled_resource_is_told_in_the_operators_words(argocd: Any) -> None:
    assert argocd(resource(BAD)) == ("Degraded", "spec.domain: taken")


def test_argo_cd_is_given_the_script_for_every_kind() -> None:
    data = yaml.safe_load((HEALTH / "argocd-health.yaml").read_text())["data"]
    script = (HEALTH / "health.lua").read_text()
    assert data == {f"resource.customizations.health.postroad.dev_{kind}": script for kind in KINDS}
