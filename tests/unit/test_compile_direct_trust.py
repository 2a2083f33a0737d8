"""Subscriptions and the tier's own certificates in the compiled configuration (spec.md 3 and 4)."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import yaml
from certificate_kit import NOW
from click.testing import CliRunner
from compile_kit import compiled, rconn, resource, sconn, verdict, warned
from hypothesis import given
from hypothesis import strategies as st
from keytab_kit import entry, keytab

from postroad_operator.certificates import DirectoryStore, certified
from postroad_operator.cli import main
from postroad_operator.cli.subscription import document
from postroad_operator.compile import Compilation, Reason, TierSettings, compile_tier
from postroad_operator.resources import Invalid, Resource, parse
from postroad_transport.config import Principal, Role, TierConfig
from postroad_transport.config.files import compress, encode, store
from postroad_transport.policy.direct_trust import names_the_server
from postroad_transport.supervisor.process import SERVED_DIRECTORY

SERVERS = {"usage": "Internal"}


def tier(directory: Path, *objects: Resource | Invalid, name: str = "hub1.corp.example", role: Role = Role.HUB):
    """Compile with certificates made, as postroad run does."""
    made = certified(objects, TierSettings(hostname=name, role=role), DirectoryStore(directory), NOW)
    return compile_tier(made.snapshot)


def exported(compilation: Compilation, for_tier: str = "default") -> Resource:
    parsed = parse(yaml.safe_load(document(compilation.config, for_tier)))
    assert isinstance(parsed, Resource), parsed
    return parsed


def principals(config: TierConfig) -> dict[str, str]:
    return {server.source: str(server.principal) for server in config.direct_trust.servers}


def test_what_one_tier_exports_the_other_trusts_and_nothing_secret_goes_with_it(tmp_path: Path) -> None:
    edge = tier(tmp_path / "edge", rconn(**SERVERS), name="edge1.corp.example", role=Role.EDGE)
    text = document(edge.config, "default")
    assert "PRIVATE KEY" not in text
    hub = tier(tmp_path / "hub", rconn(**SERVERS), exported(edge))
    assert [v for v in hub.verdicts if not v.accepted] == []
    source = "TransportCertificate/default/edge-edge1.corp.example"
    assert principals(hub.config) == {"": "HubTransportServers", source: "EdgeTransportServers"}
    theirs = [server.thumbprint for server in edge.config.direct_trust.servers]
    assert [server.thumbprint for server in hub.config.direct_trust.servers if not server.own] == sorted(theirs)
    assert not any(file.endswith(".key") and "edge" in file for file in hub.secret_files)


def test_a_tier_s_own_certificate_is_made_where_a_connector_authenticates_servers(tmp_path: Path) -> None:
    for number, connectors in enumerate(
        [
            [rconn(**SERVERS)],
            [rconn(authMechanisms=["TLS", "ExchangeServer"])],
            [sconn(usage="Internal", smartHosts=[{"host": "edge.example"}])],
            [sconn(smartHostAuthMechanism="ExchangeServer", smartHosts=[{"host": "edge.example"}])],
        ]
    ):
        config = tier(tmp_path / str(number), *connectors).config
        identity = config.direct_trust.identity
        assert identity is not None
        assert identity.thumbprint == config.direct_trust.servers[0].thumbprint


@pytest.mark.parametrize(
    "connector",
    [rconn(), rconn(**SERVERS, enabled=False), rconn(**SERVERS, tier="other"), sconn(usage="Internal")],
    ids=["no mechanism", "disabled", "of another tier", "by DNS"],
)
def test_no_certificate_is_made_where_nobody_would_present_it(tmp_path: Path, connector) -> None:
    result = tier(tmp_path / "store", connector)
    assert result.config.direct_trust.identity is None
    assert not (tmp_path / "store").exists()


def test_a_subscription_is_no_certificate_that_starttls_could_present(tmp_path: Path) -> None:
    edge = tier(tmp_path / "edge", rconn(**SERVERS), name="edge1.corp.example", role=Role.EDGE)
    assert tier(tmp_path / "hub", exported(edge)).config.certificates == ()


def test_one_certificate_cannot_be_a_hub_s_and_an_edge_s(tmp_path: Path) -> None:
    edge = tier(tmp_path / "edge", rconn(**SERVERS), name="edge1.corp.example", role=Role.EDGE)
    pem = edge.config.direct_trust.servers[0].certificate
    spec = {"subscription": {"role": "Hub", "certificates": pem}}
    late = resource("TransportCertificate", "late", spec, creationTimestamp="2026-02-01T00:00:00Z")
    hub = tier(tmp_path / "hub", rconn(**SERVERS), exported(edge), late)
    assert verdict(hub, "late").reason is Reason.CONFLICT
    assert set(principals(hub.config).values()) == {"HubTransportServers", "EdgeTransportServers"}
    again = tier(tmp_path / "edge", rconn(**SERVERS), late, name="edge1.corp.example", role=Role.EDGE)
    assert "by the tier itself" in verdict(again, "late").message


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_subscription_that_cannot_be_read_takes_down_nothing(tmp_path: Path, text: str) -> None:
    bad = resource("TransportCertificate", "bad", {"subscription": {"role": "Edge", "certificates": text}})
    hub = tier(tmp_path / "hub", rconn(**SERVERS), bad)
    assert verdict(hub, "bad").reason is Reason.CERTIFICATE_UNUSABLE
    assert len(hub.config.receive_connectors) == 1
    assert hub.config.direct_trust.identity is not None


def test_the_order_of_subscriptions_does_not_matter(tmp_path: Path) -> None:
    tiers = [
        tier(tmp_path / name, rconn(**SERVERS), name=f"{name}.corp.example", role=Role.EDGE) for name in ("e1", "e2")
    ]
    one, other = map(exported, tiers)
    assert compiled(one, other).config == compiled(other, one).config


def test_a_connector_under_another_name_is_warned_of(tmp_path: Path) -> None:
    hub = tier(tmp_path, rconn(**SERVERS, fqdn="mail.corp.example"))
    assert warned(hub, "r", "spec.fqdn: X-ANONYMOUSTLS is not offered", "hub1.corp.example")
    for own in ({}, {"fqdn": "hub1"}, {"fqdn": "HUB1.corp.example"}):
        assert not any("X-ANONYMOUSTLS" in w for w in verdict(tier(tmp_path, rconn(**SERVERS, **own)), "r").warnings)


def test_a_store_that_takes_no_certificate_is_warned_of(tmp_path: Path) -> None:
    class Full(DirectoryStore):
        def save(self, name: str, bundle: bytes) -> None:
            raise OSError(28, "No space left on device")

    made = certified([rconn(**SERVERS)], TierSettings(hostname="hub1.corp.example"), Full(tmp_path), NOW)
    hub = compile_tier(made.snapshot)
    assert warned(hub, "r", "spec.authMechanisms: X-ANONYMOUSTLS is not offered: the certificate store")


@given(st.from_regex(r"[a-z][a-z0-9-]{0,8}(\.[a-z]{1,8}){0,3}", fullmatch=True))
def test_a_server_has_three_names_and_no_other(hostname: str) -> None:
    short = hostname.partition(".")[0]
    assert all(names_the_server(name, hostname) for name in ("", hostname, hostname.upper(), short))
    assert not any(names_the_server(name, hostname) for name in (f"x{hostname}", f"{hostname}.x", f"mail.{short}"))


# The command line.


def run(*arguments: str):
    return CliRunner().invoke(main, arguments)


def test_export_prints_what_the_tier_serves(tmp_path: Path) -> None:
    edge = tier(tmp_path / "store", rconn(**SERVERS), name="edge1.corp.example", role=Role.EDGE)
    store(tmp_path / SERVED_DIRECTORY, compress(encode(edge.config)), edge.secret_files)
    result = run("subscription", "export", "--state-dir", str(tmp_path), "--for-tier", "inside")
    assert result.exit_code == 0, result.output
    spec = yaml.safe_load(result.output)["spec"]
    assert spec["tier"] == "inside"
    assert spec["subscription"]["role"] == "Edge"
    assert spec["subscription"]["certificates"].count("BEGIN CERTIFICATE") == 2


def test_where_there_is_nothing_to_export_the_exit_code_is_2(tmp_path: Path) -> None:
    assert run("subscription", "export", "--state-dir", str(tmp_path)).exit_code == 2
    assert run("subscription", "export", "--state-dir", str(tmp_path), "--namespace", "mail").exit_code == 2
    without = tier(tmp_path / "store", rconn())
    store(tmp_path / SERVED_DIRECTORY, compress(encode(without.config)), without.secret_files)
    result = run("subscription", "export", "--state-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "once a connector uses ExchangeServer" in result.output


def explained(directory: Path, *options: str) -> dict:
    result = run(
        "explain", str(directory), "--port", "25", "--from-ip", "192.0.2.1", "--hostname", "hub1.corp.example",
        "--mail-from", "a@elsewhere.example", "--rcpt", "b@elsewhere.example", "--output", "json", *options,
    )  # fmt: skip
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.output)["explanation"]


@pytest.mark.parametrize(
    ("fields", "allowed", "field"),
    [
        ({}, True, "spec.authMechanisms holds ExchangeServer"),
        ({"authMechanisms": ["TLS"]}, False, "spec.authMechanisms holds no ExchangeServer"),
        ({"fqdn": "mail.corp.example"}, False, "spec.fqdn: mail.corp.example is not the server's own name"),
        ({"bindings": [{"port": 25, "tls": "Off"}]}, False, "spec.bindings: this port has tls: Off"),
    ],
)
def test_explain_says_why_it_is_offered_or_not(tmp_path: Path, fields, allowed: bool, field: str) -> None:
    spec = {"bindings": [{"port": 25}], "usage": "Internal", **fields}
    manifest = {"apiVersion": "postroad.dev/v1alpha1", "kind": "ReceiveConnector", "metadata": {"name": "r"}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(manifest | {"spec": spec}))
    for role, principal in (("hub", Principal.HUB_TRANSPORT_SERVERS), ("edge", Principal.EDGE_TRANSPORT_SERVERS)):
        said = explained(tmp_path, "--server", role)
        (step,) = [step for step in said["steps"] if step["verb"] == "X-ANONYMOUSTLS"]
        assert step["allowed"] == said["accepted"] == allowed
        assert step["field"].startswith(field)
        assert said["principals"] == [principal if allowed else "Anonymous"]
        assert said["tls"] == allowed
    assert not [step for step in explained(tmp_path)["steps"] if step["verb"] == "X-ANONYMOUSTLS"]


@pytest.mark.parametrize(
    ("fields", "servers", "allowed", "field"),
    [
        ({}, ["LEGACY1$@A.TEST"], True, "spec.authentication.kerberos.legacyServers lists who it is for"),
        ({}, [], False, "spec.authentication.kerberos.legacyServers lists none"),
        ({"authMechanisms": ["TLS"]}, ["LEGACY1$@A.TEST"], False, "spec.authMechanisms holds no ExchangeServer"),
    ],
)
def test_explain_says_why_legacy_servers_get_in_or_not(tmp_path: Path, fields, servers, allowed: bool, field) -> None:
    kerberos = {"keytabSecretRef": {"name": "keys", "key": "keytab"}, "legacyServers": servers}
    spec = {"bindings": [{"port": 25}], "usage": "Internal", "authentication": {"kerberos": kerberos}, **fields}
    manifest = {"apiVersion": "postroad.dev/v1alpha1", "kind": "ReceiveConnector", "metadata": {"name": "r"}}
    data = {"keytab": base64.b64encode(keytab(entry("smtp/mail.example"))).decode()}
    keys = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "data": data}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump_all([manifest | {"spec": spec}, keys]))
    said = explained(tmp_path, "--server", "legacy")
    (step,) = [step for step in said["steps"] if step["verb"] == "X-EXPS GSSAPI"]
    assert (step["allowed"], step["field"]) == (allowed, field)
    assert said["accepted"] == allowed
    assert said["principals"] == ["LegacyExchangeServers" if allowed else "Anonymous"]
