"""Two live tiers of one organisation, hub and edge, with a subscription each way (spec.md 1.2, 3 and 4)."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from running_tier import Manifests, Tier, document, free_port, wait_for

from postroad_operator.certificates.servers import CURRENT
from postroad_transport.config.files import load
from postroad_transport.supervisor.process import SERVED_DIRECTORY

HUB, EDGE = "hub1.mail.example", "edge1.mail.example"


@dataclass
class Organisation:
    """A hub tier with alice's mailbox, and an edge tier that bob's mail goes through; bob's mailbox is there."""

    hub: Tier
    edge: Tier

    def subscribe(self) -> None:
        """Carry each tier's server certificates to the other, as an operator would."""
        for source, target in ((self.hub, self.edge), (self.edge, self.hub)):
            result = source.command("subscription", "export", "--state-dir", str(source.state_dir))
            assert result.returncode == 0, result.stderr
            assert "PRIVATE KEY" not in result.stdout
            target.manifests.put("subscription", yaml.safe_load(result.stdout))
        both = self.hub, self.edge
        wait_for(lambda: all(len(known(tier)) == 4 and is_served(tier) for tier in both), what="both subscriptions")

    def from_alice(self, subject: str) -> None:
        with self.hub.submit() as client:
            text = f"From: alice@mail.example\r\nSubject: {subject}\r\n\r\nhello\r\n"
            client.sendmail("alice@mail.example", ["bob@far.example"], text)

    def at_bob(self) -> list[bytes]:
        return self.edge.mailbox("bob", "far.example")


def known(tier: Tier) -> list[str]:
    config, _ = load(tier.state_dir / SERVED_DIRECTORY)
    return [server.thumbprint for server in config.direct_trust.servers]


def is_served(tier: Tier) -> bool:
    """Tell whether the workers serve what is written: they load it a moment later."""
    _, digest = load(tier.state_dir / SERVED_DIRECTORY)
    return bool(json.loads(tier.http("/configz"))["hash"] == digest)


def presented(tier: Tier) -> str:
    config, _ = load(tier.state_dir / SERVED_DIRECTORY)
    assert config.direct_trust.identity is not None
    return config.direct_trust.identity.thumbprint


def servers_only(port: int) -> dict:
    return document("ReceiveConnector", "servers", {"usage": "Internal", "bindings": [{"port": port}]})


def to(domain: str, port: int) -> dict:
    spec = {
        "usage": "Internal",
        "addressSpaces": [{"domain": domain}],
        "smartHosts": [{"host": "127.0.0.1", "port": port}],
        "retry": {"schedule": ["1s"], "expiration": "10m"},
    }
    return document("SendConnector", "servers", spec)


@pytest.fixture
def organisation(tmp_path: Path) -> Iterator[Organisation]:
    hub_port, edge_port = free_port(), free_port()
    hub = Manifests(tmp_path / "hub" / "manifests")
    hub.put("servers", servers_only(hub_port))
    hub.put("to-edge", to("far.example", edge_port))
    edge = Manifests.at(tmp_path / "edge" / "manifests")
    edge.mx = free_port()
    internet = {"usage": "Internet", "bindings": [{"port": edge.mx}], "limits": {"tarpit": "0s"}}
    edge.put("internet", document("ReceiveConnector", "internet", internet))
    edge.put("servers", servers_only(edge_port))
    edge.put("to-hub", to("mail.example", hub_port))
    edge.put("ours", document("AcceptedDomain", "ours", {"domain": "mail.example", "type": "InternalRelay"}))
    maildir = {"domain": "far.example", "deliver": {"maildir": {"path": "maildir/{domain}/{local}"}}}
    edge.put("far", document("AcceptedDomain", "far", maildir))
    tiers = Organisation(
        Tier(hub, tmp_path / "hub" / "state", workers=1, hostname=HUB),
        Tier(edge, tmp_path / "edge" / "state", workers=1, hostname=EDGE, role="edge"),
    )
    yield tiers
    for tier in (tiers.hub, tiers.edge):
        if tier.process is not None and tier.process.poll() is None:
            tier.stop()


def test_mail_waits_for_the_subscription_and_then_goes_with_its_stamps(organisation: Organisation) -> None:
    hub, edge = organisation.hub.start(), organisation.edge.start()
    organisation.from_alice("early")
    wait_for(lambda: hub.metric("postroad_deliveries_total", result="deferred") >= 1, what="a deferral")
    listed = hub.command("queue", "--state-dir", str(hub.state_dir), "list").stdout
    assert "a certificate that no subscription holds" in " ".join(listed.split())
    assert organisation.at_bob() == []
    failed = {"direction": "out", "result": "unknown_certificate"}
    assert hub.metric("postroad_direct_trust_handshakes_total", **failed) >= 1
    assert edge.metric("postroad_direct_trust_handshakes_total", direction="in") >= 1

    organisation.subscribe()
    (message,) = wait_for(organisation.at_bob, what="mail through the edge")
    assert b"X-MS-Exchange-Organization-AuthAs: Internal" in message
    assert f"X-MS-Exchange-Organization-AuthSource: {HUB}".encode() in message
    taken = {"direction": "in", "principal": "HubTransportServers", "result": "ok"}
    assert edge.metric("postroad_direct_trust_handshakes_total", **taken) >= 1

    with smtplib.SMTP("127.0.0.1", edge.manifests.mx, timeout=10) as client:
        forged = "X-MS-Exchange-Organization-SCL: -1\r\nX-MS-Exchange-Organization-AuthAs: Internal\r\n"
        text = f"{forged}From: mallory@elsewhere.example\r\nSubject: outside\r\n\r\nhello\r\n"
        client.sendmail("mallory@elsewhere.example", ["alice@mail.example"], text)
    (message,) = wait_for(hub.mailbox, what="mail from the Internet")
    assert message.count(b"X-MS-Exchange-Organization-AuthAs: Anonymous") == 1
    assert f"X-MS-Exchange-Organization-AuthSource: {EDGE}".encode() in message
    assert b"SCL" not in message
    assert b"AuthAs: Internal" not in message

    hub.manifests.put(
        "subscription", document("AcceptedDomain", "unrelated", {"domain": "x.example", "type": "InternalRelay"})
    )
    wait_for(lambda: len(known(hub)) == 2 and is_served(hub), what="the end of the subscription")
    organisation.from_alice("late")
    wait_for(lambda: hub.metric("postroad_queue_recipients") == 1, what="mail that waits")
    assert len(organisation.at_bob()) == 1


def test_no_mail_is_held_up_when_a_tier_changes_its_certificate_and_nobody_exports_anew(
    organisation: Organisation,
) -> None:
    tiers = organisation.hub.start(), organisation.edge.start()
    organisation.subscribe()
    sent = 0
    for tier in tiers:
        before, following = known(tier)[:2]
        assert presented(tier) == before
        organisation.from_alice(f"before {sent}")
        # The one in use is lost: the next one, which the other tier has known from the start, takes its place.
        (tier.state_dir / "certificates" / f"{CURRENT}.pem").unlink()
        unrelated = {"domain": f"x{sent}.example", "type": "InternalRelay"}
        tier.manifests.put("unrelated", document("AcceptedDomain", "unrelated", unrelated))
        while presented(tier) == before:
            organisation.from_alice(f"during {sent}")
            sent += 1
        organisation.from_alice(f"after {sent}")
        sent += 2
        assert presented(tier) == following
        assert before not in known(tier)
    wait_for(lambda: len(organisation.at_bob()) == sent, what="every message")
    hub = organisation.hub
    assert hub.metric("postroad_deliveries_total", result="delivered") == sent
    assert hub.metric("postroad_deliveries_total", result="deferred") == 0
