"""Whatever the configuration and the session: explain says what a live session then does, to the letter."""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
import time
from functools import cache
from pathlib import Path

from conftest import Line, MemoryStore
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from manifest_kit import HASH, auth_plain

from postroad_operator.certificates import CertificateRequest, KeySource, certificate_files, create_authority, issue
from postroad_transport.auth.sources import Sources
from postroad_transport.config import (
    AcceptedDomain,
    Authentication,
    AuthMechanism,
    Binding,
    Certificate,
    DomainType,
    Grant,
    Permission,
    Principal,
    ReceiveConnector,
    ReceiveLimits,
    TierConfig,
    TlsMode,
)
from postroad_transport.config.model import ALL_EXTENSIONS
from postroad_transport.policy.explain import Scenario
from postroad_transport.policy.groups import RECEIVE_PERMISSIONS
from postroad_transport.smtp.listener import Listeners
from postroad_transport.smtp.serving import prepare
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics
from postroad_transport.worker.explain import FullExplanation, accounts_in, explain

ACCOUNTS = f"alice:{HASH}:alice@example.com,*@sub.example.com\n"
BODY = b"body\r\n"
NAMES = ("c0.example", "c1.example", "c2.example")

grants = st.lists(
    st.builds(
        Grant,
        principal=st.sampled_from(["Anonymous", "AuthenticatedUsers", "user:alice", "ExternallySecuredServers"]),
        permission=st.sampled_from([*RECEIVE_PERMISSIONS, Permission.SUBMIT, Permission.SUBMIT]),
        deny=st.sampled_from([False, False, False, True]),
    ),
    max_size=12,
).map(tuple)
generous = tuple(
    Grant(principal=str(principal), permission=permission)
    for principal in (Principal.ANONYMOUS, Principal.AUTHENTICATED_USERS, Principal.EXTERNALLY_SECURED_SERVERS)
    for permission in (Permission.SUBMIT, Permission.ACCEPT_AUTHORITATIVE_DOMAIN_SENDER)
)
mechanisms = st.sets(
    st.sampled_from(
        [
            AuthMechanism.TLS,
            AuthMechanism.BASIC_AUTH,
            AuthMechanism.BASIC_AUTH_REQUIRE_TLS,
            AuthMechanism.EXTERNAL_AUTHORITATIVE,
        ]
    )
).map(lambda found: tuple(sorted(found)))


@st.composite
def connectors(draw: st.DrawFn) -> tuple[ReceiveConnector, ...]:
    ranges = draw(st.permutations(["127.0.0.0/8", "127.8.0.0/16", "127.8.1.0/24"]))
    return tuple(
        ReceiveConnector(
            name=f"c{index}",
            source=f"ReceiveConnector/mail/c{index}",
            bindings=(Binding(port=0, tls=draw(st.sampled_from([TlsMode.STARTTLS, TlsMode.STARTTLS, TlsMode.OFF]))),),
            remote_ip_ranges=(ranges[index],),
            fqdn=NAMES[index],
            auth_mechanisms=draw(mechanisms),
            grants=draw(grants) + draw(st.sampled_from([(), generous])),
            require_tls=draw(st.sampled_from([False, False, True])),
            authentication=Authentication(accounts_file=draw(st.sampled_from(["users", "users", ""]))),
            limits=ReceiveLimits(
                message_size=draw(st.sampled_from([0, 5000])),
                header_size=draw(st.sampled_from([0, 90])),
                recipients=draw(st.sampled_from([0, 1, 2])),
                hop_count=draw(st.sampled_from([0, 1])),
                errors=0,
                tarpit=0.0,
            ),
            extensions=draw(st.sampled_from([ALL_EXTENSIONS, ALL_EXTENSIONS, ("SIZE",), ()])),
        )
        for index in range(draw(st.integers(1, 3)))
    )


DOMAINS = (
    AcceptedDomain(domain="example.com", source="AcceptedDomain/mail/a", recipients=("alice", "bob"), default=True),
    AcceptedDomain(domain="sub.example.com", source="AcceptedDomain/mail/s", match_subdomains=True),
    AcceptedDomain(domain="alias.example", source="AcceptedDomain/mail/b", alias_of="example.com"),
    AcceptedDomain(domain="relay.example", source="AcceptedDomain/mail/r", type=DomainType.INTERNAL_RELAY),
)
addresses = st.sampled_from(
    [
        "alice@example.com", "bob@example.com", "eve@example.com", "ALICE@Example.COM", "alice@alias.example",
        "x@sub.example.com", "x@deep.sub.example.com", "x@relay.example", "x@elsewhere.example",
        '"q u"@example.com', "ü@example.com", "x@bücher.example", "bad address", "x@[192.0.2.1]", "@a:x@example.com",
    ]
)  # fmt: skip
header_lines = st.lists(
    st.sampled_from(
        [
            "Received: from a", "received : from b\n\tfolded", "X-MS-Exchange-Organization-SCL: -1",
            "x-ms-exchange-FOREST-a: 1", "X-MS-Exchange-Organization-AuthAs: Internal",
            "X-MS-Exchange-Organization-AuthAs: Nobody", "Subject: hello", "Sender: bob@example.com",
            "X-MS-Exchange-Organization-AuthSource: forged", "Date: now", "no colon at all", "Message-ID: <1@x>",
        ]
    ),
    max_size=4,
).map("\n".join)  # fmt: skip

scenarios = st.builds(
    Scenario,
    port=st.just(0),
    remote_ip=st.sampled_from(["127.0.0.1", "127.8.0.9", "127.8.1.9"]),
    helo=st.just("client.example"),
    tls=st.booleans(),
    account=st.sampled_from(["", "alice", "alice", "nobody"]),
    mail_from=st.sampled_from([""]) | addresses,
    recipients=st.lists(addresses | st.just("postmaster"), min_size=1, max_size=3).map(tuple),
    header_from=st.sampled_from(
        [
            "",
            "alice@example.com",
            "Bob <bob@example.com>",
            "x@elsewhere.example",
            "broken <",
            "a@b.c, alice@example.com",
        ]
    ),
    headers=header_lines,
    size=st.sampled_from([0, 100, 6000]),
)


@cache
def material() -> tuple[Certificate, dict[str, bytes], ssl.SSLContext]:
    source = "TransportCertificate/mail/c"
    authority = create_authority("CA", time.time())
    wanted = CertificateRequest(name="c", source=source, dns_names=NAMES, key_source=KeySource.CA)
    described, files = certificate_files(wanted, issue(authority, wanted, time.time()))
    return described, dict(files), ssl.create_default_context(cadata=authority.trust_pem.decode())


def tier(*served: ReceiveConnector) -> TierConfig:
    return TierConfig(
        tier="mail",
        hostname="mail.example.com",
        receive_connectors=served,
        accepted_domains=DOMAINS,
        certificates=(material()[0],),
    )


async def lived(config: TierConfig, directory: Path, scenario: Scenario) -> tuple[list[str], list[bytes]]:
    """Have the scenario's session with a tier that serves `config`; return its replies and what was stored."""
    store = MemoryStore()
    descriptor = os.open(os.devnull, os.O_WRONLY)
    serving = prepare(
        config,
        directory,
        store=store,
        metrics=Metrics(),
        events=EventLog(descriptor),
        sources=Sources(),
        on_committed=lambda envelope, content: None,
    )
    listeners = Listeners(("127.0.0.1",), reuse_port=False)
    await listeners.apply(serving)
    try:
        (bound,) = listeners.bound()
        streams = await asyncio.open_connection("127.0.0.1", bound.port, local_addr=(scenario.remote_ip, 0))
        line = Line(*streams)
        try:
            return await converse(line, scenario), [content for _, content in store.messages]
        finally:
            line.close()
    finally:
        await listeners.drain(0)
        os.close(descriptor)


async def converse(line: Line, scenario: Scenario) -> list[str]:
    greeting = await line.reply()
    if not greeting.startswith("220 "):
        return [greeting]
    said = [greeting.split(" ")[1]]
    offers = await line.ask(f"EHLO {scenario.helo}")
    if scenario.tls:
        said.append(await line.ask("STARTTLS"))
        if said[-1][:3] != "220":
            return said
        await line.writer.start_tls(material()[2], server_hostname=said[0])
        offers = await line.ask(f"EHLO {scenario.helo}")
    if scenario.account:
        said.append(await line.ask(auth_plain(scenario.account)))
        if said[-1][:3] != "235":
            return said
    everyone = "".join([scenario.mail_from, *scenario.recipients])
    size = f" SIZE={scenario.size}" if scenario.size and "SIZE" in offers else ""
    utf8 = " SMTPUTF8" if "SMTPUTF8" in offers and not everyone.isascii() else ""
    said.append(await line.ask(f"MAIL FROM:<{scenario.mail_from}>{size}{utf8}"))
    if said[-1][:1] != "2":
        return said
    replies = [await line.ask(f"RCPT TO:<{recipient}>") for recipient in scenario.recipients]
    said += replies
    if any(reply[:1] == "2" for reply in replies):
        assert (await line.ask("DATA"))[:3] == "354"
        header = f"From: {scenario.header_from}\n" if scenario.header_from else ""
        header += f"{scenario.headers}\n" if scenario.headers else ""
        content = header.encode().replace(b"\n", b"\r\n") + b"\r\n" + BODY
        if scenario.size and not size:
            # Where it cannot be declared, the size shows in what is sent.
            content += b"x" * (scenario.size - len(content) - 2) + b"\r\n"
        await line.send(content + b".\r\n")
        said.append(await line.reply())
        if said[-1][:3] == "250":
            said[-1] = "250 2.0.0 Ok: queued as ID"
    return said


def check_stored(explained: FullExplanation, stored: bytes) -> None:
    """What was stored is what explain tells: the trace, what is added, what the firewall leaves, the body."""
    header, _, body = stored.partition(b"\r\n\r\n")
    assert body.startswith(BODY)
    assert body.strip(b"x\r\n") == BODY.strip()
    unfolded = b" ".join(header.split(b" id ")[0].split()).decode()
    assert unfolded == explained.trace
    kept = explained.explanation.header.encode()
    assert (header + b"\r\n\r\n").endswith(kept)
    between = (header + b"\r\n\r\n").removesuffix(kept).partition(b";\r\n\t")[2].split(b"\r\n")[1:-1]
    added = [line.decode() for line in between]
    assert added[: len(explained.explanation.added)] == list(explained.explanation.added)
    rest = [line.partition(":")[0] for line in added[len(explained.explanation.added) :]]
    assert rest == list(explained.completed)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(served=connectors(), scenario=scenarios)
@example(
    served=(
        ReceiveConnector(
            name="c0",
            source="ReceiveConnector/mail/c0",
            bindings=(Binding(port=0),),
            remote_ip_ranges=("127.0.0.0/8",),
            fqdn=NAMES[0],
            auth_mechanisms=(AuthMechanism.TLS, AuthMechanism.BASIC_AUTH_REQUIRE_TLS),
            grants=generous,
            authentication=Authentication(accounts_file="users"),
        ),
    ),
    scenario=Scenario(
        port=0,
        remote_ip="127.0.0.1",
        helo="client.example",
        tls=True,
        account="alice",
        mail_from="alice@example.com",
        recipients=("bob@alias.example", "bob@example.com"),
        header_from="alice@example.com",
        headers="Received: from a\nSubject: hello",
    ),
)
def test_explain_and_a_live_session_agree(served: tuple[ReceiveConnector, ...], scenario: Scenario) -> None:
    config = tier(*served)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "secrets").mkdir()
        for file, content in {**material()[1], "users": ACCOUNTS.encode()}.items():
            (directory / "secrets" / file).write_bytes(content)
        explained = explain(config, scenario, accounts=accounts_in(directory))
        replies, stored = asyncio.run(lived(config, directory, scenario))
    fqdn = {connector.name: connector.fqdn for connector in served}
    told = [exchange.reply for exchange in explained.conversation]
    if explained.explanation.connector:
        told.insert(0, fqdn[explained.explanation.connector])
    assert replies == told
    for step in explained.explanation.steps:
        assert step.rule in ("headerFirewall", "syntax", "smtputf8", "postmaster") or step.source, step
        if step.allowed and step.rule != "headerFirewall":
            assert "no field allows" not in step.field, step
            assert " denies " not in step.field, step
    assert len(stored) == explained.explanation.accepted
    for content in stored:
        check_stored(explained, content)
