"""Two tiers in two namespaces of a real API server, subscribed to each other as an operator would do it."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cluster_kit import ENVIRONMENT, Cluster, condition
from control_plane import ControlPlane, binary, wait_for

from postroad_operator.certificates.servers import CURRENT

SERVERS = {"usage": "Internal", "permissionGroups": ["ExchangeServers"], "bindings": [{"port": 2525}]}


@pytest.fixture
def tiers(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cluster]]:
    """A hub tier and an edge tier, each with its namespace and its operator, without pods."""
    found = {}
    try:
        for role in ("hub", "edge"):
            control_plane.client.namespace(f"trust-{role}")
            found[role] = Cluster(control_plane, f"trust-{role}", tmp_path_factory.mktemp(role))
            found[role].apply("ReceiveConnector", "servers", SERVERS)
            # The later --hostname wins.
            found[role].operator("--role", role, "--hostname", f"{role}1.mail.example")
        yield found
    finally:
        for cluster in found.values():
            cluster.stop()


def trust(cluster: Cluster) -> dict[str, Any]:
    published = cluster.get("ConfigMap", "postroad-default")
    if published is None:
        return {"servers": [], "identity": None}
    config = json.loads(gzip.decompress(base64.b64decode(published["binaryData"]["config.json.gz"])))
    return dict(config["directTrust"])


def export(cluster: Cluster) -> str:
    kubectl = binary("kubectl")
    assert kubectl is not None
    done = subprocess.run(
        [sys.executable, "-m", "postroad_operator.cli", "subscription", "export", "--namespace", cluster.namespace],
        env={
            **ENVIRONMENT,
            "KUBECONFIG": str(cluster.plane.kubeconfig),
            "PATH": f"{kubectl.parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tiers_of_two_namespaces_are_subscribed_to_each_other_and_change_their_certificates(
    tiers: dict[str, Cluster],
) -> None:
    for cluster in tiers.values():
        wait_for(lambda cluster=cluster: trust(cluster)["identity"], what="a server certificate")
    for source, target in (("hub", "edge"), ("edge", "hub")):
        document = export(tiers[source])
        assert "PRIVATE KEY" not in document
        tiers[target].plane.kubectl("apply", "-n", tiers[target].namespace, "-f", "-", stdin=document)
        name = f"{source}-{source}1.mail.example"
        accepted = tiers[target].wait_condition("TransportCertificate", name, "Accepted")
        assert condition(accepted, "Accepted")["reason"] == "Accepted"
        assert accepted["status"]["thumbprint"] in document
        wait_for(lambda target=target: len(trust(tiers[target])["servers"]) == 4, what="both tiers' certificates")

    hub = tiers["hub"]
    before, following = trust(hub)["servers"][:2]
    secret = hub.client.get("Secret", "postroad-default-certificates", hub.namespace)
    patch = json.dumps([{"op": "remove", "path": f"/data/{CURRENT}.pem"}])
    hub.plane.kubectl("patch", "secret", secret["metadata"]["name"], "-n", hub.namespace, "--type=json", "-p", patch)
    hub.apply("ReceiveConnector", "servers", SERVERS | {"banner": "changed"})
    wait_for(lambda: trust(hub)["identity"]["thumbprint"] != before["thumbprint"], what="the next certificate")
    assert trust(hub)["identity"]["thumbprint"] == following["thumbprint"]
    assert following["thumbprint"] in {server["thumbprint"] for server in trust(tiers["edge"])["servers"]}
    keys = hub.client.get("Secret", "postroad-default", hub.namespace)["data"]
    assert trust(hub)["identity"]["keyFile"] in keys
