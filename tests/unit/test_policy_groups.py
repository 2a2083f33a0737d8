"""Tables 1.3, 1.4 and 1.5 of spec.md, written out again from the document and compared."""

from __future__ import annotations

import itertools

import pytest

from postroad_transport.config import AuthMechanism, Permission, Role, Usage
from postroad_transport.policy.groups import (
    RECEIVE_PERMISSIONS,
    SEND_PERMISSIONS,
    PermissionGroup,
    is_available,
    receive_grants,
    send_auth_mechanism,
    send_grants,
    usage_defaults,
)

ALL_RECEIVE = """
SMTP-Submit SMTP-Accept-Any-Recipient SMTP-Accept-Any-Sender SMTP-Accept-Authoritative-Domain-Sender
SMTP-Accept-Authentication-Flag Accept-Headers-Routing Accept-Headers-Organization Accept-Headers-Forest
Accept-Exch50 Bypass-Message-Size-Limit Bypass-Anti-Spam
"""
LEGACY = """
SMTP-Submit SMTP-Accept-Any-Recipient SMTP-Accept-Any-Sender SMTP-Accept-Authoritative-Domain-Sender
SMTP-Accept-Authentication-Flag Accept-Headers-Routing Accept-Exch50 Bypass-Message-Size-Limit Bypass-Anti-Spam
"""
ANONYMOUS = "SMTP-Submit SMTP-Accept-Any-Sender Accept-Headers-Routing"
PARTNERS = "SMTP-Submit Accept-Headers-Routing"
SERVERS = "HubTransportServers EdgeTransportServers ExternallySecuredServers"

TABLE_1_3 = [
    ("AnonymousUsers", "Anonymous", ANONYMOUS, ANONYMOUS),
    ("ExchangeUsers", "AuthenticatedUsers", "", "SMTP-Submit SMTP-Accept-Any-Recipient Bypass-Anti-Spam"),
    ("ExchangeServers", SERVERS, ALL_RECEIVE, ALL_RECEIVE),
    ("ExchangeLegacyServers", "LegacyExchangeServers", "", LEGACY),
    ("Partners", "PartnerServers", PARTNERS, PARTNERS),
]

TABLE_1_4 = [
    ("Client", "ExchangeUsers", "TLS BasicAuthRequireTLS"),
    ("Internal", "ExchangeServers ExchangeLegacyServers", "ExchangeServer"),
    ("Internet", "AnonymousUsers Partners", "None"),
    ("Partner", "Partners", "TLS"),
    ("Custom", "", ""),
]

TABLE_1_5 = [
    (
        "Internal",
        "Send-Headers-Organization Send-Headers-Routing Send-Headers-Forest Send-Exch50",
        SERVERS + " LegacyExchangeServers",
        "ExchangeServer",
    ),
    ("Internet", "Send-Headers-Routing", "Anonymous", "None"),
    ("Partner", "Send-Headers-Routing", "PartnerServers", "None"),
    ("Custom", "", "", "None"),
]


@pytest.mark.parametrize(("group", "principals", "edge", "hub"), TABLE_1_3)
def test_a_permission_group_grants_what_its_row_says(group: str, principals: str, edge: str, hub: str) -> None:
    for role, permissions in ((Role.EDGE, edge), (Role.HUB, hub)):
        granted = [(grant.principal, str(grant.permission)) for grant in receive_grants(group, role, origin="here")]
        assert sorted(granted) == sorted(itertools.product(principals.split(), permissions.split()))
        assert is_available(PermissionGroup(group), role) == bool(permissions)
    assert all(grant.origin == "here" and not grant.deny for grant in receive_grants(group, Role.HUB, origin="here"))


def test_there_is_a_row_for_every_group_and_no_other_group() -> None:
    assert {row[0] for row in TABLE_1_3} == set(PermissionGroup)
    with pytest.raises(ValueError, match="Everyone"):
        receive_grants("Everyone", Role.HUB)


@pytest.mark.parametrize(("usage", "groups", "mechanisms"), TABLE_1_4)
def test_a_receive_usage_fills_in_what_its_row_says(usage: str, groups: str, mechanisms: str) -> None:
    defaults = usage_defaults(Usage(usage))
    assert defaults.permission_groups == tuple(PermissionGroup(group) for group in groups.split())
    assert defaults.auth_mechanisms == tuple(AuthMechanism(mechanism) for mechanism in mechanisms.split())


@pytest.mark.parametrize(("usage", "permissions", "principals", "mechanism"), TABLE_1_5)
def test_a_send_usage_grants_what_its_row_says(usage: str, permissions: str, principals: str, mechanism: str) -> None:
    granted = [(grant.principal, str(grant.permission)) for grant in send_grants(Usage(usage))]
    assert sorted(granted) == sorted(itertools.product(principals.split(), permissions.split()))
    assert send_auth_mechanism(Usage(usage)) == mechanism


def test_both_tables_of_permissions_together_are_all_permissions() -> None:
    assert [str(permission) for permission in RECEIVE_PERMISSIONS] == ALL_RECEIVE.split()
    assert set(RECEIVE_PERMISSIONS) | set(SEND_PERMISSIONS) == set(Permission)
    assert not set(RECEIVE_PERMISSIONS) & set(SEND_PERMISSIONS)
