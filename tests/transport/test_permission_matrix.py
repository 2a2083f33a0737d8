"""Group, usage and grant by role by principal by verb: by the pure functions, and over real SMTP.

Hub and edge servers prove themselves with X-ANONYMOUSTLS, legacy servers with X-EXPS GSSAPI. Partners, and legacy
servers where there is no KDC, have real sessions that begin with the principal which they would prove to be.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from kdc_kit import Client, missing, running_realm
from keytab_kit import entry, keytab
from manifest_kit import ACCOUNTS, auth_plain, compiled, connector, domain, free_ports, read, secrets, users
from permission_matrix import (
    ALL,
    BIG,
    BYPASS_SPAM,
    COLLEAGUE,
    HEADERS,
    HUB_ONLY,
    OK,
    OUTSIDE,
    OWN,
    PRINCIPALS,
    SIZE_LIMIT,
    Case,
    cases,
    expected,
    members,
)
from ticket_login import log_in
from trust_kit import party, trust

from postroad_operator.compile import Compilation, Reason
from postroad_operator.resources import Resource
from postroad_transport.config import Role
from postroad_transport.policy import headers
from postroad_transport.policy.address import parse_mailbox
from postroad_transport.policy.connectors import ConnectorPolicy
from postroad_transport.policy.receive import check_exch50, check_login, check_mail, check_message, check_recipient
from postroad_transport.policy.session import ANONYMOUS, SessionFacts
from postroad_transport.policy.tier import TierPolicy
from postroad_transport.policy.verdict import Allow, Verdict
from postroad_transport.tls.direct_trust import trust_contexts

CASES = list(cases())
CERTIFIED = {"HubTransportServers": "hub", "EdgeTransportServers": "edge"}
LEGACY, REALM, SERVICE = "host/legacy1.mail.example", "EXAMPLE.TEST", "smtp/mail.example.com"
KERBEROS = {
    "kerberos": {"keytabSecretRef": {"name": "keys", "key": "keytab"}, "legacyServers": [f"{LEGACY}@{REALM}"]}
}


def address_of(index: int) -> str:
    """Each case has a connector for one loopback address of its own, all on one port."""
    return f"127.7.{index // 200}.{index % 200 + 1}"


def case_connector(case: Case, index: int, port: int) -> Resource:
    legacy = case.principal == "LegacyExchangeServers"
    mechanism = {"ExternallySecuredServers": "ExternalAuthoritative", "LegacyExchangeServers": "ExchangeServer"}
    mechanism |= dict.fromkeys(CERTIFIED, "ExchangeServer")
    spec = case.spec | {
        "remoteIPRanges": [f"{address_of(index)}/32"],
        "authMechanisms": [mechanism.get(case.principal, "BasicAuth")],
        "authentication": KERBEROS if legacy else ACCOUNTS,
        "limits": {"messageSize": SIZE_LIMIT},
    }
    return connector(f"c{index}", port, **spec)


def compiled_cases(role: str, port: int, keys: bytes = b"") -> tuple[Compilation, list[tuple[str, Case]]]:
    """Compile every case of a role, with a keytab; return the compilation and the cases by connector name."""
    mine = [(index, case) for index, case in enumerate(CASES) if case.role == role]
    objects = [case_connector(case, index, port) for index, case in mine]
    data = {"keytab": base64.b64encode(keys or keytab(entry(SERVICE, REALM))).decode()}
    secret = read({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "data": data})
    compilation = compiled(*objects, domain("example.com"), users(f"alice:{OWN}"), secret, role=Role(role))
    assert [v for v in compilation.verdicts if not v.accepted] == []
    return compilation, [(f"c{index}", case) for index, case in mine]


def probe_message(header_from: str = "", *, forged: bool = False) -> bytes:
    fields = {"From": header_from} if header_from else {}
    lines = (fields | HEADERS if forged else fields).items()
    return "".join(f"{name}: {value}\r\n" for name, value in lines).encode() + b"\r\nbody\r\n"


def observed(stored: bytes) -> dict[str, object]:
    """Return which forged headers stand in a stored message, and what its stamps say."""
    lines = stored.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    stamps = [line.partition(": ")[2] for line in lines if line.startswith("X-MS-Exchange-Organization-AuthAs:")]
    assert len(stamps) == 1, stored
    kept = {name for name in list(HEADERS)[:3] if f"{name}: {HEADERS[name]}" in lines}
    return {"kept": kept, "AuthAs": stamps[0]}


# By the pure functions.


def outcome(verdict: Verdict) -> str:
    return OK if isinstance(verdict, Allow) else verdict.reply.line


def judged(tier: TierPolicy, policy: ConnectorPolicy, case: Case) -> dict[str, object]:
    found: dict[str, object] = {}
    session = SessionFacts("192.0.2.1", 25, principals=frozenset(members(case.principal)))
    if case.principal.startswith("user:"):
        session.account, session.account_addresses = "alice", (OWN,)
        found["login"] = outcome(check_login(policy, session))
        if found["login"] != OK:
            session = SessionFacts("192.0.2.1", 25, principals=ANONYMOUS)
    permissions = policy.permissions(session)

    def mail(address: str, size: int | None = None) -> str:
        sender = parse_mailbox(address.encode(), smtputf8=False) if address else None
        return outcome(check_mail(tier, policy, session, sender, size=size))

    def message(content: bytes) -> tuple[str, bytes]:
        report = headers.inspect(content, permissions, hostname="mail.example.com")
        kept = content if report.kept is None else b"".join(report.kept) + content[report.header_end :]
        verdict = check_message(tier, policy, session, report, size=len(content))
        return outcome(verdict), headers.stamps(session, report) + kept

    found["offers XEXCH50"] = isinstance(check_exch50(policy, session), Allow)
    found |= {"mail": mail(OUTSIDE), "mail inside": mail(COLLEAGUE), "mail own": mail(OWN)}
    if mail("") == OK:
        found["mail size"] = mail("", BIG)
        for name, address in (("rcpt inside", COLLEAGUE), ("rcpt outside", OUTSIDE)):
            recipient = parse_mailbox(address.encode(), smtputf8=False)
            found[name] = outcome(check_recipient(tier, policy, session, recipient, count=0))
        found["exch50"] = outcome(check_exch50(policy, session))
        found["from outside"] = message(probe_message(OUTSIDE))[0]
        found["from inside"] = message(probe_message(COLLEAGUE))[0]
        found |= observed(message(probe_message(forged=True))[1])
    return found


@pytest.mark.parametrize("role", ["hub", "edge"])
def test_the_pure_functions_answer_every_case_as_the_tables_say(role: str) -> None:
    compilation, named = compiled_cases(role, 25)
    tier = TierPolicy(compilation.config)
    connectors = {policy.config.name: policy for policy in tier.connectors.connectors}
    assert {case.name: judged(tier, connectors[name], case) for name, case in named} == {
        case.name: expected(case) for _, case in named
    }


@pytest.mark.parametrize("group", sorted(HUB_ONLY))
def test_an_edge_tier_has_no_such_group(group: str) -> None:
    (verdict,) = compiled(connector("c", 25, permissionGroups=[group]), role=Role.EDGE).verdicts
    assert verdict.reason is Reason.NOT_AVAILABLE


def test_the_matrix_covers_every_permission_of_every_principal() -> None:
    explicit = {case.name for case in CASES if case.name.startswith(("allow", "deny"))}
    for principal in PRINCIPALS:
        for permission in ALL:
            assert {f"{word} {permission} to {principal}/{principal}" for word in ("allow", "deny")} <= explicit


# Over real SMTP.


@dataclass
class Tickets:
    """A legacy server's tickets, and the keytab with the tier's keys."""

    cache: Path
    keytab: bytes

    def client(self) -> Client:
        return Client(self.cache, SERVICE, REALM)


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tickets | None]:
    """Tickets of a real KDC; None where there is none."""
    if missing():
        yield None
        return
    with running_realm(tmp_path_factory.mktemp("kdc"), REALM) as realm, realm.in_process():
        realm.add(LEGACY, "secret")
        realm.add(SERVICE)
        yield Tickets(realm.log_in(LEGACY, "secret"), realm.keytab(SERVICE).read_bytes())


class Session:
    """A client that knows the probes."""

    def __init__(self, line) -> None:
        self.line = line

    async def ask(self, command: str) -> str:
        reply: str = await self.line.ask(command)
        return OK if reply.startswith("2") else reply

    async def transaction(self, content: bytes) -> str:
        """Send a message from the null sender; return the reply at its end."""
        await self.line.script("RSET", "MAIL FROM:<>", f"RCPT TO:<{COLLEAGUE}>", "DATA")
        await self.line.send(content + b".\r\n")
        reply: str = await self.line.reply()
        return OK if reply.startswith("2") else reply

    async def mail(self, address: str, parameters: str = "") -> str:
        await self.ask("RSET")
        return await self.ask(f"MAIL FROM:<{address}>{parameters}")

    async def exch50(self) -> str:
        reply: str = await self.line.ask("XEXCH50 7 1")
        if reply != "354 Send binary data":
            return reply
        return await self.ask("bytes")  # 7 octets with the CRLF


async def talked(
    tier, case: Case, index: int, contexts: dict[str, ssl.SSLContext], tickets: Tickets | None
) -> dict[str, object]:
    found: dict[str, object] = {}
    line = await tier.connect(local_addr=(address_of(index), 0))
    session = Session(line)
    await line.reply()
    await session.ask("EHLO client.example")
    if case.principal in CERTIFIED:
        assert await line.ask("X-ANONYMOUSTLS") == "220 2.0.0 Ready to start TLS"
        await line.writer.start_tls(contexts[case.principal])
    if case.principal == "LegacyExchangeServers" and tickets is not None:
        assert await log_in(line, tickets.client()) == "235 2.7.0 Authentication successful"
    if case.principal.startswith("user:"):
        found["login"] = await session.ask(auth_plain("alice"))
    offers = (await line.ask("EHLO client.example")).split("\n")
    found["offers XEXCH50"] = any(offer[4:] == "XEXCH50" for offer in offers)
    found["mail"] = await session.mail(OUTSIDE)
    found["mail inside"] = await session.mail(COLLEAGUE)
    found["mail own"] = await session.mail(OWN)
    if await session.mail("") == OK:
        found["mail size"] = await session.mail("", f" SIZE={BIG}")
        await session.mail("")
        found["rcpt outside"] = await session.ask(f"RCPT TO:<{OUTSIDE}>")
        found["rcpt inside"] = await session.ask(f"RCPT TO:<{COLLEAGUE}>")
        found["exch50"] = await session.exch50()
        found["from outside"] = await session.transaction(probe_message(OUTSIDE))
        found["from inside"] = await session.transaction(probe_message(COLLEAGUE))
        assert await session.transaction(probe_message(forged=True)) == OK
        client = address_of(index)
        stored = [content for envelope, content in tier.store.messages if envelope.client == client]
        assert stored[-1].count(b"body\r\n") == 1
        found |= observed(stored[-1])
    line.close()
    return found


@pytest.mark.parametrize("role", ["hub", "edge"])
async def test_real_sessions_answer_every_case_as_the_tables_say(
    role: str, make_tier, tmp_path: Path, tickets: Tickets | None
) -> None:
    compilation, named = compiled_cases(role, *free_ports(1), keys=tickets.keytab if tickets else b"")
    secrets(tmp_path, compilation)
    servers = {principal: party(name) for principal, name in CERTIFIED.items()}
    own = party("own")
    known = trust(tmp_path, own, **{CERTIFIED[principal]: server for principal, server in servers.items()})
    contexts = {
        principal: trust_contexts(trust(tmp_path, server, hub=own), tmp_path).client
        for principal, server in servers.items()
    }
    tier = await make_tier(config=msgspec.structs.replace(compilation.config, direct_trust=known))
    for name, case in named:
        if case.principal == "PartnerServers" or (case.principal == "LegacyExchangeServers" and tickets is None):
            tier.serving.connectors[name].principals = frozenset({case.principal})
    results = await asyncio.gather(*(talked(tier, case, int(name[1:]), contexts, tickets) for name, case in named))
    assert {case.name: result for (_, case), result in zip(named, results, strict=True)} == {
        case.name: expected(case) for _, case in named
    }
    legacy = sum(case.principal == "LegacyExchangeServers" for _, case in named)
    assert tier.count("postroad_authentications_total", mechanism="X-EXPS GSSAPI", result="ok") == legacy * bool(
        tickets
    )
    if role == "hub":
        lacking = set(ALL) - {BYPASS_SPAM}
        refused = {event["permission"] for event in events(tier, "command.refused") if "permission" in event}
        stripped_only = {permission for permission in ALL if permission.startswith("Accept-Headers")}
        assert refused == lacking - stripped_only - {"SMTP-Accept-Authentication-Flag"}
        for permission in refused:
            assert tier.count("postroad_refusals_total", permission=permission) > 0
        reasons = [event["because"] for event in events(tier, "command.refused")]
        assert any("spec.grants[11] denies SMTP-Accept-Any-Recipient to user:alice" in reason for reason in reasons)


def events(tier, name: str) -> list[dict[str, str]]:
    return [event for event in map(json.loads, tier.events().splitlines()) if event["event"] == name]
