"""Send usage and grant by destination: which headers leave (spec.md 1.2, 1.5), by the pure function and over SMTP.

ExchangeServer destinations prove with X-ANONYMOUSTLS that they are hub transport servers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from manifest_kit import compiled, resource
from smtp_peer import Peer, envelope
from trust_kit import party, trust

from postroad_transport.config import SendConnector, TierConfig
from postroad_transport.policy.headers import outbound
from postroad_transport.policy.principals import send_permissions
from postroad_transport.routing.table import Route, RoutingTable
from postroad_transport.telemetry.metrics import Metrics
from postroad_transport.tls.direct_trust import trust_contexts
from postroad_transport.worker.hops import Resolvers, hop_factory

HEADERS = {
    "Send-Headers-Routing": b"Received: from inside.example\r\n",
    "Send-Headers-Organization": b"X-MS-Exchange-Organization-SCL: -1\r\n",
    "Send-Headers-Forest": b"X-MS-Exchange-Forest-Id: 7\r\n",
}
PERMISSIONS = [*HEADERS, "Send-Exch50"]
MESSAGE = b"".join(HEADERS.values()) + b"Subject: kept\r\n\r\nReceived: body\r\n"

#: Table 1.5: usage to (permissions, to whom).
SERVERS = ["HubTransportServers", "EdgeTransportServers", "ExternallySecuredServers", "LegacyExchangeServers"]
TABLE: dict[str, tuple[list[str], list[str]]] = {
    "Internal": (PERMISSIONS, SERVERS),
    "Internet": (["Send-Headers-Routing"], ["Anonymous"]),
    "Partner": (["Send-Headers-Routing"], ["PartnerServers"]),
    "Custom": ([], []),
}


@dataclass(frozen=True)
class Case:
    name: str
    spec: dict[str, Any]
    held: frozenset[str]

    def expected(self) -> bytes:
        kept = b"".join(line for permission, line in HEADERS.items() if permission in self.held)
        if "Send-Headers-Routing" not in self.held:
            kept = b"X-Postroad-Hops: 1\r\n" + kept
        return kept + b"Subject: kept\r\n\r\nReceived: body\r\n"


def destination(usage: str, mechanism: str) -> str:
    """Who the other side is to us."""
    known = {"ExternalAuthoritative": "ExternallySecuredServers", "ExchangeServer": "HubTransportServers"}
    return known.get(mechanism, "PartnerServers" if usage == "Partner" else "Anonymous")


def cases() -> list[Case]:
    found = []
    for usage, (permissions, granted_to) in TABLE.items():
        for mechanism in ("None", "ExternalAuthoritative", "ExchangeServer"):
            who = destination(usage, mechanism)
            spec = {"usage": usage, "smartHostAuthMechanism": mechanism}
            by_usage = frozenset(permissions) if who in granted_to else frozenset()
            found.append(Case(f"{usage}, {mechanism}", spec, by_usage))
            for permission in PERMISSIONS:
                for effect, held in (("Allow", by_usage | {permission}), ("Deny", by_usage - {permission})):
                    entry = {"principal": who, "permissions": [permission], "effect": effect}
                    name = f"{usage}, {mechanism}, {effect} {permission}"
                    found.append(Case(name, spec | {"grants": [entry]}, held))
            stranger = {"principal": "LegacyExchangeServers", "permissions": PERMISSIONS}
            found.append(Case(f"{usage}, {mechanism}, for others", spec | {"grants": [stranger]}, by_usage))
    return found


CASES = cases()


def configured(case: Case, port: int) -> TierConfig:
    smart_hosts = [{"host": "127.0.0.1", "port": port}]
    spec = {"addressSpaces": [{"domain": "*"}], "smartHosts": smart_hosts} | case.spec
    compilation = compiled(resource("SendConnector", "out", spec))
    assert all(verdict.accepted for verdict in compilation.verdicts)
    return compilation.config


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_leaves_is_what_the_table_and_the_grants_say(case: Case) -> None:
    connector: SendConnector = configured(case, 25).send_connectors[0]
    permissions = send_permissions(connector)
    assert {str(permission) for permission in permissions} == case.held
    assert b"".join(outbound([MESSAGE], permissions).content) == case.expected()


async def test_what_arrives_is_what_the_table_and_the_grants_say(tmp_path: Path) -> None:
    ours, theirs = party("ours"), party("theirs")
    here = trust_contexts(trust(tmp_path, ours, hub=theirs), tmp_path)
    there = trust_contexts(trust(tmp_path, theirs, hub=ours), tmp_path)
    extensions = ("XEXCH50", "8BITMIME", "X-ANONYMOUSTLS")
    async with Peer(extensions=extensions, tls_context=there.server) as peer:
        for case in CASES:
            config = configured(case, peer.port)
            route = RoutingTable(config).route("elsewhere.example")
            assert isinstance(route, Route)
            make = hop_factory(
                config,
                {},
                state_dir=tmp_path,
                addresses=(),
                resolvers=Resolvers(),
                metrics=Metrics(),
                server_trust=here,
            )
            hop = make(route)
            message = envelope("r@elsewhere.example")
            await hop.deliver(message, message.recipients, [MESSAGE])
            await hop.close()
            assert peer.taken[-1].data == case.expected(), case.name
    assert len(peer.taken) == len(CASES)
    assert "X-ANONYMOUSTLS" in peer.commands
    assert not [command for command in peer.commands if command.startswith("XEXCH50")]
