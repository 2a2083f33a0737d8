"""``postroad lint``, ``render`` and ``crds``: output, exit codes, and no secret where none was asked for."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from postroad_operator.cli import COMMANDS, main
from postroad_operator.resources.crds import manifests
from postroad_operator.resources.reference import reference
from postroad_transport.config import Role, TierConfig
from postroad_transport.config.files import CONFIG_FILE

GOOD = """\
apiVersion: postroad.dev/v1alpha1
kind: SendConnector
metadata: {name: out}
spec:
  addressSpaces: [{domain: "*"}]
  smartHosts: [{host: relay.example}]
  smartHostAuthMechanism: BasicAuthRequireTLS
  authSecretRef: {name: relay}
---
apiVersion: v1
kind: Secret
metadata: {name: relay}
stringData: {username: corp, password: geheim}
"""
WARNED = """\
apiVersion: postroad.dev/v1alpha1
kind: ReceiveConnector
metadata: {name: in}
spec:
  usage: Internet
  bindings: [{port: 2525}]
  protocolLogging: true
"""
REFUSED = """\
apiVersion: postroad.dev/v1alpha1
kind: AcceptedDomain
metadata: {name: corp}
spec: {domain: corp.example}
"""
INVALID = REFUSED.replace("domain: corp.example", "domain: corp.example, typ: x")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def test_lint_of_sound_manifests_exits_with_0(directory: Path) -> None:
    result = run("lint", directory)
    assert result.exit_code == 0
    assert "SendConnector/default/out  accepted" in result.output
    assert "1 accepted, 0 refused, 0 warnings, 0 faults" in result.output


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (REFUSED, "bad.yaml:1: error: document 1: AcceptedDomain/default/corp: spec.deliver: corp.example"),
        (
            INVALID,
            "bad.yaml:4: error: document 1: AcceptedDomain/default/corp: spec.typ: unknown field: did you",
        ),
        ("a: [", ": error: document 1: YAML: did not find"),
    ],
)
def test_lint_of_refused_or_invalid_manifests_exits_with_1_and_names_the_place(
    directory: Path, content: str, expected: str
) -> None:
    (directory / "bad.yaml").write_text(content)
    result = run("lint", directory)
    assert result.exit_code == 1
    assert expected in result.output
    assert "SendConnector/default/out" in result.output


def test_warnings_fail_only_under_strict(directory: Path) -> None:
    (directory / "warned.yaml").write_text(WARNED)
    relaxed, strict = run("lint", directory), run("lint", "--strict", directory)
    assert (relaxed.exit_code, strict.exit_code) == (0, 1)
    assert "warning: document 1: ReceiveConnector/default/in: spec.protocolLogging: accepted but" in relaxed.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["lint"],
        ["lint", "/nowhere"],
        ["render", "/nowhere"],
        ["lint", ".", "--role", "x"],
        ["lint", ".", "--network", "x"],
    ],
)
def test_a_command_that_cannot_be_carried_out_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_lint_for_machines_is_json(directory: Path) -> None:
    (directory / "bad.yaml").write_text(REFUSED + "---\n" + INVALID.replace("name: corp", "name: b"))
    report = json.loads(run("lint", "--output", "json", directory).output)
    assert (report["accepted"], report["refused"]) == (1, 2)
    by_source = {verdict["source"]: verdict for verdict in report["verdicts"]}
    assert by_source["AcceptedDomain/default/corp"]["reason"] == "NoRoute"
    assert by_source["AcceptedDomain/default/corp"]["file"].endswith("bad.yaml")
    (fault,) = report["faults"]
    assert (fault["field"], fault["document"], fault["line"]) == ("spec.typ", 2, 9)


def test_lint_follows_the_role_the_hostname_and_the_networks(directory: Path) -> None:
    (directory / "users.yaml").write_text(
        WARNED.replace("protocolLogging: true", "permissionGroups: [ExchangeUsers]\n  authMechanisms: [TLS]")
    )
    assert run("lint", directory).exit_code == 0
    assert "refused: NotAvailable" in run("lint", "--role", "edge", directory).output
    assert "holds the name hub9.example" in run("lint", "--hostname", "HUB9.example", directory).output
    (directory / "users.yaml").write_text(
        WARNED.replace(
            "protocolLogging: true",
            "remoteIPRanges: [192.0.2.0/24]\n"
            "  grants: [{principal: Anonymous, permissions: [SMTP-Accept-Any-Recipient]}]",
        )
    )
    assert "refused: OpenRelay" in run("lint", directory).output
    assert run("lint", "--network", "192.0.2.0/23", directory).exit_code == 0


def test_resources_of_every_tier_are_checked(directory: Path) -> None:
    (directory / "other.yaml").write_text(REFUSED.replace("{domain", "{tier: other, domain"))
    result = run("lint", directory)
    assert result.exit_code == 1
    assert "SendConnector/default/out" in result.output
    assert "AcceptedDomain/default/corp" in result.output


def test_lint_of_an_empty_directory_says_so(tmp_path: Path) -> None:
    result = run("lint", tmp_path)
    assert result.exit_code == 0
    assert "no resources found" in result.output


def test_render_prints_what_the_cluster_would_get(directory: Path) -> None:
    result = run("render", "--role", "edge", directory)
    assert result.exit_code == 0
    config_map, secret = yaml.safe_load_all(result.output)
    encoded = gzip.decompress(base64.b64decode(config_map["binaryData"][CONFIG_FILE]))
    config = msgspec.json.decode(encoded, type=TierConfig)
    assert config.role is Role.EDGE
    (connector,) = config.send_connectors
    assert secret["data"] == {connector.credentials_file: "<redacted>"}
    assert "geheim" not in result.output


def test_render_does_without_what_only_the_operator_needs(directory: Path) -> None:
    code = "import sys; sys.modules['kopf'] = None; from postroad_operator.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "render", str(directory)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_render_decoded_is_the_same_configuration_to_read(directory: Path) -> None:
    compressed = json.loads(run("render", "--output", "json", directory).output)["items"][0]
    decoded = json.loads(run("render", "--output", "json", "--decoded", directory).output)["items"][0]
    encoded = gzip.decompress(base64.b64decode(compressed["binaryData"][CONFIG_FILE]))
    assert json.loads(decoded["data"]["config.json"]) == json.loads(encoded)
    assert decoded["metadata"] == compressed["metadata"]


def test_render_shows_secrets_when_asked(directory: Path) -> None:
    _, secret = yaml.safe_load_all(run("render", "--show-secrets", directory).output)
    (value,) = secret["data"].values()
    assert json.loads(base64.b64decode(value)) == {"username": "corp", "password": "geheim"}


def test_render_leaves_out_what_is_refused_and_says_so(directory: Path) -> None:
    (directory / "bad.yaml").write_text(REFUSED)
    result = run("render", directory)
    assert result.exit_code == 1
    assert "left out: AcceptedDomain/default/corp: spec.deliver" in result.stderr
    assert len(list(yaml.safe_load_all(result.stdout))) == 2


def test_crds_are_printed_or_written(tmp_path: Path) -> None:
    assert len(list(yaml.safe_load_all(run("crds").output))) == 4
    assert run("crds", "--output-dir", tmp_path / "crds", "--reference", tmp_path / "docs" / "r.md").exit_code == 0
    assert {file.name: file.read_text() for file in (tmp_path / "crds").iterdir()} == manifests()
    assert (tmp_path / "docs" / "r.md").read_text() == reference()


def test_the_overview_lists_every_command_and_loads_none() -> None:
    result = run("--help")
    assert all(name in result.output for name in COMMANDS)
    loaded = (
        "import sys; from postroad_operator.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('pydantic', 'yaml', 'uvloop')))"
    )
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=False).returncode == 0


def test_an_unknown_command_is_refused() -> None:
    assert run("lnit").exit_code == 2


def test_hidden_client_addresses_refuse_relay_by_range(directory: Path) -> None:
    (directory / "relay.yaml").write_text(
        WARNED.replace("protocolLogging: true", "remoteIPRanges: [10.0.0.0/8]")
        + "  grants: [{principal: Anonymous, permissions: [SMTP-Accept-Any-Recipient]}]\n"
    )
    assert run("lint", directory).exit_code == 0
    result = run("lint", directory, "--client-addresses-hidden")
    assert result.exit_code == 1
    assert "ReceiveConnector/default/in" in result.output
    assert "refused: ClientAddressesHidden" in result.output
