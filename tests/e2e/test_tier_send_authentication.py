"""A smart host that will not let the tier log in: mail waits, says why, and goes once the cause is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from running_tier import Manifests, Tier, free_port, secret, wait_for


@dataclass
class SmartHost:
    """Takes mail after AUTH with `password`."""

    port: int
    password: bytes = b"right"
    mechanisms: tuple[str, ...] = ("LOGIN", "PLAIN")
    taken: list[bytes] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def authenticate(self, server, session, envelope, mechanism, data) -> AuthResult:
        return AuthResult(success=data.password == self.password, handled=False)

    async def handle_DATA(self, server, session, envelope) -> str:
        self.taken.append(envelope.content)
        return "250 2.0.0 taken"

    async def handle_QUIT(self, server, session, envelope) -> str:
        self.ended.append("in" if session.authenticated else "out")
        return "221 2.0.0 bye"

    def make(self) -> SMTP:
        excluded = [name for name in ("LOGIN", "PLAIN") if name not in self.mechanisms]
        return SMTP(
            self,
            authenticator=self.authenticate,
            auth_required=True,
            auth_require_tls=False,
            auth_exclude_mechanism=excluded,
        )


@pytest.fixture
def smart_host() -> Iterator[SmartHost]:
    host = SmartHost(free_port())
    controller = Controller(host, hostname="127.0.0.1", port=host.port)
    controller.factory = host.make
    controller.start()
    yield host
    controller.stop()


def queued(tier: Tier) -> str:
    return tier.command("queue", "--state-dir", str(tier.state_dir), "list").stdout


def logins(tier: Tier, result: str) -> float:
    return tier.metric("postroad_outbound_authentications_total", connector="outbound", result=result)


def test_mail_waits_for_a_login_and_the_queue_says_why_until_it_works(
    manifests: Manifests, start_tier: Callable[..., Tier], smart_host: SmartHost
) -> None:
    smart_host.mechanisms = ()
    manifests.put("login", secret("login", username="relay", password="wrong"))
    manifests.smart_host(smart_host.port, smartHostAuthMechanism="BasicAuth", authSecretRef={"name": "login"})
    tier = start_tier(manifests, workers=1)
    with tier.submit() as client:
        client.sendmail("alice@mail.example", ["bob@far.example"], b"From: alice@mail.example\r\n\r\nhello\r\n")
    wait_for(lambda: logins(tier, "not-offered") >= 1, what="a try without AUTH")
    assert "no way to log in" in wait_for(lambda: (text := queued(tier)) and "4.7.0" in text and text, what="why")

    smart_host.mechanisms = ("PLAIN",)
    wait_for(lambda: logins(tier, "refused") >= 1, what="a try with the wrong password")
    wait_for(lambda: "failed: PLAIN: 535" in queued(tier), what="the reason in the queue")
    deferrals = [event for event in tier.events() if event["event"] == "DEFER"]
    assert any("failed: PLAIN: 535" in event["reply"] for event in deferrals)
    assert "wrong" not in tier.output.read_text() + str(tier.events())
    assert set(smart_host.ended) == {"out"}
    assert not smart_host.taken

    manifests.put("login", secret("login", username="relay", password="right"))
    wait_for(lambda: smart_host.taken, timeout=30, what="the message")
    assert logins(tier, "ok") == 1
    wait_for(lambda: "bob@far.example" not in queued(tier), what="an empty queue")
