"""The chart, rendered and applied: the API server takes every object and pod, and the rights in it suffice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chart_kit import documents, pod_templates, rendered, values_matrix
from cluster_kit import Cluster, Operator, condition
from control_plane import ApiError, ControlPlane, refusals, wait_for

VALUES = values_matrix()
#: As much of the Prometheus operator's definitions as the chart uses; every other field is refused.
MONITORING = Path(__file__).with_name("monitoring_crds.yaml")


@pytest.fixture(scope="module")
def monitored(control_plane: ControlPlane) -> ControlPlane:
    control_plane.kubectl("apply", "--server-side", "-f", str(MONITORING))
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(MONITORING))

    def known() -> bool:
        return "podmonitors" in control_plane.kubectl("api-resources", "--api-group=monitoring.coreos.com")

    wait_for(known, what="discovery of the monitors")
    return control_plane


@pytest.mark.parametrize("name", VALUES)
def test_the_api_server_takes_every_object(monitored: ControlPlane, namespace: str, name: str) -> None:
    text = rendered(namespace, *VALUES[name])
    output = monitored.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", stdin=text
    )
    assert output.count("serverside-applied") == len(documents(text))


def pod_of(name: str, template: dict[str, Any]) -> dict[str, Any]:
    spec = json.loads(json.dumps(template["spec"]))
    mounted = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", ())}
    there = {volume["name"] for volume in spec.get("volumes", ())}
    # The StatefulSet's controller adds the claims.
    spec.setdefault("volumes", []).extend({"name": one, "emptyDir": {}} for one in mounted - there)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": template["metadata"]["labels"]},
        "spec": spec,
    }


@pytest.mark.parametrize("name", ["defaults", "all namespaces", "no volumes", "one more port"])
def test_pod_security_restricted_lets_every_pod_in(control_plane: ControlPlane, namespace: str, name: str) -> None:
    client = control_plane.client
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    client.request("PATCH", f"/api/v1/namespaces/{namespace}", label, "application/merge-patch+json")
    templates = pod_templates(documents(rendered(namespace, *VALUES[name])))
    assert len(templates) == 4
    for number, template in enumerate(templates.values()):
        client.request("POST", client.path("Pod", namespace), pod_of(f"pod-{number}", template))
    # The same without what the chart says about security is refused: it is enforced.
    bare = pod_of("bare", next(iter(templates.values())))
    for part in (bare["spec"], *bare["spec"]["containers"]):
        del part["securityContext"]
    with pytest.raises(ApiError) as refused:
        client.request("POST", client.path("Pod", namespace), bare)
    assert refused.value.code == 403
    assert "restricted" in refused.value.message


@pytest.fixture
def installed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    """The chart, applied, and its operator run as its Deployment says, with the rights of its service account."""
    text = rendered(namespace, *request.param, "--set", "defaults.enabled=false,crds.upgrade=false")
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
    published = installed.get("ConfigMap", "postroad-default")["metadata"]
    assert annotations["postroad.dev/config-hash"] == published["annotations"]["postroad.dev/config-hash"]
    assert [owner["name"] for owner in published["ownerReferences"]] == ["pr-operator"]
    assert "ownerReferences" not in installed.get("Secret", "postroad-default-certificates")["metadata"]
    assert refusals(log) == []
    assert installed.operators[0].metric("postroad_operator_apply_errors_total") == 0
