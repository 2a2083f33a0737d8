"""Which connector takes a session, and what the session may do there."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.config import AuthMechanism, Binding, Grant, Permission, ReceiveConnector, TierConfig
from postroad_transport.policy.connectors import ConnectorPolicy, ConnectorTable, decisive_field
from postroad_transport.policy.groups import RECEIVE_PERMISSIONS
from postroad_transport.policy.principals import (
    authenticated_principals,
    effective_permissions,
    initial_principals,
)
from postroad_transport.policy.session import SessionFacts


def connector(name: str, *ranges: str, ports: tuple[int, ...] = (25,), **fields: object) -> ReceiveConnector:
    return ReceiveConnector(
        name=name,
        source=f"ReceiveConnector/mail/{name}",
        bindings=tuple(Binding(port=port) for port in ports),
        remote_ip_ranges=ranges,
        fqdn="mail.example.com",
        **fields,
    )


def table(*connectors: ReceiveConnector) -> ConnectorTable:
    return ConnectorTable(TierConfig(tier="mail", hostname="mail.example.com", receive_connectors=connectors))


def selected(connectors: ConnectorTable, port: int, address: str) -> str:
    found = connectors.select(port, address)
    return found.config.name if found else ""


def test_the_most_specific_range_on_the_port_takes_the_session() -> None:
    connectors = table(
        connector("internet", "0.0.0.0/0", "::/0"),
        connector("office", "10.0.0.0/8", "2001:db8::/32"),
        connector("printer", "10.1.2.3/32"),
        connector("client", "0.0.0.0/0", ports=(587, 465)),
    )
    for port, address, expected in [
        (25, "192.0.2.1", "internet"),
        (25, "10.9.9.9", "office"),
        (25, "10.1.2.3", "printer"),
        (25, "::ffff:10.1.2.3", "printer"),
        (25, "2001:db8::1", "office"),
        (25, "2001:db9::1", "internet"),
        (25, "fe80::1%eth0", "internet"),
        (465, "10.1.2.3", "client"),
        (587, "10.1.2.3", "client"),
        (587, "2001:db8::1", ""),
        (2525, "10.1.2.3", ""),
        (25, "", ""),
        (25, "unix:", ""),
        (25, "10.1.2.3\x00", ""),
        (25, "010.1.2.3", ""),
    ]:
        assert selected(connectors, port, address) == expected, (port, address)


def test_an_ipv4_mapped_range_is_an_ipv4_range() -> None:
    connectors = table(connector("all", "0.0.0.0/0"), connector("mapped", "::ffff:10.0.0.0/104"))
    assert selected(connectors, 25, "10.1.1.1") == "mapped"
    assert selected(connectors, 25, "::ffff:11.1.1.1") == "all"


def test_of_two_connectors_with_one_range_the_first_takes_the_session() -> None:
    assert selected(table(connector("older", "10.0.0.0/8"), connector("younger", "10.0.0.0/8")), 25, "10.0.0.1") == (
        "older"
    )


def test_the_reasons_name_the_range_that_won() -> None:
    connectors = table(
        connector("internet", "0.0.0.0/0"),
        connector("office", "10.0.0.0/8"),
        connector("younger", "10.0.0.0/8"),
        connector("lab", "172.16.0.0/12"),
        connector("client", "0.0.0.0/0", ports=(587,)),
    )
    candidates = connectors.explain_selection(25, "10.0.0.1")
    assert [candidate.chosen for candidate in candidates] == [False, True, False, False, False]
    assert [candidate.reason for candidate in candidates] == [
        "0.0.0.0/0 is less specific than 10.0.0.0/8",
        "10.0.0.0/8 is the most specific range on port 25 that holds 10.0.0.1",
        "10.0.0.0/8 belongs to an older connector on port 25",
        "none of its remoteIPRanges holds 10.0.0.1",
        "bound to port 587, not 25",
    ]
    assert all("not an IP address" in candidate.reason for candidate in connectors.explain_selection(25, "x")[:4])


v4 = st.builds(
    lambda number, length: str(ipaddress.ip_network((number, length), strict=False)),
    st.integers(0x0A000000, 0x0A00FFFF),
    st.sampled_from([0, 1, 8, 16, 24, 29, 32]),
)
v6 = st.builds(
    lambda number, length: str(ipaddress.ip_network(((0x20010DB8 << 96) + number, length), strict=False)),
    st.integers(0, 0xFFFF),
    st.sampled_from([0, 32, 64, 112, 128]),
)
addresses = st.one_of(
    st.integers(0x0A000000, 0x0A00FFFF).map(lambda number: str(ipaddress.IPv4Address(number))),
    st.integers(0, 0xFFFF).map(lambda number: str(ipaddress.IPv6Address((0x20010DB8 << 96) + number))),
)


@given(
    specs=st.lists(
        st.tuples(st.lists(st.one_of(v4, v6), max_size=4), st.sampled_from([(25,), (587,), (25, 587)])), max_size=6
    ),
    address=addresses,
    port=st.sampled_from([25, 587]),
)
def test_selection_agrees_with_trying_every_range(
    specs: list[tuple[list[str], tuple[int, ...]]], address: str, port: int
) -> None:
    parsed = ipaddress.ip_address(address)
    best, best_length = "", -1
    for index, (ranges, ports) in enumerate(specs):
        for text in ranges if port in ports else []:
            network = ipaddress.ip_network(text)
            if parsed in network and network.prefixlen > best_length:
                best, best_length = str(index), network.prefixlen
    connectors = table(*(connector(str(index), *ranges, ports=ports) for index, (ranges, ports) in enumerate(specs)))
    assert selected(connectors, port, address) == best
    chosen = [
        candidate.connector.name for candidate in connectors.explain_selection(port, address) if candidate.chosen
    ]
    assert chosen == ([best] if best else [])


PRINCIPALS = ["Anonymous", "AuthenticatedUsers", "user:alice", "PartnerServers"]
grants = st.lists(
    st.builds(
        Grant,
        principal=st.sampled_from(PRINCIPALS),
        permission=st.sampled_from(RECEIVE_PERMISSIONS),
        deny=st.booleans(),
        origin=st.sampled_from(["spec.usage", "spec.grants[0]"]),
    ),
    max_size=12,
)
principal_sets = st.frozensets(st.sampled_from(PRINCIPALS))


@given(grants=grants, principals=principal_sets)
def test_permissions_are_what_is_allowed_and_not_denied(grants: list[Grant], principals: frozenset[str]) -> None:
    policy = ConnectorPolicy(connector("c", "0.0.0.0/0", grants=tuple(grants)))
    session = SessionFacts("192.0.2.1", 25, principals=principals)
    for permission in RECEIVE_PERMISSIONS:
        relevant = [g.deny for g in grants if g.permission is permission and g.principal in principals]
        expected = bool(relevant) and not any(relevant)
        assert (permission in policy.permissions(session)) == expected
        field = decisive_field(grants, principals, permission)
        assert (" allows " in field and not field.startswith("no field")) == expected
    assert policy.permissions(session) == effective_permissions(grants, principals)


@given(grants=grants, more=grants, principals=principal_sets)
def test_an_allow_never_takes_and_a_deny_never_gives(
    grants: list[Grant], more: list[Grant], principals: frozenset[str]
) -> None:
    before = effective_permissions(grants, principals)
    assert before <= effective_permissions([*grants, *(g for g in more if not g.deny)], principals)
    assert before >= effective_permissions([*grants, *(g for g in more if g.deny)], principals)


def test_many_users_do_not_make_a_connector_remember_them_all() -> None:
    policy = ConnectorPolicy(
        connector("c", "0.0.0.0/0", grants=(Grant(principal="user:u7", permission=Permission.SUBMIT),))
    )
    for index in range(5000):
        session = SessionFacts("192.0.2.1", 25, principals=authenticated_principals(f"u{index}"))
        assert (Permission.SUBMIT in policy.permissions(session)) == (index == 7)
    assert len(policy._access) <= 4096


@pytest.mark.parametrize(
    ("mechanisms", "expected"),
    [
        ((), {"Anonymous"}),
        ((AuthMechanism.TLS, AuthMechanism.BASIC_AUTH), {"Anonymous"}),
        ((AuthMechanism.TLS, AuthMechanism.EXTERNAL_AUTHORITATIVE), {"ExternallySecuredServers"}),
    ],
)
def test_a_session_starts_as_what_the_mechanisms_make_it(
    mechanisms: tuple[AuthMechanism, ...], expected: set[str]
) -> None:
    assert initial_principals(connector("c", "10.0.0.0/8", auth_mechanisms=mechanisms)) == expected
    assert authenticated_principals("alice") == {"AuthenticatedUsers", "user:alice"}
