"""X-ANONYMOUSTLS over real sockets: who is offered it, who gets in, who becomes what (spec.md 2.1, 3 and 4)."""

from __future__ import annotations

import asyncio
import json
import ssl

import pytest
from conftest import connector, tier_config
from smtp_peer import EXTENSIONS, Peer, deliver, hop_to, settings
from trust_kit import Party, party, trust

from postroad_transport.config import AuthMechanism, DirectTrust, Grant, Permission, Principal, TlsMode
from postroad_transport.config.model import Binding
from postroad_transport.delivery.hop import Result
from postroad_transport.policy.groups import receive_grants, send_grants
from postroad_transport.tls.direct_trust import trust_contexts

SERVERS = receive_grants("ExchangeServers", "hub")
STAMPED = b"X-MS-Exchange-Organization-AuthAs: Internal\r\nSubject: s\r\n\r\nbody\r\n"


def servers_connector(**fields):
    return connector(**{"auth_mechanisms": (AuthMechanism.EXCHANGE_SERVER,), "grants": SERVERS, **fields})


@pytest.fixture
def own() -> Party:
    return party("mail.example.com")


@pytest.fixture
def make_trusting(make_tier, tmp_path, own):
    """Start a tier that presents `own` and knows `servers`."""

    async def make(connectors=(), **servers: Party):
        given = tier_config(*(connectors or (servers_connector(),)), direct_trust=trust(tmp_path, own, **servers))
        return await make_tier(config=given)

    return make


def client_context(tmp_path, who: Party, server: Party, *, tls12: bool = False) -> ssl.SSLContext:
    contexts = trust_contexts(trust(tmp_path, who, hub=server), tmp_path)
    if tls12:
        contexts.client.maximum_version = ssl.TLSVersion.TLSv1_2
    return contexts.client


async def prove(line, context) -> str:
    """Use X-ANONYMOUSTLS; return the reply to the EHLO that follows."""
    await line.start()
    assert await line.ask("X-ANONYMOUSTLS") == "220 2.0.0 Ready to start TLS"
    await line.writer.start_tls(context, server_hostname="mail.example.com")
    return await line.ask("EHLO peer.example")


# Who is offered it.


@pytest.mark.parametrize(
    ("fqdn", "offered"),
    [("mail.example.com", True), ("mail", True), ("MAIL.example.com", True), ("other.example.com", False)],
)
async def test_it_is_offered_where_the_connector_has_the_server_s_own_name(make_trusting, own, fqdn, offered):
    tier = await make_trusting((servers_connector(fqdn=fqdn),))
    line = await tier.connect()
    await line.reply()
    assert ("X-ANONYMOUSTLS" in (await line.ask("EHLO c.example")).split("-", 1)[1]) == offered
    reply = await line.ask("X-ANONYMOUSTLS")
    assert reply == ("220 2.0.0 Ready to start TLS" if offered else "502 5.5.1 X-ANONYMOUSTLS is not offered")


@pytest.mark.parametrize(
    "fields",
    [
        {"auth_mechanisms": ()},
        {"auth_mechanisms": (AuthMechanism.TLS,)},
        {"bindings": (Binding(port=0, tls=TlsMode.OFF),)},
    ],
)
async def test_it_is_not_offered_without_the_mechanism_or_where_the_port_has_no_tls(make_trusting, fields):
    tier = await make_trusting((servers_connector(**fields),))
    line = await tier.connect()
    await line.reply()
    assert "X-ANONYMOUSTLS" not in await line.ask("EHLO c.example")
    assert (await line.ask("X-ANONYMOUSTLS"))[:3] == "502"


async def test_it_is_not_offered_and_refused_for_now_while_the_tier_has_no_certificate(make_tier):
    tier = await make_tier(config=tier_config(servers_connector(), direct_trust=DirectTrust()))
    line = await tier.connect()
    await line.reply()
    assert "X-ANONYMOUSTLS" not in await line.ask("EHLO c.example")
    assert await line.ask("X-ANONYMOUSTLS") == "454 4.7.0 TLS not available due to temporary reason"
    assert tier.count("postroad_refusals_total", verb="X-ANONYMOUSTLS", rule="certificate") == 1


# Who gets in.


@pytest.mark.parametrize(
    "peer",
    [
        party("self-signed"),
        party("issued", issuer=party("authority", authority=True)),
        party("expired", expired=True),
        party("for-servers-only", client=False),
        party("an-authority-itself", authority=True),
    ],
    ids=lambda peer: peer.name,
)
@pytest.mark.parametrize("tls12", [False, True])
@pytest.mark.parametrize(("role", "principal"), [("hub", "HubTransportServers"), ("edge", "EdgeTransportServers")])
async def test_a_stored_certificate_is_valid_whoever_issued_it(
    make_trusting, tmp_path, own, peer, tls12, role, principal
):
    tier = await make_trusting(**{role: peer})
    line = await tier.connect()
    ehlo = await prove(line, client_context(tmp_path, peer, own, tls12=tls12))
    assert "XEXCH50" in ehlo
    assert "X-ANONYMOUSTLS" not in ehlo
    assert await line.ask("X-ANONYMOUSTLS") == "502 5.5.1 X-ANONYMOUSTLS is not offered"
    replies = await line.script("MAIL FROM:<a@example.com>", "RCPT TO:<b@elsewhere.example>", "DATA")
    assert [reply[:3] for reply in replies] == ["250", "250", "354"]
    await line.send(STAMPED + b".\r\n")
    assert (await line.reply())[:3] == "250"
    ((_, content),) = tier.store.messages
    assert content.count(b"X-MS-Exchange-Organization-AuthAs: Internal") == 1
    assert tier.count("postroad_direct_trust_handshakes_total", direction="in", principal=principal, result="ok") == 1


async def test_without_it_the_same_connector_takes_nothing(make_trusting, own):
    tier = await make_trusting(hub=party("peer"))
    line = await tier.connect()
    await line.start()
    assert await line.ask("MAIL FROM:<a@example.com>") == "530 5.7.1 Client was not authenticated"


@pytest.mark.parametrize("tls12", [False, True])
async def test_a_certificate_that_is_not_stored_is_refused_and_counted(make_trusting, tmp_path, own, tls12):
    stranger = party("peer")
    tier = await make_trusting(hub=party("peer"))
    line = await tier.connect()
    with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
        await prove(line, client_context(tmp_path, stranger, own, tls12=tls12))
    refused = {"direction": "in", "principal": "", "result": "unknown_certificate"}
    assert tier.count("postroad_direct_trust_handshakes_total", **refused) == 1
    (event,) = [e for e in map(json.loads, tier.events().splitlines()) if e["event"] == "direct_trust.refused"]
    assert event["reason"] == "unknown_certificate"
    assert tier.store.messages == []


async def test_a_client_without_a_certificate_is_refused_and_counted(make_trusting):
    tier = await make_trusting()
    line = await tier.connect()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
        await prove(line, context)
    assert tier.count("postroad_direct_trust_handshakes_total", result="no_certificate") == 1


async def test_a_stored_authority_does_not_vouch_for_what_it_has_issued(make_trusting, tmp_path, own):
    authority = party("authority", authority=True)
    tier = await make_trusting(hub=authority)
    line = await tier.connect()
    await line.start()
    await line.ask("X-ANONYMOUSTLS")
    await line.writer.start_tls(client_context(tmp_path, party("issued", issuer=authority), own))
    assert await line.reply() == "421 4.7.5 Your certificate is none of this organisation's servers'"
    assert await line.at_end()
    assert tier.count("postroad_direct_trust_handshakes_total", result="unknown_certificate") == 1


async def test_what_is_put_behind_the_command_in_clear_is_dropped(make_trusting, tmp_path, own):
    peer = party("peer")
    tier = await make_trusting(hub=peer)
    line = await tier.connect()
    await line.start()
    await line.send(b"X-ANONYMOUSTLS\r\nMAIL FROM:<injected@elsewhere.example>\r\n")
    await line.reply()
    await line.writer.start_tls(client_context(tmp_path, peer, own))
    assert await line.ask("RCPT TO:<b@example.com>") == "503 5.5.1 Send MAIL first"


# Sending.


def hop_as(tmp_path, who: Party, server: Party, port: int, *, role: str = "hub", **fields):
    """Return a hop to a port of loopback that presents `who` and knows `server`."""
    contexts = trust_contexts(trust(tmp_path, who, **{role: server}), tmp_path)
    given = settings(server_trust=contexts)
    fields = {"auth_mechanism": AuthMechanism.EXCHANGE_SERVER, "grants": send_grants("Internal"), **fields}
    return hop_to(port, given=given, **fields), given.metrics


async def test_two_servers_that_know_each_other_exchange_mail_with_its_stamps(make_trusting, tmp_path, own):
    peer = party("peer")
    tier = await make_trusting(hub=peer)
    hop, metrics = hop_as(tmp_path, peer, own, tier.ports[0])
    (outcome,) = await deliver(hop, "b@elsewhere.example", content=[STAMPED])
    await hop.close()
    assert outcome.result is Result.DELIVERED, outcome
    assert outcome.tls == "TLSv1.3"
    ((_, content),) = tier.store.messages
    assert content.count(b"X-MS-Exchange-Organization-AuthAs: Internal") == 1
    labels = {"direction": "out", "principal": "HubTransportServers", "result": "ok"}
    assert metrics.registry.get_sample_value("postroad_direct_trust_handshakes_total", labels) == 1


@pytest.mark.parametrize(
    ("role", "denied_to", "kept"),
    [("hub", "Hub", False), ("hub", "Edge", True), ("edge", "Edge", False), ("edge", "Hub", True)],
)
async def test_what_leaves_is_what_the_server_that_answers_may_have(
    make_trusting, tmp_path, own, role, denied_to, kept
):
    peer = party("peer")
    tier = await make_trusting(hub=peer)
    principal = Principal(f"{denied_to}TransportServers")
    deny = Grant(principal=principal, permission=Permission.SEND_HEADERS_ORGANIZATION, deny=True)
    hop, _ = hop_as(tmp_path, peer, own, tier.ports[0], role=role, grants=(*send_grants("Internal"), deny))
    await deliver(hop, "b@example.com", content=[STAMPED])
    await hop.close()
    ((_, content),) = tier.store.messages
    # A message that comes without stamps gets new ones, with their source.
    assert (b"AuthSource" in content) == (not kept)


async def test_where_it_is_not_offered_nothing_is_sent(tmp_path, own):
    async with Peer(extensions=(*EXTENSIONS, "STARTTLS", "AUTH PLAIN")) as peer:
        hop, metrics = hop_as(tmp_path, party("peer"), own, peer.port)
        (outcome,) = await deliver(hop)
        await hop.close()
        async with asyncio.timeout(5):
            while len(peer.commands) < 2:
                await asyncio.sleep(0)
    assert outcome.result is Result.DEFERRED
    assert outcome.reply.startswith("454 4.7.0")
    assert "does not offer X-ANONYMOUSTLS" in outcome.reply
    assert peer.commands == ["EHLO tier.example", "QUIT"]
    labels = {"direction": "out", "principal": "", "result": "not_offered"}
    assert metrics.registry.get_sample_value("postroad_direct_trust_handshakes_total", labels) == 1


async def test_where_it_is_refused_or_followed_by_clear_text_nothing_is_sent(tmp_path, own):
    for answer in (b"454 4.7.0 not now\r\n", b"220 go\r\n250 injected\r\n"):
        async with Peer(extensions=("X-ANONYMOUSTLS",), answers={"X-ANONYMOUSTLS": answer}) as peer:
            hop, _ = hop_as(tmp_path, party("peer"), own, peer.port)
            (outcome,) = await deliver(hop)
            await hop.close()
        assert outcome.result is Result.DEFERRED
        assert not any(command.startswith("MAIL") for command in peer.commands)


async def test_a_tier_without_a_certificate_sends_nothing(own):
    async with Peer(extensions=("X-ANONYMOUSTLS",)) as peer:
        hop = hop_to(peer.port, auth_mechanism=AuthMechanism.EXCHANGE_SERVER)
        (outcome,) = await deliver(hop)
        await hop.close()
    assert outcome.reply.startswith("454 4.7.0 this tier has no certificate yet")


async def test_to_a_server_that_is_not_known_nothing_is_sent(make_trusting, tmp_path, own):
    peer = party("peer")
    tier = await make_trusting(hub=peer)
    hop, metrics = hop_as(tmp_path, peer, party("mail.example.com"), tier.ports[0])
    (outcome,) = await deliver(hop)
    await hop.close()
    assert outcome.result is Result.DEFERRED
    assert outcome.reply.startswith("454 4.7.5")
    assert "a certificate that no subscription holds" in outcome.reply
    labels = {"direction": "out", "principal": "", "result": "unknown_certificate"}
    assert metrics.registry.get_sample_value("postroad_direct_trust_handshakes_total", labels) == 1
    assert tier.store.messages == []


async def test_from_a_server_that_authority_alone_vouches_for_nothing_is_taken(make_trusting, tmp_path):
    authority = party("authority", authority=True)
    issued, peer = party("mail.example.com", issuer=authority), party("peer")
    tier = await make_trusting(hub=peer)
    contexts = trust_contexts(trust(tmp_path, issued, hub=peer), tmp_path)
    tier.serving.connectors["internet"].server_trust = contexts
    hop, _ = hop_as(tmp_path, peer, authority, tier.ports[0])
    (outcome,) = await deliver(hop)
    await hop.close()
    assert outcome.reply.startswith("454 4.7.5 no subscription holds the certificate")


async def test_a_server_that_does_not_know_us_is_told_of_in_the_queue(make_trusting, tmp_path, own):
    stranger = party("peer")
    tier = await make_trusting(hub=party("peer"))
    hop, _ = hop_as(tmp_path, stranger, own, tier.ports[0])
    (outcome,) = await deliver(hop)
    await hop.close()
    assert outcome.result is Result.DEFERRED
    assert outcome.reply.startswith("454 4.7.5")
    assert stranger.thumbprint in outcome.reply
    assert "is it in a subscription there?" in outcome.reply
    assert tier.store.messages == []


async def test_the_next_certificate_is_known_before_it_is_presented(make_trusting, tmp_path, own):
    first, second = party("peer"), party("peer")
    tier = await make_trusting(hub=first, hub_next=second)
    for presented in (first, second):
        hop, _ = hop_as(tmp_path, presented, own, tier.ports[0])
        (outcome,) = await deliver(hop)
        await hop.close()
        assert outcome.result is Result.DELIVERED
