"""issuerRef with cert-manager itself: what it makes of the Certificates that the operator applies."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from cert_manager_process import CONTROLLER, DEFINITIONS, CertManagerProcess, definitions
from cluster_kit import Cluster
from control_plane import ControlPlane, wait_for
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tls_cluster_kit import KIND, accepted, served, session, shown, tls_cluster

ROOT = {"name": "root", "kind": "ClusterIssuer"}
CORPORATE = {"name": "corporate"}


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if definitions() is None:
        pytest.skip(
            f"NO CERT-MANAGER: {CONTROLLER} and the directory {DEFINITIONS} not found beside kube-apiserver; that"
            " issuerRef works with cert-manager itself is not shown by this run"
        )
    with tls_cluster(control_plane, "issued", tmp_path_factory.mktemp("issued")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def manager(cluster: Cluster) -> Iterator[CertManagerProcess]:
    """A self-signed ClusterIssuer, and an Issuer with a CA that the former signed."""
    manager = CertManagerProcess(cluster.plane, cluster.namespace, cluster.directory)
    try:
        manager.install()
        manager.create(_document("ClusterIssuer", "root", {"selfSigned": {}}))
        authority = {"isCA": True, "commonName": "Corporate CA", "secretName": "corporate-ca", "issuerRef": ROOT}
        manager.create(_document("Certificate", "corporate-ca", authority))
        manager.create(_document("Issuer", "corporate", {"ca": {"secretName": "corporate-ca"}}))
        yield manager
    finally:
        manager.uninstall()


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "cert-manager.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _leaf(cluster: Cluster, name: str) -> x509.Certificate:
    data = cluster.get("Secret", f"transport-{name}")["data"]
    return x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))


def test_it_issues_for_every_kind_of_key_and_subject(cluster: Cluster, manager: CertManagerProcess) -> None:
    subject = {"C": "KR", "O": 'Example, "Inc" + Söhne', "OU": ["Mail", "Hub"], "S": "Seoul", "L": "Jung-gu"}
    written = 'CN=mail.example,OU=Hub,OU=Mail,O=Example\\, \\"Inc\\" \\+ Söhne,L=Jung-gu,ST=Seoul'
    cases: dict[str, tuple[dict[str, Any], type, str]] = {
        "ecdsa": ({"issuerRef": CORPORATE}, ec.EllipticCurvePublicKey, "CN=mail.example"),
        "rsa": (
            {"issuerRef": CORPORATE, "privateKey": {"algorithm": "RSA", "size": 3072}, "subject": subject},
            rsa.RSAPublicKey,
            f"{written},C=KR",
        ),
        "ed25519": (
            {"issuerRef": CORPORATE, "privateKey": {"algorithm": "Ed25519"}, "subject": {"CN": "hub 1"}},
            ed25519.Ed25519PublicKey,
            "CN=hub 1",
        ),
        "components": (
            {"issuerRef": ROOT, "subject": subject | {"DC": ["corp", "example"]}},
            ec.EllipticCurvePublicKey,
            f"{written},DC=corp,DC=example,C=KR",
        ),
    }
    for name, (spec, _, _) in cases.items():
        cluster.apply(KIND, name, {"dnsNames": ["mail.example", f"{name}.example"], **spec})
    for name, (_, key, wanted) in cases.items():
        status = served(cluster, name)
        leaf = _leaf(cluster, name)
        assert isinstance(leaf.public_key(), key)
        assert leaf.subject.rfc4514_string() == wanted
        assert status["dnsNames"] == ["mail.example", f"{name}.example"]
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert {usage.dotted_string for usage in usages} == {"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"}
        assert accepted(cluster, name)["status"] == "True", accepted(cluster, name)
        # It is asked for once: neither side writes what the other would change back.
        assert (manager.certificate(f"transport-{name}") or {})["metadata"]["generation"] == 1
    for name in cases:
        cluster.client.delete(KIND, name, cluster.namespace)


@pytest.mark.parametrize("rotation", ["Always", "Never"])
def test_what_it_renews_is_served_by_every_pod_and_open_sessions_go_on(
    cluster: Cluster, manager: CertManagerProcess, rotation: str
) -> None:
    name = f"renewed-{rotation.lower()}"
    spec = {"dnsNames": ["mail.example"], "issuerRef": CORPORATE, "privateKey": {"rotation": rotation}}
    cluster.apply(KIND, name, spec)
    first, before = served(cluster, name), _leaf(cluster, name)
    assert shown(cluster) == {first["thumbprint"]}
    with session(cluster.pods[0].address) as (client, thumbprint):
        assert thumbprint == first["thumbprint"]
        manager.renew(f"transport-{name}")
        second = served(cluster, name, unlike=first["thumbprint"])
        assert client.noop()[0] == 250
    assert shown(cluster) == {second["thumbprint"]}
    assert (before.public_key() == _leaf(cluster, name).public_key()) is (rotation == "Never")
    cluster.client.delete(KIND, name, cluster.namespace)


def test_what_changes_in_the_spec_is_issued_anew(cluster: Cluster, manager: CertManagerProcess) -> None:
    spec: dict[str, Any] = {"dnsNames": ["mail.example"], "issuerRef": CORPORATE}
    cluster.apply(KIND, "changed", spec)
    first = served(cluster, "changed")
    assert first["issuer"] == "CN=Corporate CA"
    cluster.apply(KIND, "changed", spec | {"dnsNames": ["mail.example", "hub1"], "subject": {"DC": ["example"]}})
    second = served(cluster, "changed", unlike=first["thumbprint"])
    assert second["dnsNames"] == ["mail.example", "hub1"]
    assert _leaf(cluster, "changed").subject.rfc4514_string() == "CN=mail.example,DC=example"
    last = spec | {"issuerRef": ROOT, "subject": {"O": "Corp", "L": "Jung-gu"}}
    cluster.apply(KIND, "changed", last)
    third = served(cluster, "changed", unlike=second["thumbprint"])
    assert third["issuer"] == "CN=mail.example,O=Corp,L=Jung-gu"
    # What is no longer asked for is no longer in the Certificate either.
    cluster.apply(KIND, "changed", last | {"subject": {"O": "Corp"}})
    assert served(cluster, "changed", unlike=third["thumbprint"])["issuer"] == "CN=mail.example,O=Corp"
    cluster.client.delete(KIND, "changed", cluster.namespace)


def test_it_waits_for_an_issuer_in_words_and_issues_when_it_is_there(
    cluster: Cluster, manager: CertManagerProcess
) -> None:
    cluster.apply(KIND, "early", {"dnsNames": ["mail.example"], "issuerRef": {"name": "late"}})
    told = wait_for(lambda: _said(cluster, "early", "late"), what="cert-manager's words")
    assert told["reason"] == "Pending"
    manager.create(_document("Issuer", "late", {"selfSigned": {}}))
    assert served(cluster, "early")["issuer"] == "CN=mail.example"
    cluster.client.delete(KIND, "early", cluster.namespace)


def _said(cluster: Cluster, name: str, word: str) -> dict[str, Any] | None:
    found = accepted(cluster, name)
    return found if f'"{word}"' in found.get("message", "") else None
