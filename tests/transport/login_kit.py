"""A tier whose submission port has STARTTLS and any source of accounts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import Line, MakeTier, Tier, connector, tier_config
from trust_kit import Party, party

from postroad_transport.config import (
    Authentication,
    AuthMechanism,
    Certificate,
    Grant,
    Permission,
    Principal,
    ReceiveLimits,
)

NAME = "localhost"


@dataclass(frozen=True)
class Pki:
    """An authority and what it issued for this machine, as files, too."""

    authority: Party
    server: Party
    ca_file: Path
    chain_file: Path
    key_file: Path

    @classmethod
    def make(cls, directory: Path) -> Pki:
        authority = party("authority", authority=True)
        server = party(NAME, issuer=authority)
        names = server.files(directory)
        ca_file = directory / "ca.crt"
        ca_file.write_text(authority.pem)
        chain, key = (directory / "secrets" / name for name in names)
        return cls(authority, server, ca_file, chain, key)

    @property
    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.pem)


async def submission(make_tier: MakeTier, pki: Pki, authentication: Authentication, **fields: Any) -> Tier:
    """Start a tier in whose directory the files of `pki` are; users may relay, as their own addresses only."""
    certificate = Certificate(
        name="c",
        source="TransportCertificate/mail/c",
        thumbprint=pki.server.thumbprint,
        dns_names=(NAME,),
        self_signed=False,
        not_before=0.0,
        not_after=4e9,
        chain_file=pki.chain_file.name,
        key_file=pki.key_file.name,
    )
    defaults: dict[str, Any] = {
        "fqdn": NAME,
        "authentication": authentication,
        "auth_mechanisms": (AuthMechanism.TLS, AuthMechanism.BASIC_AUTH_REQUIRE_TLS),
        "grants": tuple(
            Grant(principal=Principal.AUTHENTICATED_USERS, permission=permission)
            for permission in (Permission.SUBMIT, Permission.ACCEPT_ANY_RECIPIENT)
        ),
        "limits": ReceiveLimits(tarpit=0.01),
    }
    return await make_tier(config=tier_config(connector(**defaults | fields), certificates=(certificate,)))


async def over_tls(tier: Tier, pki: Pki) -> tuple[Line, str]:
    """Return a session after STARTTLS and EHLO, and what was offered."""
    line = await tier.connect()
    await line.start()
    assert (await line.ask("STARTTLS"))[:3] == "220"
    await line.writer.start_tls(pki.client, server_hostname=NAME)
    return line, await line.ask("EHLO client.example")
