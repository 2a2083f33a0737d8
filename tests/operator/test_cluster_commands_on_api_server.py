"""``postroad explain`` and ``lint`` asked about a cluster that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cluster_kit import Cluster, condition
from control_plane import ControlPlane, wait_for

from postroad_operator.cli import main

ACCOUNTS = "alice@mail.example:$2b$04$6tcdIZE7k749KmKiOBbvte9T9.5OZozpns/zfPBFWJb9XKjWlj.I.\n"
SUBMISSION = {
    "usage": "Client",
    "fqdn": "mail.example",
    "bindings": [{"port": 587}, {"port": 465, "tls": "Implicit"}],
    "authentication": {"htpasswdSecretRef": {"name": "accounts", "key": "htpasswd"}},
}


@pytest.fixture(scope="module")
def asked(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    control_plane.client.namespace("asked")
    cluster = Cluster(control_plane, "asked", tmp_path_factory.mktemp("asked"))
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "accounts"}}
    cluster.client.apply(secret | {"stringData": {"htpasswd": ACCOUNTS}}, "asked")
    cluster.apply("ReceiveConnector", "submission", SUBMISSION)
    cluster.apply(
        "ReceiveConnector",
        "bare",
        SUBMISSION | {"bindings": [{"port": 4650, "tls": "Implicit"}], "fqdn": "bare.example"},
    )
    cluster.apply("TransportCertificate", "mail", {"ca": {}, "dnsNames": ["mail.example"]})
    cluster.apply(
        "AcceptedDomain", "mail", {"domain": "mail.example", "deliver": {"lmtp": {"host": "h", "port": 24}}}
    )
    cluster.apply(
        "AcceptedDomain", "twice", {"domain": "mail.example", "deliver": {"lmtp": {"host": "h", "port": 24}}}
    )
    cluster.apply("SendConnector", "out", {"addressSpaces": [{"domain": "*"}], "dns": {}})
    try:
        cluster.operator()
        wait_for(
            lambda: condition(cluster.get("AcceptedDomain", "twice"), "Accepted").get("status") == "False",
            what="a first publication",
        )
        yield cluster
    finally:
        cluster.stop()


def run(cluster: Cluster, *arguments: str, kubeconfig: Path | None = None) -> Result:
    environment = {"KUBECONFIG": str(kubeconfig or cluster.plane.kubeconfig)}
    return CliRunner().invoke(main, [*arguments, "--cluster", "-n", cluster.namespace], env=environment)


def explained(cluster: Cluster, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = run(
        cluster, "explain", "--from-ip", "192.0.2.7", "--rcpt", "bob@else.example", "--output", "json", *arguments
    )
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout)


def test_explain_tells_what_the_cluster_serves(asked: Cluster) -> None:
    login = ("--auth", "alice@mail.example", "--mail-from", "alice@mail.example")
    code, said = explained(asked, "--port", "587", "--tls", *login)
    assert (code, said["explanation"]["connector"]) == (0, "submission")
    assert said["deliveries"][0]["connector"] == "out"
    code, said = explained(asked, "--port", "587", "--tls", "--auth", "mallory", "--mail-from", "m@mail.example")
    assert code == 1
    code, said = explained(asked, "--port", "465", *login)
    assert code == 0


def test_an_implicit_port_without_a_certificate_is_closed_silently(asked: Cluster) -> None:
    code, said = explained(asked, "--port", "4650")
    assert code == 1
    assert "closed without a word" in said["conversation"][0]["reply"]
    assert "bare.example" in said["explanation"]["steps"][0]["field"]


def test_lint_tells_every_verdict(asked: Cluster) -> None:
    done = run(asked, "lint")
    assert done.exit_code == 1
    assert "AcceptedDomain/asked/twice" in done.output
    assert "belongs to AcceptedDomain/asked/mail" in done.output
    # It knows the published certificates and the role: nothing else is wrong.
    assert "5 accepted, 1 refused" in done.output


def test_without_the_right_to_read_secrets_it_says_so_and_goes_on(asked: Cluster) -> None:
    asked.plane.kubectl(
        *("create", "role", "reader", "-n", asked.namespace, "--verb=get,list"),
        "--resource=receiveconnectors,sendconnectors,accepteddomains,transportcertificates,configmaps",
    )
    asked.plane.kubectl("create", "rolebinding", "reader", "-n", asked.namespace, "--role=reader", "--user=reader")
    done = run(asked, "lint", kubeconfig=asked.plane.user_kubeconfig("reader"))
    assert "note: Secrets may not be read" in done.output
    assert "AcceptedDomain/asked/mail" in done.output


def test_without_a_cluster_it_ends_with_2(asked: Cluster, tmp_path: Path) -> None:
    assert run(asked, "lint", kubeconfig=tmp_path / "none").exit_code == 2
