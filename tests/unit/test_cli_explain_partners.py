"""``postroad explain`` and domain security: client certificates, and what a route needs of TLS."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from partner_kit import Ca

from postroad_operator.cli import main
from postroad_transport.config import (
    AddressSpace,
    DnsRouting,
    Host,
    SecureDomain,
    SendConnector,
    SmartHostRouting,
    TierConfig,
    TlsAuthLevel,
)
from postroad_transport.routing.table import Route, RoutingTable
from postroad_transport.worker.explain_tls import hop_tls

EXAMPLE = Path(__file__).parents[2] / "examples" / "domain-security"


def explain(*arguments: str, directory: Path = EXAMPLE) -> tuple[int, dict[str, Any]]:
    given = ["explain", str(directory), "--port", "2525", "--from-ip", "192.0.2.1", "--output", "json", *arguments]
    result = CliRunner().invoke(main, given)
    return result.exit_code, json.loads(result.stdout)


FROM_PARTNER = ("--mail-from", "bob@partner.example", "--rcpt", "alice@corp.example")


def test_a_name_in_a_valid_certificate_proves_a_domain_or_does_not() -> None:
    code, said = explain(*FROM_PARTNER, "--tls-name", "partner.example")
    assert code == 0
    assert said["explanation"]["principals"] == ["PartnerServers"]
    assert "X-MS-Exchange-Organization-AuthDomain: partner.example" in said["explanation"]["added"]
    code, said = explain(*FROM_PARTNER, "--tls-name", "mx.partner.example")
    assert code == 1
    assert said["conversation"][-1]["reply"].startswith("451 4.7.5 Mail from partner.example needs mutual TLS")


@pytest.mark.parametrize(("flags", "status"), [((), "4.7.10"), (("--tls",), "4.7.5")])
def test_without_a_certificate_the_reply_is_that_of_the_wire(flags: tuple[str, ...], status: str) -> None:
    code, said = explain(*FROM_PARTNER, *flags)
    assert code == 1
    assert said["conversation"][-1]["reply"].startswith(f"451 {status} ")


def test_a_certificate_in_a_file_is_verified_as_a_worker_would(tmp_path: Path) -> None:
    ours = Ca("ours", time.time())
    text = (EXAMPLE / "partner.yaml").read_text()
    start, end = text.index("    -----BEGIN"), text.index("-----END CERTIFICATE-----\n") + 26
    pem = "".join(f"    {line}\n" for line in ours.pem.splitlines())
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "partner.yaml").write_text(text[:start] + pem + text[end:])
    file = tmp_path / "client.pem"
    for authority, expected in ((ours, 0), (Ca("somebody", time.time()), 1)):
        file.write_bytes(authority.issue("partner.example").chain_pem)
        code, said = explain(*FROM_PARTNER, "--client-cert", str(file), directory=directory)
        assert code == expected, said["conversation"]
    assert "no authority that is trusted here" in said["conversation"][-1]["reply"]
    file.write_text("nothing")
    given = ["explain", str(directory), "--port", "2525", "--from-ip", "192.0.2.1", *FROM_PARTNER]
    result = CliRunner().invoke(main, [*given, "--client-cert", str(file)])
    assert result.exit_code == 2
    assert "not PEM certificates" in result.output


DNS = DnsRouting()
HOSTS = SmartHostRouting(hosts=(Host(host="relay.example"),))


@pytest.mark.parametrize(
    ("routing", "domain", "fields", "said"),
    [
        (DNS, "far.example", {}, "TLS where it is offered, unverified"),
        (DNS, "far.example", {"ignore_starttls": True}, "no TLS"),
        (DNS, "far.example", {"require_tls": True}, "TLS required, unverified"),
        (
            DNS,
            "partner.example",
            {},
            "mutual TLS with a certificate for partner.example (revocation: WherePublished); else mail waits",
        ),
        (
            HOSTS,
            "partner.example",
            {"tls_auth_level": TlsAuthLevel.DOMAIN_VALIDATION},
            "TLS required, with a valid certificate for relay.example (revocation: WherePublished); else mail waits",
        ),
    ],
)
def test_a_route_says_what_its_sessions_need_of_tls(
    routing: Any, domain: str, fields: dict[str, Any], said: str
) -> None:
    connector = SendConnector(
        name="s",
        source="SendConnector/default/s",
        address_spaces=(AddressSpace(domain="*"),),
        routing=routing,
        fqdn="mx.corp.example",
        secure_domains=(SecureDomain(domain="partner.example", names=("partner.example",)),),
        **fields,
    )
    table = RoutingTable(TierConfig(tier="t", hostname="mx.corp.example", send_connectors=(connector,)))
    route = table.route(domain)
    assert isinstance(route, Route)
    assert hop_tls(route) == said
