"""The open relay proof, against tables and an independent definition."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.config import AuthMechanism, Binding, Grant, Permission, Principal, ReceiveConnector, Role
from postroad_transport.policy.groups import PermissionGroup, receive_grants
from postroad_transport.policy.relay import open_relay_grants

RELAY = (Permission.SUBMIT, Permission.ACCEPT_ANY_RECIPIENT)


def connector(ranges: tuple[str, ...], grants: tuple[Grant, ...], *, external: bool = False) -> ReceiveConnector:
    return ReceiveConnector(
        name="c",
        source="ReceiveConnector/mail/c",
        bindings=(Binding(port=25),),
        remote_ip_ranges=ranges,
        fqdn="mail.example.com",
        auth_mechanisms=(AuthMechanism.EXTERNAL_AUTHORITATIVE,) if external else (),
        grants=grants,
    )


def allow(principal: str, *permissions: Permission) -> tuple[Grant, ...]:
    return tuple(
        Grant(principal=principal, permission=permission, origin="spec.grants[0]") for permission in permissions
    )


@pytest.mark.parametrize("group", list(PermissionGroup))
def test_no_permission_group_alone_opens_a_relay(group: PermissionGroup) -> None:
    assert open_relay_grants(connector(("0.0.0.0/0",), receive_grants(group, Role.HUB)), ()) == ()


def test_the_anonymous_relay_grant_opens_a_relay_to_the_internet_and_names_its_field() -> None:
    (finding,) = open_relay_grants(connector(("0.0.0.0/0", "10.0.0.0/8"), allow("Anonymous", *RELAY)), ())
    assert finding.principal == "Anonymous"
    assert finding.range == "0.0.0.0/0"
    assert finding.origins == (
        "spec.grants[0] allows SMTP-Submit to Anonymous",
        "spec.grants[0] allows SMTP-Accept-Any-Recipient to Anonymous",
    )
    assert "ReceiveConnector/mail/c" in finding.message


def test_exchange_servers_on_an_externally_secured_connector_relay_for_its_ranges() -> None:
    grants = receive_grants("ExchangeServers", Role.HUB)
    assert open_relay_grants(connector(("192.0.2.0/24",), grants, external=True), ())
    assert open_relay_grants(connector(("192.0.2.0/24",), grants, external=True), ("192.0.0.0/16",)) == ()
    assert open_relay_grants(connector(("192.0.2.0/24",), grants), ()) == ()


def test_two_touching_own_networks_hold_a_range_over_both() -> None:
    config = connector(("192.0.2.0/24",), allow("Anonymous", *RELAY))
    assert open_relay_grants(config, ("192.0.2.0/25", "192.0.2.128/25")) == ()
    assert len(open_relay_grants(config, ("192.0.2.0/25", "192.0.2.192/26"))) == 1


def test_where_client_addresses_are_hidden_no_range_keeps_anyone_out() -> None:
    config = connector(("10.0.0.0/8",), allow("Anonymous", *RELAY))
    assert open_relay_grants(config, ()) == ()
    (finding,) = open_relay_grants(config, (), client_addresses_visible=False)
    assert "does not see real client addresses" in finding.message


OWN = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16"]
OWN += ["::1/128", "fc00::/7", "fe80::/10"]
RANGES = ["0.0.0.0/0", "10.0.0.0/7", "10.0.0.0/8", "10.2.0.0/16", "192.0.2.0/24", "192.0.2.7/32", "::/0", "fd00::/8"]
RANGES += ["::1/128", "2001:db8::/32", "::ffff:10.0.0.0/104", "::ffff:0.0.0.0/96", "127.0.0.1/32"]


def relays_for_anyone(config: ReceiveConnector, tier_ranges: tuple[str, ...]) -> bool:
    """Written apart from the product's code: true where a stranger's address gets in and may relay."""
    anyone = "ExternallySecuredServers" if "ExternalAuthoritative" in config.auth_mechanisms else "Anonymous"
    allowed = {(g.permission, g.deny) for g in config.grants if g.principal == anyone}
    may_relay = all((p, False) in allowed and (p, True) not in allowed for p in RELAY)
    own = [ipaddress.ip_network(text) for text in [*OWN, *tier_ranges]]
    for text in config.remote_ip_ranges:
        network = ipaddress.ip_network(text.replace("::ffff:", "").replace("/104", "/8").replace("/96", "/0"))
        if may_relay and not any(network.version == o.version and network.subnet_of(o) for o in own):
            return True
    return False


@given(
    ranges=st.lists(st.sampled_from(RANGES), min_size=1, max_size=3, unique=True).map(tuple),
    tier_ranges=st.lists(st.sampled_from(["192.0.2.0/24", "2001:db8::/32"]), max_size=2).map(tuple),
    external=st.booleans(),
    grants=st.lists(
        st.builds(
            Grant,
            principal=st.sampled_from([*map(str, Principal), "user:alice"]),
            permission=st.sampled_from(RELAY),
            deny=st.sampled_from([False, False, False, True]),
        ),
        max_size=10,
    ).map(tuple),
    group=st.sampled_from(PermissionGroup),
)
def test_the_proof_agrees_with_an_independent_definition(
    ranges: tuple[str, ...],
    tier_ranges: tuple[str, ...],
    external: bool,
    grants: tuple[Grant, ...],
    group: PermissionGroup,
) -> None:
    config = connector(ranges, (*receive_grants(group, Role.HUB), *grants), external=external)
    assert bool(open_relay_grants(config, tier_ranges)) == relays_for_anyone(config, tier_ranges)
