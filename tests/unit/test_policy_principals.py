"""Who the two sides of a session are, and what may leave through a send connector."""

from __future__ import annotations

import pytest

from postroad_transport.config import AddressSpace, AuthMechanism, DnsRouting, Grant, Permission, SendConnector, Usage
from postroad_transport.policy.groups import SEND_PERMISSIONS, send_auth_mechanism, send_grants
from postroad_transport.policy.principals import destination_principals, send_permissions


def connector(usage: Usage, **fields: object) -> SendConnector:
    return SendConnector(
        name="s",
        source="SendConnector/mail/s",
        usage=usage,
        address_spaces=(AddressSpace(domain="*"),),
        routing=DnsRouting(),
        fqdn="mail.example.com",
        **fields,
    )


@pytest.mark.parametrize(
    ("usage", "fields", "expected"),
    [
        (Usage.INTERNET, {}, "Anonymous"),
        (Usage.CUSTOM, {"auth_mechanism": AuthMechanism.BASIC_AUTH_REQUIRE_TLS}, "Anonymous"),
        (Usage.INTERNAL, {"auth_mechanism": AuthMechanism.EXCHANGE_SERVER}, "HubTransportServers"),
        (Usage.CUSTOM, {"auth_mechanism": AuthMechanism.EXTERNAL_AUTHORITATIVE}, "ExternallySecuredServers"),
        (Usage.PARTNER, {}, "PartnerServers"),
    ],
)
def test_the_other_side_of_a_send_connector_is_what_its_authentication_makes_it(
    usage: Usage, fields: dict[str, object], expected: str
) -> None:
    assert destination_principals(connector(usage, **fields)) == {expected}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage.INTERNAL, set(SEND_PERMISSIONS)),
        (Usage.INTERNET, {Permission.SEND_HEADERS_ROUTING}),
        (Usage.PARTNER, {Permission.SEND_HEADERS_ROUTING}),
        (Usage.CUSTOM, set()),
    ],
)
def test_what_may_leave_is_what_the_usage_says(usage: Usage, expected: set[Permission]) -> None:
    filled_in = connector(usage, auth_mechanism=send_auth_mechanism(usage), grants=send_grants(usage))
    assert send_permissions(filled_in) == expected


def test_a_deny_on_a_send_connector_beats_what_its_usage_allows() -> None:
    deny = Grant(principal="Anonymous", permission=Permission.SEND_HEADERS_ROUTING, deny=True)
    assert send_permissions(connector(Usage.INTERNET, grants=(*send_grants(Usage.INTERNET), deny))) == set()
