"""A smart host's certificate is checked for revocation before the password is sent (spec.md 2.2); QUIT otherwise."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from partner_kit import Ca, Issued
from smtp_peer import Peer, connector, deliver, settings

from postroad_transport.config import (
    AuthMechanism,
    Host,
    RetryPolicy,
    Revocation,
    RevocationMode,
    SmartHostRouting,
    TlsAuthLevel,
    TlsTrust,
)
from postroad_transport.delivery.hop import Result
from postroad_transport.delivery.smtp_hop import make_hop
from postroad_transport.routing.table import Route

NOW = time.time()
CA = Ca("CA", NOW, crl_url="http://127.0.0.1:1/ca.crl")
HOST = CA.issue("localhost", "far.example")
MECHANISM = {"auth_mechanism": AuthMechanism.BASIC_AUTH_REQUIRE_TLS, "credentials_file": "c", "require_tls": True}


def server(shown: Issued, directory: Path) -> ssl.SSLContext:
    (directory / "s.crt").write_bytes(shown.chain_pem)
    (directory / "s.key").write_bytes(shown.key_pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "s.crt", directory / "s.key")
    return context


def trust(*revoked: Issued, mode: RevocationMode = RevocationMode.WHERE_PUBLISHED, lists: bool = True) -> TlsTrust:
    CA.revoked = [item.certificate.serial_number for item in revoked]
    pem = CA.crl().public_bytes(Encoding.PEM).decode() if lists else ""
    CA.revoked = []
    return TlsTrust(authorities=CA.pem, system=False, revocation=Revocation(mode=mode, crls=pem, fetch=False))


def peer(directory: Path) -> Peer:
    extensions = ("PIPELINING", "STARTTLS", "AUTH PLAIN")
    return Peer(extensions=extensions, tls_context=server(HOST, directory))


def given() -> Any:
    secret = json.dumps({"username": "corp", "password": "hunter2"}).encode()
    return settings(read_secret=lambda name: secret)


def to(port: int, **fields: Any) -> Any:
    routing = SmartHostRouting(hosts=(Host(host="localhost", port=port),))
    out = connector(routing, **fields)
    return make_hop(Route("out", "smarthost:out", routing, out, RetryPolicy()), given())


async def test_the_password_goes_to_a_host_whose_certificate_was_not_revoked(tmp_path: Path) -> None:
    async with peer(tmp_path) as host:
        hop = to(host.port, tls_trust=trust(), **MECHANISM)
        (outcome,) = await deliver(hop)
        await hop.close()
        assert outcome.result is Result.DELIVERED
        assert any(command.startswith("AUTH PLAIN") for command in host.commands)


@pytest.mark.parametrize(
    ("believed", "reason"),
    [
        (trust(HOST), "the certificate was revoked"),
        (trust(lists=False), "no current revocation list can be had for the certificate"),
    ],
)
async def test_a_revoked_or_unsure_certificate_gets_no_password_and_a_quit(
    believed: TlsTrust, reason: str, tmp_path: Path
) -> None:
    async with peer(tmp_path) as host:
        hop = to(host.port, tls_trust=believed, **MECHANISM)
        (outcome,) = await deliver(hop)
        await hop.close()
        assert outcome.result is Result.DEFERRED
        assert outcome.reply.startswith("454 4.7.5 ")
        assert reason in outcome.reply
        assert "AUTH" not in " ".join(host.commands)
        assert "MAIL" not in " ".join(host.commands)
        async with asyncio.timeout(5):
            while host.commands[-1] != "QUIT":
                await asyncio.sleep(0)


async def test_lists_are_not_asked_for_where_they_are_off_or_nothing_is_verified(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = [
        {"tls_trust": trust(HOST, mode=RevocationMode.OFF), **MECHANISM},
        {"tls_trust": trust(HOST), "tls_auth_level": TlsAuthLevel.ENCRYPTION_ONLY},
        {"tls_trust": trust(HOST)},
    ]
    for fields in cases:
        async with peer(tmp_path) as host:
            hop = to(host.port, **fields)
            (outcome,) = await deliver(hop)
            await hop.close()
            assert outcome.result is Result.DELIVERED, fields
