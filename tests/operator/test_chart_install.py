"""A release's whole life, by helm on a real API server: install, serve, test, change, upgrade, uninstall."""

from __future__ import annotations

import re
import shutil
import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from chart_kit import CHART, RELEASE, Release, release_objects, secret_value
from cluster_kit import condition
from control_plane import ControlPlane, wait_for

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A fresh install with no value given but free ports, its operator and its three pods running."""
    control_plane.client.namespace("installed")
    release = Release(control_plane, "installed", tmp_path_factory.mktemp("release"))
    try:
        release.notes = release.install()
        release.start()
        release.wait_condition("ReceiveConnector", f"{RELEASE}-internet", "Programmed", timeout=60)
        yield release
    finally:
        release.stop()


def maildirs(release: Release, recipient: str) -> list[str]:
    local, _, domain = recipient.partition("@")
    return [
        path.read_text()
        for pod in release.pods
        for path in (pod.directory / "state" / "maildir" / domain / local / "new").glob("*")
    ]


def test_a_fresh_install_is_served_by_every_pod_and_says_so(release: Release) -> None:
    for kind, name in (
        ("ReceiveConnector", f"{RELEASE}-internet"),
        ("ReceiveConnector", f"{RELEASE}-submission"),
        ("SendConnector", f"{RELEASE}-internet"),
        ("AcceptedDomain", f"{RELEASE}-mail.example"),
        ("TransportCertificate", RELEASE),
    ):
        served = release.wait_condition(kind, name, "Ready")
        assert "3 of 3 ready pods" in condition(served, "Programmed")["message"]
        # No warning either: a message of an accepted resource tells of them.
        assert condition(served, "Accepted")["reason"] == "Accepted"
    assert release.operators[0].metric("postroad_operator_apply_errors_total") == 0


def test_the_notes_tell_the_next_steps(release: Release) -> None:
    for step in ("kubectl -n installed wait", f"helm -n installed test {RELEASE}", "tier.hostname is mail.example"):
        assert step in release.notes


def test_helm_test_sees_a_message_delivered(release: Release) -> None:
    before = len(maildirs(release, "postmaster@mail.example"))
    output = release.helm("test", RELEASE)
    assert "Succeeded" in output
    assert release.played[-1].startswith("accepted: 250")
    assert release.played[-1].endswith("delivered\n")
    assert len(maildirs(release, "postmaster@mail.example")) == before + 1


def test_the_account_that_was_made_may_send(release: Release) -> None:
    account = release.get("Secret", f"{RELEASE}-account")
    context = ssl.create_default_context()
    kept = release.get("Secret", "postroad-default-certificates")
    for key in kept["data"]:
        if key.startswith("_authority"):
            bundle = secret_value(kept, key)
            context.load_verify_locations(cadata=bundle[bundle.index("-----BEGIN CERTIFICATE") :])
    for pod in release.pods:
        with smtplib.SMTP(timeout=20) as client:
            client.connect(pod.address, release.ports["submission"])
            client._host = "mail.example"  # what starttls verifies; DNS does not know the name here
            client.starttls(context=context)
            client.login(secret_value(account, "username"), secret_value(account, "password"))
            client.sendmail("postmaster@mail.example", "bob@mail.example", f"Subject: by {pod.name}\n\nhello\n")
    wait_for(lambda: len(maildirs(release, "bob@mail.example")) == 3, what="three messages")


def test_a_changed_connector_is_served_by_all_three(release: Release) -> None:
    release.plane.kubectl(
        *("patch", "rconn", f"{RELEASE}-internet", "-n", release.namespace),
        *("--type=merge", "-p", '{"spec":{"banner":"changed"}}'),
    )
    release.wait_condition("ReceiveConnector", f"{RELEASE}-internet", "Programmed")
    for pod in release.pods:
        with smtplib.SMTP(timeout=20) as client:
            assert b"changed" in client.connect(pod.address, release.ports["smtp"])[1]


def test_an_upgrade_keeps_the_account_and_restarts_no_pod(release: Release, tmp_path: Path) -> None:
    path = f"apis/apps/v1/statefulsets/{RELEASE}-default"
    account, statefulset = release.get("Secret", f"{RELEASE}-account")["data"], release.object(path)
    newer = tmp_path / "postroad"
    shutil.copytree(CHART, newer)
    text = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(re.sub(r"(?m)^(version|appVersion): .*", r"\1: 0.1.1", text))
    release.upgrade("--set", "operator.leaseDuration=10", chart=newer)
    assert release.get("Secret", f"{RELEASE}-account")["data"] == account
    operator = release.object(f"apis/apps/v1/deployments/{RELEASE}-operator")
    assert operator["spec"]["template"]["spec"]["containers"][0]["image"] == "postroad:0.1.1"
    assert release.object(path)["metadata"]["generation"] == statefulset["metadata"]["generation"]


def test_an_upgrade_brings_the_definitions(release: Release) -> None:
    """Helm itself never changes a definition that is there; the Job before the upgrade does, with its own rights."""
    plane, name = release.plane, "accepteddomains.postroad.dev"
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    wanted = yaml.safe_load((CHART / "crds" / f"{name}.yaml").read_text())["spec"]["versions"]
    old = plane.client.request("GET", path)
    version = old["spec"]["versions"][0]
    version["additionalPrinterColumns"] = [{"name": "Gone", "type": "string", "jsonPath": ".spec.gone"}]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["gone"] = {"type": "string"}
    plane.client.request("PUT", path, old)
    release.upgrade()
    assert f"{name} updated" in release.played[-1]
    assert "receiveconnectors.postroad.dev unchanged" in release.played[-1]
    assert plane.client.request("GET", path)["spec"]["versions"] == wanted
    # What the Job needed is gone again.
    assert release.object(f"apis/batch/v1/jobs/{RELEASE}-crds") is None
    assert f"{RELEASE}-crds-installed" not in plane.kubectl("get", "clusterrole,clusterrolebinding", "-o", "name")


def test_a_second_upgrade_with_the_same_values_changes_nothing(release: Release) -> None:
    release.upgrade()
    before = release_objects(release.plane, release.namespace)
    assert len(before) > 12
    release.upgrade()
    after = release_objects(release.plane, release.namespace)
    assert after.keys() == before.keys()
    for name, item in after.items():
        for part in ("spec", "data", "rules"):
            assert item.get(part) == before[name].get(part), name
        assert item["metadata"].get("generation") == before[name]["metadata"].get("generation"), name


def test_an_autoscaler_takes_over_the_pods_that_are_there(release: Release) -> None:
    """A StatefulSet that loses its number of replicas falls to one pod."""
    path, scaled = f"apis/apps/v1/statefulsets/{RELEASE}-default", ("--set", "transport.autoscaling.enabled=true")

    def replicas() -> int:
        return int(release.object(path)["spec"]["replicas"])

    release.upgrade()
    assert replicas() == 3
    release.upgrade(*scaled)
    assert replicas() == 3
    scale = ("scale", "-n", release.namespace, f"statefulset/{RELEASE}-default")
    release.plane.kubectl(*scale, "--replicas=5")
    release.upgrade(*scaled)
    assert replicas() == 5
    release.plane.kubectl(*scale, "--replicas=3")
    release.upgrade()
    assert replicas() == 3


def test_an_uninstall_takes_what_is_its_own_and_keeps_the_rest(release: Release) -> None:
    release.apply("AcceptedDomain", "mine", {"domain": "mine.example", "deliver": {"lmtp": {"host": "h"}}})
    owner = release.object(f"apis/apps/v1/deployments/{RELEASE}-operator")["metadata"]["uid"]
    release.operators[0].stop()
    release.helm("uninstall", RELEASE)
    assert release_objects(release.plane, release.namespace) == {}
    # The garbage collector takes what the Deployment owned; nobody plays it here.
    for kind in ("ConfigMap", "Secret"):
        (reference,) = release.get(kind, "postroad-default")["metadata"]["ownerReferences"]
        assert reference["uid"] == owner
    assert release.object(f"apis/apps/v1/deployments/{RELEASE}-operator") is None
    # Definitions, the user's own resources and the tier's CA stay.
    assert release.get("AcceptedDomain", "mine")
    assert release.get("Secret", "postroad-default-certificates")
    assert "accepteddomains.postroad.dev" in release.plane.kubectl("get", "crd", "-o", "name")


def test_the_examples_are_served_by_an_installed_tier(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    release = Release(control_plane, namespace, tmp_path)
    try:
        release.install("--set", "defaults.enabled=false,crds.upgrade=false")
        ports: dict[int, int] = {}
        for path in sorted((EXAMPLES / "quickstart").glob("*.yaml")):
            items = list(yaml.safe_load_all(path.read_text()))
            for item in items:
                for binding in item["spec"].get("bindings", []) if item["kind"] == "ReceiveConnector" else []:
                    names = {2525: "smtp", 2587: "submission", 2465: "smtps"}
                    ports[binding["port"]] = release.ports[names[binding["port"]]]
                    binding["port"] = ports[binding["port"]]
            control_plane.kubectl(
                *("apply", "--server-side", "--validate=strict", "-n", namespace, "-f", "-"),
                stdin=yaml.safe_dump_all(items),
            )
        release.start()
        for kind, name in (
            ("TransportCertificate", "mail"),
            ("ReceiveConnector", "submission"),
            ("ReceiveConnector", "server-to-server"),
            ("AcceptedDomain", "mail-example"),
            ("AcceptedDomain", "post-example"),
            ("SendConnector", "smart-host"),
        ):
            release.wait_condition(kind, name, "Programmed", timeout=60)
        with smtplib.SMTP(release.pods[2].address, ports[2525], timeout=20) as client:
            client.sendmail("a@far.example", "alice@post.example", "Subject: hello\n\nhello\n")
        wait_for(lambda: maildirs(release, "alice@mail.example"), what="the message")
    finally:
        release.stop()
