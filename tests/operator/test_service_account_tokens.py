"""Pods log in with their service account's token, which a real API server reviews."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest
from chart_kit import RELEASE, rendered
from control_plane import ControlPlane

from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.authenticator import Authenticator, build
from postroad_transport.auth.exchange import Accepted, Channel, ErrorChallenge, Rejected
from postroad_transport.auth.sources import Sources
from postroad_transport.config import Authentication, Binding, ReceiveConnector
from postroad_transport.config.directories import ServiceAccount, ServiceAccounts
from postroad_transport.telemetry.metrics import Metrics

AUDIENCE = "mail.example.com"
CHANNEL = Channel("127.0.0.1", tls=True)


class Pods:
    """A namespace with the service accounts ``orders`` and ``other``; the transport's own is in the directory."""

    def __init__(self, plane: ControlPlane, namespace: str, directory: Path) -> None:
        self.plane = plane
        self.namespace = namespace
        self.directory = directory
        for name in ("orders", "other"):
            plane.kubectl("create", "serviceaccount", name, "-n", namespace)
        chart = rendered(namespace, "--set", "transport.reviewTokens=true")
        rights = [
            part for part in chart.split("\n---\n") if "tokenreview" in part.lower() and "networking" not in part
        ]
        plane.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", stdin="\n---\n".join(rights))
        (directory / "ca.crt").write_bytes((plane.directory / "ca.crt").read_bytes())
        self.be(f"{RELEASE}-default-transport")

    def be(self, name: str) -> None:
        """Let the transport be this service account."""
        (self.directory / "token").write_text(self.token(name, audience=""))

    def token(self, name: str, *, audience: str = AUDIENCE) -> str:
        options = [f"--audience={audience}"] if audience else []
        return self.plane.kubectl("create", "token", name, "-n", self.namespace, *options).strip()

    def user(self, name: str) -> str:
        return f"system:serviceaccount:{self.namespace}:{name}"


@pytest.fixture
def pods(control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pods:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(control_plane.port))
    monkeypatch.setenv("POSTROAD_SERVICE_ACCOUNT_DIRECTORY", str(tmp_path))
    return Pods(control_plane, namespace, tmp_path)


@pytest.fixture
async def authenticator(pods: Pods):
    """The mechanisms of a connector where ``orders`` may send as two addresses, built as the tier builds them."""
    sources, metrics = Sources(), Metrics()
    allow = ServiceAccount(
        namespace=pods.namespace, name="orders", addresses=("orders@example.com", "*@shop.example")
    )
    connector = ReceiveConnector(
        name="c",
        source="ReceiveConnector/x/c",
        bindings=(Binding(port=0),),
        remote_ip_ranges=("0.0.0.0/0",),
        fqdn="mail.example.com",
        authentication=Authentication(service_accounts=ServiceAccounts(audience=AUDIENCE, allow=(allow,))),
    )
    made = build(connector, lambda name: b"", sources.lease(), metrics)
    made.reviews = lambda: sum(
        metrics.authentication_lookups.labels("serviceAccounts", result)._value.get()
        for result in ("ok", "refused", "unavailable")
    )
    yield made
    await sources.close()


async def bearer(authenticator: Authenticator, token: str, user: str = "") -> object:
    name = f"a={user}" if user else ""
    sent = f"n,{name},\x01auth=Bearer {token}\x01\x01".encode()
    return await authenticator.begin("OAUTHBEARER", CHANNEL).step(sent)


async def plain(authenticator: Authenticator, user: str, password: str) -> object:
    return await authenticator.begin("PLAIN", CHANNEL).step(f"\0{user}\0{password}".encode())


async def test_a_pod_logs_in_with_its_token_by_every_mechanism(pods, authenticator):
    account = Account(pods.user("orders"), ("orders@example.com", "*@shop.example"))
    token = pods.token("orders")
    assert set(authenticator.names) == {"PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"}
    assert await bearer(authenticator, token) == Accepted(account)
    assert await bearer(authenticator, token, pods.user("orders")) == Accepted(account)
    assert await plain(authenticator, pods.user("orders"), token) == Accepted(account)
    assert await plain(authenticator, "anything", token) == Accepted(account)
    # All the same token: reviewed once.
    assert authenticator.reviews() == 1


async def test_a_token_for_another_audience_or_account_or_name_is_refused(pods, authenticator):
    assert isinstance(await bearer(authenticator, pods.token("orders", audience="elsewhere")), ErrorChallenge)
    assert isinstance(await bearer(authenticator, pods.token("orders", audience="")), ErrorChallenge)
    assert isinstance(await bearer(authenticator, pods.token("other")), ErrorChallenge)
    mine = pods.token("orders")
    assert await plain(authenticator, pods.user("other"), mine) == Rejected(pods.user("other"))


async def test_a_forged_token_is_refused_by_the_api_server_and_remembered(pods, authenticator):
    header, payload, signature = pods.token("orders").split(".")
    forged = f"{header}.{payload}.{signature[:-8]}{'A' * 8}"
    for _ in range(3):
        assert isinstance(await bearer(authenticator, forged), ErrorChallenge)
    assert authenticator.reviews() == 1


async def test_what_may_be_a_password_is_never_shown_to_the_api_server(pods, authenticator):
    for password in ("pencil", "a.b.c", "eyJhbGciOiJub25lIn0.e30."):
        assert await plain(authenticator, "alice", password) == Rejected("alice")
    claims = json.dumps({"sub": "alice", "aud": AUDIENCE, "exp": 9e9}).encode()
    other = f"eyJhbGciOiJSUzI1NiJ9.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.AAAA"
    assert await plain(authenticator, "alice", other) == Rejected("alice")
    assert authenticator.reviews() == 0


async def test_a_token_ends_with_its_service_account(pods, authenticator, monkeypatch):
    monkeypatch.setattr("postroad_transport.auth.service_accounts.REMEMBER", 0.0)
    token = pods.token("orders")
    assert isinstance(await bearer(authenticator, token), Accepted)
    pods.plane.kubectl("delete", "serviceaccount", "orders", "-n", pods.namespace)
    async with asyncio.timeout(30):
        # The API server's own memory of tokens lasts some seconds.
        while isinstance(await bearer(authenticator, token), Accepted):
            await asyncio.sleep(0.2)


async def test_without_the_right_to_review_nobody_knows_until_the_pod_s_token_is_another(pods, authenticator):
    pods.be("other")
    with pytest.raises(AuthUnavailableError):
        await bearer(authenticator, pods.token("orders"))
    pods.be(f"{RELEASE}-default-transport")
    assert isinstance(await bearer(authenticator, pods.token("orders")), Accepted)


async def test_without_a_cluster_or_a_token_of_its_own_nobody_knows(pods, authenticator):
    (pods.directory / "token").unlink()
    with pytest.raises(AuthUnavailableError):
        await bearer(authenticator, pods.token("orders"))


async def test_an_api_server_that_does_not_answer_is_a_temporary_failure(pods, authenticator, monkeypatch):
    token = pods.token("orders")
    pods.plane.stop_server()
    try:
        with pytest.raises(AuthUnavailableError):
            await bearer(authenticator, token)
    finally:
        await asyncio.to_thread(pods.plane.start_server)
    assert isinstance(await bearer(authenticator, token), Accepted)


async def test_no_token_is_logged(pods, authenticator, caplog):
    caplog.set_level("DEBUG")
    token = pods.token("orders")
    await bearer(authenticator, token)
    await bearer(authenticator, token[:-4] + "AAAA")
    own = (pods.directory / "token").read_text()
    assert token.split(".")[1] not in caplog.text
    assert own.split(".")[1] not in caplog.text
