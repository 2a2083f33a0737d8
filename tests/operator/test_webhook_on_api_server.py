"""The admission webhook asked by a real API server: refusals, warnings, dry runs, rotation, failing open."""

from __future__ import annotations

import signal
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_kit import documents, rendered
from cluster_kit import Cluster, Operator, manifest
from control_plane import ApiError, ControlPlane, free_port, refusals, wait_for
from cryptography import x509

SECRET = "postroad-webhook"
PORT = free_port()
CONNECTOR = {"usage": "Internet", "bindings": [{"port": 2525}], "fqdn": "mail.example", "authMechanisms": ["TLS"]}
DOMAIN = {"domain": "reviewed.example", "deliver": {"lmtp": {"host": "mail", "port": 24}}}
KINDS = ("receiveconnectors", "sendconnectors", "accepteddomains", "transportcertificates")
PATH = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


def configuration(name: str, namespace: str, policy: str) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "resources.postroad.dev",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": policy,
                "timeoutSeconds": 5,
                "clientConfig": {"url": f"https://localhost:{PORT}/validate"},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [
                    {
                        "apiGroups": ["postroad.dev"],
                        "apiVersions": ["v1alpha1"],
                        "operations": ["CREATE", "UPDATE", "DELETE"],
                        "resources": list(KINDS),
                        "scope": "Namespaced",
                    }
                ],
            }
        ],
    }


class Reviewed(Cluster):
    """A namespace whose changes are reviewed by its operators."""

    configuration = ""

    def serve(self, port: int = PORT) -> Operator:
        options = ("--webhook-port", str(port), "--webhook-host", "localhost")
        return self.operator(*options, "--webhook-configuration", self.configuration)

    def bundle(self) -> str:
        found = self.client.request("GET", f"{PATH}/{self.configuration}")
        return str(found["webhooks"][0]["clientConfig"].get("caBundle", ""))

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.plane.kubectl(*arguments, "-n", self.namespace, check=False, stdin=stdin)

    def try_apply(self, kind: str, name: str, spec: dict[str, Any], *options: str) -> str:
        """Return what kubectl prints for a server-side dry run, or for what `options` say."""
        document = yaml.safe_dump(manifest(kind, name, spec))
        return self.kubectl("apply", *(options or ("--dry-run=server",)), "-f", "-", stdin=document)

    def refuses(self) -> bool:
        """Tell whether a change is reviewed, with the first domain known."""
        return "is refused (Conflict)" in self.try_apply("AcceptedDomain", "again", DOMAIN)

    def wait_reviews(self) -> None:
        """Wait until a change passes, which needs the certificate to be made, trusted and served."""
        said = [""]

        def passes() -> bool:
            said[0] = self.try_apply("AcceptedDomain", "first", DOMAIN, "--server-side")
            return "serverside-applied" in said[0]

        try:
            wait_for(passes, what="a review")
        except AssertionError:
            raise AssertionError(f"{said[0]}\n{self.operators[-1].log.read_text()[-3000:]}") from None
        wait_for(self.refuses, what="the index to hold the first domain")

    def wait_quiet(self, versions: Callable[[], dict[str, str]]) -> None:
        def quiet() -> bool:
            before = versions()
            time.sleep(0.7)
            return versions() == before

        wait_for(quiet, what="quiet")

    def policy(self, policy: str) -> None:
        change = [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": policy}]
        self.client.request("PATCH", f"{PATH}/{self.configuration}", change, "application/json-patch+json")


@pytest.fixture(scope="module")
def reviewed(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewed]:
    control_plane.client.namespace("reviewed")
    cluster = Reviewed(control_plane, "reviewed", tmp_path_factory.mktemp("reviewed"))
    cluster.configuration = "postroad-reviewed"
    control_plane.client.request("POST", PATH, configuration(cluster.configuration, "reviewed", "Fail"))
    try:
        cluster.serve()
        cluster.wait_reviews()
        yield cluster
    finally:
        cluster.stop()
        control_plane.client.request("DELETE", f"{PATH}/{cluster.configuration}")


def test_a_conflict_is_refused_and_names_both(reviewed: Reviewed) -> None:
    said = reviewed.try_apply("AcceptedDomain", "again", DOMAIN)
    assert "AcceptedDomain/reviewed/again is refused (Conflict)" in said
    assert "spec.domain: reviewed.example belongs to AcceptedDomain/reviewed/first" in said


def test_an_open_relay_is_refused_and_one_that_is_asked_for_is_told(reviewed: Reviewed) -> None:
    grants = [{"principal": "Anonymous", "permissions": ["SMTP-Accept-Any-Recipient"]}]
    said = reviewed.try_apply("ReceiveConnector", "open", CONNECTOR | {"grants": grants})
    assert "is refused (OpenRelay)" in said
    assert "spec.grants[0]" in said
    said = reviewed.try_apply("ReceiveConnector", "open", CONNECTOR | {"grants": grants, "allowOpenRelay": True})
    assert "Warning: spec.allowOpenRelay: this connector is an open relay" in said
    assert "created (server dry run)" in said


def test_a_name_without_a_certificate_and_an_overlap_are_told(reviewed: Reviewed) -> None:
    said = reviewed.try_apply("ReceiveConnector", "wide", CONNECTOR, "--server-side")
    assert "Warning: spec.fqdn: no TransportCertificate holds the name mail.example" in said

    def told() -> bool:
        narrow = CONNECTOR | {"remoteIPRanges": ["10.0.0.0/8"]}
        return "10.0.0.0/8 lies within 0.0.0.0/0 of ReceiveConnector/reviewed/wide" in reviewed.try_apply(
            "ReceiveConnector", "narrow", narrow
        )

    wait_for(told, what="the overlap to be told")
    reviewed.kubectl("delete", "rconn", "wide")


def test_what_is_only_missing_passes_with_a_warning(reviewed: Reviewed) -> None:
    said = reviewed.try_apply("AcceptedDomain", "alias", {"domain": "b.example", "aliasOf": "nowhere.example"})
    assert "Warning: left out until this is put right (RefNotFound)" in said
    assert "created (server dry run)" in said


def test_a_dry_run_changes_nothing(reviewed: Reviewed) -> None:
    def versions() -> dict[str, str]:
        kinds = ("ConfigMap", "Secret", "AcceptedDomain", "ReceiveConnector", "SendConnector")
        return {
            f"{kind}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
            for kind in kinds
            for item in reviewed.client.list(kind, reviewed.namespace)
        }

    wait_for(lambda: "ConfigMap/postroad-default" in versions(), what="a publication")
    reviewed.wait_quiet(versions)
    before, compilations = versions(), reviewed.operators[-1].metric("postroad_operator_compilations_total")
    for name in ("dry-a", "dry-b"):
        reviewed.try_apply("AcceptedDomain", name, DOMAIN | {"domain": "dry.example"})
    assert versions() == before
    assert reviewed.operators[-1].metric("postroad_operator_compilations_total") == compilations
    # What was only tried is no rival.
    assert "Conflict" not in reviewed.try_apply("AcceptedDomain", "dry-c", DOMAIN | {"domain": "dry.example"})


def test_what_was_just_deleted_is_no_rival(reviewed: Reviewed) -> None:
    spec = DOMAIN | {"domain": "moving.example"}
    for turn in range(5):
        name, other = ("one", "two") if turn % 2 else ("two", "one")
        said = reviewed.try_apply("AcceptedDomain", name, spec, "--server-side")
        assert "serverside-applied" in said, said
        # At once: the operator's watch may not have shown it yet.
        reviewed.client.delete("AcceptedDomain", name, reviewed.namespace)
        assert "Conflict" not in reviewed.try_apply("AcceptedDomain", other, spec)


def test_a_deletion_tells_who_suffers(reviewed: Reviewed) -> None:
    alias = {"domain": "alias.example", "aliasOf": "reviewed.example"}
    reviewed.try_apply("AcceptedDomain", "alias", alias, "--server-side")

    def told() -> bool:
        said = reviewed.kubectl("delete", "adom", "first", "--dry-run=server")
        return "Warning: AcceptedDomain/reviewed/alias will be left out (RefNotFound)" in said

    wait_for(told, what="the alias to be named")
    reviewed.kubectl("delete", "adom", "alias")


def test_reviews_are_counted(reviewed: Reviewed) -> None:
    reviewed.refuses()
    operator = reviewed.operators[-1]
    assert operator.metric('postroad_operator_reviews_total{kind="AcceptedDomain",verdict="refused"}') >= 1
    assert operator.metric("postroad_operator_review_seconds_count") >= 1


def served(port: int = PORT) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)


def test_a_renewed_certificate_is_served_without_a_restart(reviewed: Reviewed) -> None:
    before, bundle = served(), reviewed.bundle()
    secret = reviewed.get("Secret", SECRET)
    (leaf,) = [key for key in secret["data"] if key.startswith("Webhook.")]
    path = reviewed.client.path("Secret", reviewed.namespace, SECRET)
    # As at its renewal: the authority stays, the certificate is made anew.
    reviewed.client.request("PATCH", path, {"data": {leaf: None}}, "application/merge-patch+json")
    wait_for(lambda: served() != before, what="another certificate")
    assert reviewed.bundle() == bundle
    assert reviewed.refuses()


def test_a_lost_secret_and_a_wrong_authority_heal(reviewed: Reviewed) -> None:
    before = reviewed.bundle()
    reviewed.client.delete("Secret", SECRET, reviewed.namespace)
    wait_for(lambda: reviewed.bundle() != before, what="another authority")
    wait_for(reviewed.refuses, what="a review by the new certificate")


def test_a_standby_serves_too(reviewed: Reviewed) -> None:
    port = free_port()
    standby = reviewed.serve(port)
    wait_for(lambda: standby.metric("postroad_operator_leader") == 0, what="a standby")

    def same() -> bool:
        try:
            return served(port) == served()
        except OSError:
            return False

    wait_for(same, what="the standby to serve the same certificate")
    change = [
        {"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": f"https://localhost:{port}/validate"}
    ]
    path = f"{PATH}/{reviewed.configuration}"
    reviewed.client.request("PATCH", path, change, "application/json-patch+json")
    try:
        wait_for(reviewed.refuses, what="a review by the standby")
        # The API server follows its configuration a moment later.
        wait_for(
            lambda: reviewed.refuses() and standby.metric("postroad_operator_reviews_total") > 0,
            what="the standby's count",
        )
    finally:
        change[0]["value"] = f"https://localhost:{PORT}/validate"
        reviewed.client.request("PATCH", path, change, "application/json-patch+json")
        standby.kill(signal.SIGTERM)
        reviewed.operators.remove(standby)


def test_without_an_operator_it_fails_as_configured(reviewed: Reviewed) -> None:
    reviewed.operators[-1].kill()
    spec = DOMAIN | {"domain": "late.example"}
    assert "failed calling webhook" in reviewed.try_apply("AcceptedDomain", "late", spec)
    reviewed.policy("Ignore")
    wait_for(
        lambda: "created (server dry run)" in reviewed.try_apply("AcceptedDomain", "late", spec),
        what="the API server to go on without reviews",
    )
    with pytest.raises(ApiError, match="Invalid"):
        # What one object can say about itself is refused by the API server all the same.
        reviewed.apply("AcceptedDomain", "late", {"domain": "not a domain"})
    reviewed.policy("Fail")
    reviewed.serve()
    reviewed.wait_reviews()


def test_the_rights_of_the_chart_suffice(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    text = rendered(
        namespace,
        "--set",
        "webhook.enabled=true,webhook.failurePolicy=Fail,defaults.enabled=false,crds.upgrade=false",
    )
    control_plane.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", stdin=text)
    container = documents(text)["Deployment/pr-operator"]["spec"]["template"]["spec"]["containers"][0]
    arguments = [item.replace("$(POD_NAMESPACE)", namespace) for item in container["args"][1:]]
    port = free_port()
    cluster = Reviewed(control_plane, namespace, tmp_path)
    cluster.configuration = f"pr-{namespace}"
    # There is no network of Services here: the API server dials the process.
    client = {"url": f"https://localhost:{port}/validate"}
    change = [{"op": "replace", "path": "/webhooks/0/clientConfig", "value": client}]
    path = f"{PATH}/{cluster.configuration}"
    control_plane.client.request("PATCH", path, change, "application/json-patch+json")
    kubeconfig = control_plane.user_kubeconfig(f"system:serviceaccount:{namespace}:pr-operator")
    options = (*arguments, "--webhook-port", str(port), "--webhook-host", "localhost")
    operator = Operator(kubeconfig, namespace, tmp_path / "operator.log", options).start()
    cluster.operators.append(operator)
    try:
        cluster.wait_reviews()
        posted = 'postroad_operator_events_total{outcome="posted"}'
        wait_for(lambda: operator.metric(posted) >= 1, what="an Event")
        assert operator.metric('postroad_operator_events_total{outcome="failed"}') == 0
        assert refusals(operator.log) == []
        names = [f"pr-webhook.{namespace}.svc", "localhost"]
        leaf = x509.load_pem_x509_certificate(served(port).encode())
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert found.get_values_for_type(x509.DNSName) == names
    finally:
        cluster.stop()
        control_plane.kubectl("delete", "-n", namespace, "--wait=false", "-f", "-", stdin=text)


def test_the_chart_reviews_only_what_its_operator_takes() -> None:
    own, every = (
        documents(rendered("mail", "--set", f"webhook.enabled=true,operator.allNamespaces={everywhere}"))
        for everywhere in ("false", "true")
    )
    (hook,) = own["ValidatingWebhookConfiguration/pr-mail"]["webhooks"]
    assert hook["failurePolicy"] == "Ignore"
    assert hook["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "mail"}}
    assert "namespaceSelector" not in every["ValidatingWebhookConfiguration/pr-mail"]["webhooks"][0]
    assert "ValidatingWebhookConfiguration/pr-mail" not in documents(rendered("mail"))


def test_cert_manager_may_keep_the_certificate() -> None:
    objects = documents(rendered("mail", "--set", "webhook.enabled=true,webhook.certManager.enabled=true"))
    hook = objects["ValidatingWebhookConfiguration/pr-mail"]
    assert hook["metadata"]["annotations"] == {"cert-manager.io/inject-ca-from": "mail/pr-webhook"}
    assert objects["Certificate/pr-webhook"]["spec"]["dnsNames"] == ["pr-webhook.mail.svc"]
    container = objects["Deployment/pr-operator"]["spec"]["template"]["spec"]["containers"][0]
    assert not any(argument.startswith("--webhook-configuration") for argument in container["args"])
    assert f"--webhook-secret={objects['Certificate/pr-webhook']['spec']['secretName']}" in container["args"]
    assert "ClusterRole/pr-mail-webhook" not in objects
