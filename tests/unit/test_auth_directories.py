"""Sources of accounts are made once for each configuration and outlive a reload that does not change them."""

from __future__ import annotations

import asyncio
import gc

import pytest

from postroad_transport.auth.authenticator import build
from postroad_transport.auth.sources import Sources
from postroad_transport.config import Authentication, Binding, ReceiveConnector
from postroad_transport.config.directories import (
    Ldap,
    LdapServer,
    LdapTls,
    OAuth2,
    ServiceAccount,
    ServiceAccounts,
)
from postroad_transport.config.files import ConfigError

LDAP = Ldap(
    servers=(LdapServer(host="ldap.example", port=389, tls=LdapTls.STARTTLS),),
    base_dn="dc=example",
    filter="(uid={user})",
    account_attribute="uid",
    credentials_file="search.json",
)
EVERYTHING = Authentication(
    accounts_file="users",
    ldap=LDAP,
    oauth2=OAuth2(issuer="https://id.example", audiences=("mail",), algorithms=("RS256",), account_claim="sub"),
    service_accounts=ServiceAccounts(audience="mail", allow=(ServiceAccount(namespace="shop"),)),
)
SECRETS = {"search.json": b'{"username": "cn=x", "password": "y"}', "users": b"", "broken.json": b"{}"}


def connector(authentication: Authentication, name: str = "c") -> ReceiveConnector:
    return ReceiveConnector(
        name=name,
        source=f"ReceiveConnector/x/{name}",
        bindings=(Binding(port=0),),
        remote_ip_ranges=("0.0.0.0/0",),
        fqdn="mail.example",
        authentication=authentication,
    )


@pytest.fixture
async def sources():
    made = Sources()
    yield made
    await made.close()


async def test_connectors_and_configurations_that_are_alike_share_their_sources(sources):
    before = [build(connector(EVERYTHING, name), SECRETS.__getitem__, sources.lease()) for name in ("a", "b")]
    assert len(sources) == 4
    after = build(connector(EVERYTHING), SECRETS.__getitem__, sources.lease())
    del before
    gc.collect()
    await asyncio.sleep(0)
    assert len(sources) == 4
    assert set(after.names) == {"PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"}


async def test_a_source_that_nobody_uses_any_more_is_closed(sources):
    built = build(connector(EVERYTHING), SECRETS.__getitem__, sources.lease())
    del built
    gc.collect()
    assert len(sources) == 0


async def test_a_connector_without_sources_offers_nothing_and_makes_none(sources):
    assert not build(connector(Authentication()), SECRETS.__getitem__, sources.lease())
    assert len(sources) == 0


@pytest.mark.parametrize("fields", [{"credentials_file": "broken.json"}, {"ca_bundle": "no certificate"}])
async def test_a_file_that_is_damaged_makes_the_configuration_be_refused(sources, fields):
    values = {name: getattr(LDAP, name) for name in LDAP.__struct_fields__} | fields
    with pytest.raises(ConfigError, match="ldap"):
        build(connector(Authentication(ldap=Ldap(**values))), SECRETS.__getitem__, sources.lease())
