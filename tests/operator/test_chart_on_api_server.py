"""The chart, rendered by helm and applied: the API server takes every object, and the rights in it suffice."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_kit import Cluster, Operator, condition
from control_plane import ControlPlane, binary, wait_for

CHART = Path(__file__).parents[2] / "charts" / "postroad"
VALUES: dict[str, list[str]] = {
    "defaults": [],
    "all namespaces": ["--set", "operator.allNamespaces=true,tier.clientAddressesHidden=true"],
    "edge, node ports": ["--set", "tier.role=edge,transport.service.type=NodePort,transport.replicas=1"],
    "internal": ["--set", "transport.service.type=ClusterIP,transport.spool.storageClassName=fast"],
    "own images": ["--set", "image.tag=v1,transport.image.tag=v2,imagePullSecrets[0].name=pull"],
}


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = binary("helm")
    if program is None:
        pytest.skip("NO HELM: not found in $KUBEBUILDER_ASSETS, in /usr/local/kubebuilder/bin or on the PATH")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def rendered(namespace: str, *values: str) -> str:
    done = helm("template", "pr", str(CHART), "--namespace", namespace, *values)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> dict[str, dict[str, Any]]:
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in yaml.safe_load_all(text) if item}


def test_the_chart_passes_its_linter() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "value",
    ["transport.replicas=-1", "tier.name=Bad_Name", "transport.service.type=Magic", "operator.replicsa=2"],
)
def test_values_that_cannot_work_are_refused(value: str) -> None:
    done = helm("template", "pr", str(CHART), "--set", value)
    assert done.returncode != 0
    assert value.partition("=")[0].rpartition(".")[2] in done.stderr.replace("'", "")


@pytest.mark.parametrize("name", VALUES)
def test_the_api_server_takes_every_object(control_plane: ControlPlane, namespace: str, name: str) -> None:
    text = rendered(namespace, *VALUES[name])
    control_plane.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", stdin=text
    )


def test_pods_run_restricted() -> None:
    for name in ("Deployment/pr-operator", "StatefulSet/pr-default"):
        spec = documents(rendered("default"))[name]["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}


def test_an_upgrade_of_the_operator_alone_leaves_the_transport_pods() -> None:
    before, after = (
        documents(rendered("default", "--set", f"image.tag={tag},operator.leaseDuration=20,transport.image.tag=v1"))
        for tag in ("v1", "v2")
    )
    assert before["Deployment/pr-operator"] != after["Deployment/pr-operator"]
    assert before["StatefulSet/pr-default"]["spec"] == after["StatefulSet/pr-default"]["spec"]


@pytest.fixture
def installed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    """The chart, applied, and its operator run as its Deployment says, with the rights of its service account."""
    text = rendered(namespace, *request.param)
    control_plane.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", stdin=text)
    container = documents(text)["Deployment/pr-operator"]["spec"]["template"]["spec"]["containers"][0]
    arguments = [argument.replace("$(POD_NAMESPACE)", namespace) for argument in container["args"][1:]]
    kubeconfig = control_plane.user_kubeconfig(f"system:serviceaccount:{namespace}:pr-operator")
    cluster = Cluster(control_plane, namespace, tmp_path)
    cluster.operators.append(Operator(kubeconfig, namespace, tmp_path / "operator.log", tuple(arguments)).start())
    try:
        yield cluster
    finally:
        cluster.stop()
        if "--set" in request.param:
            for kind in ("clusterrole", "clusterrolebinding"):
                control_plane.kubectl("delete", kind, f"pr-{namespace}-resources", check=False)


@pytest.mark.parametrize("installed", [VALUES["defaults"], VALUES["all namespaces"]], indirect=True)
def test_the_rights_of_the_chart_suffice(installed: Cluster) -> None:
    installed.apply("TransportCertificate", "mail", {"ca": {}, "dnsNames": ["mail.example"]})
    # With all namespaces, other tests' domains are of the same tier.
    domain = f"{installed.namespace}.example"
    installed.apply("AcceptedDomain", "mail", {"domain": domain, "deliver": {"lmtp": {"host": "h", "port": 24}}})
    pod = installed.pods[0]
    pod.create()
    pod.set_ready(False)
    log = installed.operators[0].log

    def said(kind: str) -> str:
        return str(condition(installed.get(kind, "mail"), "Programmed").get("message", ""))

    try:
        for kind in ("TransportCertificate", "AcceptedDomain"):
            wait_for(lambda kind=kind: "1 are not ready" in said(kind), what=f"a status of {kind}")
        annotations = wait_for(
            lambda: installed.get("Pod", pod.name)["metadata"].get("annotations"), what="the pod to be told"
        )
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()[-3000:]}") from None
    installed.apply("TransportCertificate", "acme", {"issuerRef": {"name": "acme"}, "dnsNames": ["a.example"]})
    refused = wait_for(
        lambda: condition(installed.get("TransportCertificate", "acme"), "Accepted").get("message"), what="a verdict"
    )
    # Without the right to ask it would say so instead.
    assert "cert-manager is not installed" in refused
    published = installed.get("ConfigMap", "postroad-default")["metadata"]
    assert annotations["postroad.dev/config-hash"] == published["annotations"]["postroad.dev/config-hash"]
    assert [owner["name"] for owner in published["ownerReferences"]] == ["pr-operator"]
    assert "ownerReferences" not in installed.get("Secret", "postroad-default-certificates")["metadata"]
    assert "403" not in log.read_text()
    assert installed.operators[0].metric("postroad_operator_apply_errors_total") == 0


def test_cluster_wide_rights_are_given_only_where_they_are_wanted() -> None:
    namespaced, everywhere = (documents(rendered("mail", *VALUES[name])) for name in ("defaults", "all namespaces"))
    assert not any(name.startswith("Cluster") for name in namespaced)
    assert "ClusterRole/pr-mail-resources" in everywhere
