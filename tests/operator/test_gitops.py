"""The GitOps examples: they build, mean something, and applying them again changes nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_kit import CHART, documents, rendered
from control_plane import ControlPlane, binary

from postroad_operator.compile import Snapshot, TierSettings, compile_tier
from postroad_operator.resources import read

ROOT = Path(__file__).parents[2]
GITOPS = ROOT / "examples" / "gitops"
PRODUCTION = GITOPS / "production"


def built(directory: Path) -> str:
    program = binary("kubectl")
    if program is None:
        pytest.skip("NO KUBECTL: kustomizations are not built")
    done = subprocess.run(
        [program, "kustomize", str(directory)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["mail", "production"])
def test_a_kustomization_builds_into_resources_that_are_accepted_without_a_warning(name: str, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(built(GITOPS / name))
    manifests = read(tmp_path)
    assert manifests.faults == []
    assert manifests.notes == []
    verdicts = compile_tier(Snapshot(TierSettings(hostname="mx.corp.example"), tuple(manifests.objects))).verdicts
    assert len(verdicts) >= 5
    for verdict in verdicts:
        assert (verdict.accepted, verdict.warnings) == (True, ()), verdict


def test_generated_names_reach_the_fields_that_refer_to_them() -> None:
    objects = documents(built(PRODUCTION))
    (secret,) = (name.partition("/")[2] for name in objects if name.startswith("Secret/"))
    (recipients,) = (name.partition("/")[2] for name in objects if name.startswith("ConfigMap/"))
    assert secret.startswith("accounts-")
    connector = objects["ReceiveConnector/submission"]["spec"]
    assert connector["authentication"]["htpasswdSecretRef"]["name"] == secret
    assert objects["AcceptedDomain/mail-example"]["spec"]["recipients"]["configMapRef"]["name"] == recipients


def releases() -> dict[str, tuple[str, dict[str, Any]]]:
    application = yaml.safe_load((GITOPS / "argocd" / "postroad.yaml").read_text())["spec"]["source"]
    release = yaml.safe_load((GITOPS / "flux" / "postroad.yaml").read_text())["spec"]
    return {
        "argocd": (application["path"], application["helm"]["valuesObject"]),
        "flux": (release["chart"]["spec"]["chart"], release["values"]),
    }


@pytest.mark.parametrize("tool", ["argocd", "flux"])
def test_the_chart_takes_the_values_and_renders_the_same_each_time(tool: str, tmp_path: Path) -> None:
    path, values = releases()[tool]
    assert ROOT / path == CHART
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    arguments = ("mail", "--values", str(tmp_path / "values.yaml"))
    first, second = rendered.__wrapped__(*arguments), rendered.__wrapped__(*arguments)
    assert first == second
    assert "Job/pr-crds" not in documents(first)


def test_both_tools_apply_the_kustomization_that_there_is() -> None:
    argocd = yaml.safe_load((GITOPS / "argocd" / "mail.yaml").read_text())["spec"]["source"]["path"]
    flux = yaml.safe_load((GITOPS / "flux" / "mail.yaml").read_text())["spec"]["path"]
    assert (ROOT / argocd) == (ROOT / flux) == PRODUCTION


def versions(plane: ControlPlane) -> list[str]:
    output = plane.kubectl(
        *("get", "rconn,sconn,adom,tcert,secret,configmap", "-n", "mail"),
        *("-o", "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{'\\n'}{end}"),
    )
    return sorted(line for line in output.splitlines() if "/" in line)


@pytest.fixture(scope="module")
def applied(control_plane: ControlPlane) -> ControlPlane:
    control_plane.client.namespace("mail")
    return control_plane


@pytest.mark.parametrize("how", [(), ("--server-side", "--force-conflicts")], ids=["client-side", "server-side"])
def test_applying_again_changes_nothing(applied: ControlPlane, how: tuple[str, ...]) -> None:
    applied.kubectl("apply", *how, "-k", str(PRODUCTION))
    before = versions(applied)
    assert len(before) == 7
    applied.kubectl("apply", *how, "-k", str(PRODUCTION))
    assert versions(applied) == before
    # kubectl exits with 1 where there is a difference.
    assert (
        applied.kubectl("diff", *(("--server-side", "--force-conflicts") if how else ()), "-k", str(PRODUCTION)) == ""
    )


def test_a_difference_is_shown(applied: ControlPlane, tmp_path: Path) -> None:
    applied.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(PRODUCTION))
    changed = tmp_path / "all.yaml"
    changed.write_text(built(PRODUCTION).replace("domain: mail.example", "domain: other.example"))
    assert "+  domain: other.example" in applied.kubectl("diff", "-f", str(changed), check=False)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"bindings": [{"port": 2525}], "requireTLS": True}, "requireTLS needs TLS"),
        ({"bindings": [{"port": 2525}, {"port": 2525}]}, "each port may be bound once"),
        ({"bindings": [{"prot": 2525}]}, "prot"),
    ],
)
def test_a_server_side_dry_run_says_what_is_refused_and_stores_nothing(
    applied: ControlPlane, spec: dict[str, Any], said: str
) -> None:
    bad = {
        "apiVersion": "postroad.dev/v1alpha1",
        "kind": "ReceiveConnector",
        "metadata": {"name": "bad", "namespace": "mail"},
        "spec": spec,
    }
    output = applied.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(bad), check=False
    )
    assert said in output
    assert applied.client.get("ReceiveConnector", "bad", "mail") is None
