"""Certificates on a real API server: by cert-manager, by hand, renewed under open sessions, pruned."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from cert_manager_kit import CertManager, CorporateAuthority
from cluster_kit import Cluster
from control_plane import ControlPlane, wait_for
from tls_cluster_kit import KIND, accepted, served, session, shown, status, tls_cluster


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with tls_cluster(control_plane, "certificates", tmp_path_factory.mktemp("certificates")) as cluster:
        yield cluster


def test_the_status_says_what_is_served_where_and_why(cluster: Cluster) -> None:
    mail = served(cluster, "mail")
    assert shown(cluster) == {mail["thumbprint"]}
    assert mail["services"] == ["SMTP"]
    assert mail["notBefore"] < mail["renewalTime"] < mail["notAfter"]
    mx = cluster.wait_condition("ReceiveConnector", "mx", "Programmed")["status"]
    assert mx["certificate"] == "mail"
    assert mx["certificateReason"] == "the only one that holds mail.example; CA-issued"
    table = cluster.plane.kubectl("get", "tcert", "-n", cluster.namespace, "-o", "wide")
    assert "3/3" in table
    assert mail["thumbprint"] in table


def test_a_renewed_certificate_is_served_by_every_pod_and_open_sessions_go_on(cluster: Cluster) -> None:
    before = served(cluster, "mail")
    pids = [pod.process.pid for pod in cluster.pods if pod.process]
    with contextlib.ExitStack() as stack:
        open_sessions = [stack.enter_context(session(pod.address)) for pod in cluster.pods]
        assert {thumbprint for _, thumbprint in open_sessions} == {before["thumbprint"]}
        for client, _ in open_sessions:
            client.ehlo("client.example")
            assert client.mail("a@client.example")[0] == 250
        cluster.apply(KIND, "mail", {"ca": {}, "dnsNames": ["mail.example"], "duration": "80d"})
        after = served(cluster, "mail", unlike=before["thumbprint"])
        assert shown(cluster) == {after["thumbprint"]}
        for number, (client, _) in enumerate(open_sessions):
            assert client.rcpt(f"user{number}@mail.example")[0] == 250
            assert client.data(b"Subject: across a renewal\r\n\r\nhello\r\n")[0] == 250
    assert [pod.process.pid for pod in cluster.pods if pod.process and pod.process.poll() is None] == pids


def test_by_hand_from_the_request_in_the_status_to_what_every_pod_serves(cluster: Cluster) -> None:
    authority = CorporateAuthority()
    spec: dict[str, Any] = {"dnsNames": ["mail.example"], "request": {}, "subject": {"OU": ["Mail", "Hub"]}}
    cluster.apply(KIND, "corporate", spec)
    request = wait_for(lambda: status(cluster, "corporate").get("request"), what="a request in the status")
    assert accepted(cluster, "corporate")["reason"] == "Pending"
    before = shown(cluster)
    # What the authority signed for somebody else is refused, with the request still shown.
    cluster.apply(KIND, "stranger", {"dnsNames": ["mail.example"], "request": {}})
    other = wait_for(lambda: status(cluster, "stranger").get("request"), what="another request")
    spec["request"] = {"signedCertificate": authority.sign(other)}
    cluster.apply(KIND, "corporate", spec)
    wait_for(lambda: "another key" in accepted(cluster, "corporate")["message"], what="a refusal")
    assert accepted(cluster, "corporate")["status"] == "False"
    assert status(cluster, "corporate")["request"] == request
    assert shown(cluster) == before
    # Its own is served, and as the newest it is the one that is chosen.
    spec["request"] = {"signedCertificate": authority.sign(request)}
    cluster.apply(KIND, "corporate", spec)
    good = served(cluster, "corporate")
    assert good["issuer"] == "CN=Corporate CA"
    assert shown(cluster) == {good["thumbprint"]}
    # A wrong one after it is refused, and the one before goes on.
    cluster.apply(KIND, "corporate", spec | {"request": {"signedCertificate": authority.sign(other)}})
    wait_for(lambda: accepted(cluster, "corporate")["status"] == "False", what="a refusal")
    assert "goes on being served" in accepted(cluster, "corporate")["message"]
    assert shown(cluster) == {good["thumbprint"]}
    assert status(cluster, "corporate")["thumbprint"] == good["thumbprint"]
    for name in ("corporate", "stranger"):
        cluster.client.delete(KIND, name, cluster.namespace)


def test_keys_of_deleted_certificates_go(cluster: Cluster) -> None:
    def kept() -> set[str]:
        return set(cluster.get("Secret", "postroad-default-certificates")["data"])

    def published() -> list[str]:
        return list(cluster.get("Secret", "postroad-default")["data"])

    cluster.apply(KIND, "doomed", {"ca": {}, "dnsNames": ["doomed.example"]})
    served(cluster, "doomed")
    bundle = f"{KIND}.{cluster.namespace}.doomed.pem"
    assert bundle in kept()
    cluster.client.delete(KIND, "doomed", cluster.namespace)
    wait_for(lambda: bundle not in kept(), what="its bundle to go")
    wait_for(lambda: not any("doomed" in name for name in published()), what="its files to go")
    assert "_authority.pem" in kept()
    assert f"{KIND}.{cluster.namespace}.mail.pem" in kept()


def test_cert_manager_issues_and_renews_and_its_words_are_passed_on(cluster: Cluster) -> None:
    spec: dict[str, Any] = {"dnsNames": ["mail.example"], "issuerRef": {"name": "corp"}}
    manager = CertManager(cluster.plane, cluster.namespace)
    cluster.apply(KIND, "issued", spec)
    wait_for(lambda: "not installed" in accepted(cluster, "issued").get("message", ""), what="a refusal")
    assert accepted(cluster, "issued")["status"] == "False"
    try:
        manager.install()
        wait_for(lambda: "order post/mail-1" in accepted(cluster, "issued")["message"], what="its words")
        assert accepted(cluster, "issued")["reason"] == "Pending"
        assert status(cluster, "issued")["secretName"] == "transport-issued"
        (owner,) = (manager.get("transport-issued") or {})["metadata"]["ownerReferences"]
        assert owner["uid"] == cluster.get(KIND, "issued")["metadata"]["uid"]
        manager.working.set()
        first = served(cluster, "issued")
        assert first["issuer"] == "CN=Issuer of the cluster"
        assert shown(cluster) == {first["thumbprint"]}
        # It renews on its own; nothing is applied by anyone.
        with session(cluster.pods[0].address) as (client, thumbprint):
            assert thumbprint == first["thumbprint"]
            manager.renew("transport-issued")
            second = served(cluster, "issued", unlike=first["thumbprint"])
            assert client.noop()[0] == 250
        assert shown(cluster) == {second["thumbprint"]}
        # Other names are asked for, in the same Certificate.
        cluster.apply(KIND, "issued", spec | {"dnsNames": ["mail.example", "hub1"]})
        wait_for(lambda: "hub1" in status(cluster, "issued").get("dnsNames", ()), what="the new names")
        # A Certificate of somebody else is left alone.
        cluster.apply(KIND, "taken", spec | {"issuerRef": {"name": "other"}})
        taken = wait_for(lambda: manager.get("transport-taken"), what="the Certificate")
        foreign = {key: taken[key] for key in ("apiVersion", "kind", "spec")} | {
            "metadata": {"name": "transport-mine"}
        }
        cluster.client.request("POST", manager.path(), foreign)
        cluster.apply(KIND, "mine", spec)
        wait_for(lambda: "somebody else" in accepted(cluster, "mine").get("message", ""), what="a refusal")
        assert (manager.get("transport-mine") or {})["spec"]["issuerRef"]["name"] == "other"
        # Without issuerRef the Certificate goes, else it would be renewed for ever.
        cluster.apply(KIND, "taken", {"dnsNames": ["mail.example"], "ca": {}})
        wait_for(lambda: manager.get("transport-taken") is None, what="the Certificate to go")
        wait_for(lambda: not status(cluster, "taken").get("secretName"), what="the status to say so")
    finally:
        manager.uninstall()
        for name in ("issued", "taken", "mine"):
            cluster.client.delete(KIND, name, cluster.namespace)
    cluster.wait_settled()
