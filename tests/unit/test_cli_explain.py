"""``postroad explain``: against manifests, against what a tier serves, for people and for machines."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from postroad_operator.certificates import DirectoryStore
from postroad_operator.cli import main
from postroad_operator.compile import TierSettings
from postroad_operator.run.build import build
from postroad_transport.config.files import compress, encode, store

HASH = "$2b$04$6tcdIZE7k749KmKiOBbvte9T9.5OZozpns/zfPBFWJb9XKjWlj.I."
MANIFESTS = f"""\
apiVersion: v1
kind: Secret
metadata: {{name: users}}
stringData:
  htpasswd: |
    alice:{HASH}:alice@a.example,*@own.example
---
apiVersion: postroad.dev/v1alpha1
kind: ReceiveConnector
metadata: {{name: submission}}
spec:
  usage: Client
  fqdn: mail.a.example
  bindings: [{{port: 587}}, {{port: 465, tls: Implicit}}]
  requireTLS: true
  authentication: {{htpasswdSecretRef: {{name: users, key: htpasswd}}}}
---
apiVersion: postroad.dev/v1alpha1
kind: ReceiveConnector
metadata: {{name: mx}}
spec:
  usage: Internet
  bindings: [{{port: 25}}]
---
apiVersion: postroad.dev/v1alpha1
kind: ReceiveConnector
metadata: {{name: printers}}
spec:
  bindings: [{{port: 25}}]
  remoteIPRanges: [10.1.0.0/16]
  grants:
    - {{principal: Anonymous, permissions: [SMTP-Submit, SMTP-Accept-Any-Recipient]}}
---
apiVersion: postroad.dev/v1alpha1
kind: AcceptedDomain
metadata: {{name: a}}
spec: {{domain: a.example, deliver: {{lmtp: {{host: mailboxes, port: 24}}}}}}
---
apiVersion: postroad.dev/v1alpha1
kind: SendConnector
metadata: {{name: out}}
spec:
  usage: Internet
  addressSpaces: [{{domain: "*.example"}}]
  smartHosts: [{{host: relay.example}}]
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "all.yaml").write_text(MANIFESTS)
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["explain", *map(str, arguments)])


def explained(*arguments: str | Path) -> dict[str, Any]:
    result = run(*arguments, "--output", "json")
    assert result.exit_code in (0, 1), result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


SUBMISSION = ("--port", "587", "--from-ip", "192.0.2.7", "--helo", "laptop", "--tls", "--auth", "alice")


def test_an_accepted_message_shows_connectors_rules_replies_headers_and_routes(directory: Path) -> None:
    result = run(
        directory, *SUBMISSION, "--mail-from", "x@own.example", "--header-from", "alice@a.example",
        "--rcpt", "bob@a.example", "--rcpt", "c@b.example", "--header", "Received: from elsewhere",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for expected in (
        "ReceiveConnector/default/mx          bound to port 25, not 587",
        "0.0.0.0/0 is the most specific range on port 587 that holds 192.0.2.7",
        "spec.usage: Client (ExchangeUsers) allows SMTP-Accept-Any-Recipient to AuthenticatedUsers",
        "no field allows Accept-Headers-Routing to AuthenticatedUsers, user:alice",
        "250 2.1.5 Recipient OK",
        "Received: from laptop ([192.0.2.7]) by mail.a.example with ESMTPSA",
        "X-MS-Exchange-Organization-AuthAs: Internal",
        "lmtp to lmtp:mailboxes:24",
        "out to smarthost:out",
        "needs Send-Headers-Organization: no field allows Send-Headers-Organization to Anonymous",
        "accepted for bob@a.example, c@b.example",
    ):
        assert expected in result.output


@pytest.mark.parametrize(
    ("options", "command", "reply"),
    [
        ((*SUBMISSION, "--mail-from", "eve@a.example"), "MAIL FROM:<eve@a.example>",
         "550 5.7.1 Client does not have permission to send as this sender"),
        ((*SUBMISSION, "--header-from", "eve@b.example"), "DATA",
         "550 5.7.1 Client does not have permission to send on behalf of the from address"),
        ((*SUBMISSION[:-1], "bob"), "AUTH", "535 5.7.3 Authentication unsuccessful"),
        (("--port", "587", "--from-ip", "192.0.2.7"), "MAIL FROM:<>",
         "451 5.7.3 Must issue a STARTTLS command first"),
        (("--port", "465", "--from-ip", "192.0.2.7"), "MAIL FROM:<>", "530 5.7.1 Client was not authenticated"),
        (("--port", "25", "--from-ip", "192.0.2.7", "--tls"), "STARTTLS", "502 5.5.1 STARTTLS is not offered"),
        (("--port", "25", "--from-ip", "192.0.2.7"), "RCPT TO:<x@elsewhere.test>", "550 5.7.1 Unable to relay"),
        (("--port", "25", "--from-ip", "192.0.2.7", "--size", "40Mi"), "MAIL FROM:<>",
         "552 5.3.4 Message size exceeds fixed maximum message size"),
        (("--port", "26", "--from-ip", "192.0.2.7"), "", "connection refused: no connector is bound to this port"),
    ],
)  # fmt: skip
def test_a_refusal_ends_with_the_reply_and_exit_code_1(
    directory: Path, options: tuple[str, ...], command: str, reply: str
) -> None:
    arguments = (directory, *options, "--rcpt", "x@elsewhere.test")
    assert explained(*arguments)["conversation"][-1] == {"command": command, "reply": reply}
    assert run(*arguments).exit_code == 1


def test_the_narrower_range_takes_the_session_and_the_route_may_be_missing(directory: Path) -> None:
    said = explained(directory, "--port", "25", "--from-ip", "10.1.2.3", "--rcpt", "x@elsewhere.test")
    assert said["explanation"]["connector"] == "printers"
    assert {c["connector"]: c["reason"] for c in said["explanation"]["choices"]}["mx"] == (
        "0.0.0.0/0 is less specific than 10.1.0.0/16"
    )
    (delivery,) = said["deliveries"]
    assert delivery["reply"] == "550 5.4.4 No send connector covers elsewhere.test"


CERTIFICATE = """\
apiVersion: postroad.dev/v1alpha1
kind: TransportCertificate
metadata: {name: mail}
spec: {dnsNames: [mail.a.example], ca: {}}
"""


def serve(directory: Path, tmp_path: Path) -> None:
    compilation = build(directory, TierSettings(), DirectoryStore(tmp_path / "certificates"), time.time()).compilation
    store(tmp_path / "state/served", compress(encode(compilation.config)), compilation.secret_files)


def test_a_tier_s_served_configuration_is_asked_like_its_manifests(directory: Path, tmp_path: Path) -> None:
    (directory / "certificate.yaml").write_text(CERTIFICATE)
    serve(directory, tmp_path)
    options = (*SUBMISSION, "--mail-from", "alice@a.example", "--rcpt", "c@b.example")
    served = run("--state-dir", tmp_path / "state", *options, "--output", "json")
    assert "no tier runs with" in served.stderr
    assert json.loads(served.stdout) == explained(directory, *options)
    (tmp_path / "state/run.json").write_text('{"control": "run/control.sock"}')
    assert run("--state-dir", tmp_path / "state", *options).stderr == ""


def test_no_hash_is_printed(directory: Path) -> None:
    options = (directory, *SUBMISSION, "--rcpt", "c@b.example")
    assert "$2b$" not in run(*options).output + run(*options, "--output", "json").output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--from-ip", "nowhere"), "is not an IP address"),
        (("--from-ip", "::1", "--header", "no colon"), "write Name: value"),
        (("--from-ip", "::1", "--size", "big"), "write bytes"),
        (("--from-ip", "::1", "--tier", "other"), "there is no tier other, but default"),
        (("--from-ip", "::1", "--state-dir", "x"), "one of DIRECTORY"),
    ],
)
def test_a_question_that_cannot_be_asked_exits_with_2(
    directory: Path, options: tuple[str, ...], expected: str
) -> None:
    result = run(directory, "--port", "25", "--rcpt", "x@a.example", *options)
    assert result.exit_code == 2
    assert expected in result.output


def test_where_no_tier_serves_the_exit_code_is_2(tmp_path: Path) -> None:
    result = run("--state-dir", tmp_path, "--port", "25", "--from-ip", "::1", "--rcpt", "x@a.example")
    assert result.exit_code == 2
    assert "no tier serves from" in result.output


def test_several_tiers_need_a_choice_and_what_is_refused_is_named(directory: Path) -> None:
    open_relay = (
        MANIFESTS.split("---\n")[3].replace("name: printers", "name: wide").replace("10.1.0.0/16", "0.0.0.0/0")
    )
    other = MANIFESTS.split("---\n")[2].replace("name: mx", "name: edge").replace("spec:", "spec:\n  tier: edge")
    (directory / "more.yaml").write_text(f"{open_relay}---\n{other}")
    options = ("--port", "25", "--from-ip", "::1", "--rcpt", "x@a.example")
    assert "give --tier" in run(directory, *options).output
    result = run(directory, *options, "--tier", "default")
    assert (
        "left out: ReceiveConnector/default/wide: ReceiveConnector/default/wide would be an open relay"
        in result.stderr
    )


def test_a_served_tier_without_a_certificate_for_the_name_offers_no_starttls(directory: Path, tmp_path: Path) -> None:
    serve(directory, tmp_path)
    answer = run("--state-dir", tmp_path / "state", *SUBMISSION, "--rcpt", "c@b.example", "--output", "json")
    assert json.loads(answer.stdout)["conversation"] == [
        {"command": "STARTTLS", "reply": "502 5.5.1 STARTTLS is not offered"}
    ]
