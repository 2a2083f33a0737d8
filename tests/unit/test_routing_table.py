from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.config import (
    AcceptedDomain,
    AddressSpace,
    DnsRouting,
    Drop,
    Host,
    Lmtp,
    Maildir,
    RetryPolicy,
    SendConnector,
    SmartHostRouting,
    SmtpHost,
    TierConfig,
)
from postroad_transport.routing.table import Route, RoutingTable, Unroutable


def connector(name: str, *spaces: tuple[str, int], routing=None, **fields) -> SendConnector:
    return SendConnector(
        name=name,
        source=f"SendConnector/mail/{name}",
        address_spaces=tuple(AddressSpace(domain=domain, cost=cost) for domain, cost in spaces),
        routing=routing or DnsRouting(),
        fqdn="tier.example",
        **fields,
    )


def accepted(domain: str, **fields) -> AcceptedDomain:
    return AcceptedDomain(domain=domain, source=f"AcceptedDomain/mail/{domain}", **fields)


def table(*, domains=(), connectors=()) -> RoutingTable:
    return RoutingTable(
        TierConfig(
            tier="mail/main",
            hostname="tier.example",
            accepted_domains=tuple(domains),
            send_connectors=tuple(connectors),
        )
    )


def route(routes: RoutingTable, domain: str) -> Route:
    found = routes.route(domain)
    assert isinstance(found, Route)
    return found


@pytest.mark.parametrize(
    ("target", "destination", "label"),
    [
        (Maildir(path="mail/{domain}/{local}"), "maildir:mail/{domain}/{local}", "maildir"),
        (Lmtp(host="dovecot", port=2400), "lmtp:dovecot:2400", "lmtp"),
        (SmtpHost(host="mbx", port=2500), "smtp:mbx:2500", "smtp"),
    ],
)
def test_accepted_domain_with_deliver_goes_to_its_target_whatever_the_connectors(target, destination, label):
    routes = table(domains=[accepted("a.example", deliver=target)], connectors=[connector("all", ("a.example", 1))])
    found = route(routes, "a.example")
    assert (found.target, found.destination, found.connector) == (target, destination, label)
    assert found.send_connector is None


@pytest.mark.parametrize(
    ("routing", "destination"),
    [
        (DnsRouting(), "dns:b.example"),
        (SmartHostRouting(hosts=(Host(host="relay"),)), "smarthost:out"),
        (Lmtp(host="l", port=24), "lmtp:l:24"),
        (Drop(), "drop:out"),
    ],
)
def test_connector_route_carries_connector_and_its_retry_policy(routing, destination):
    retry = RetryPolicy(schedule=(5,))
    out = connector("out", ("*", 1), routing=routing, retry=retry)
    found = route(table(connectors=[out]), "b.example")
    assert found == Route("out", destination, routing, out, retry)


def test_accepted_domain_without_deliver_goes_by_send_connector():
    routes = table(domains=[accepted("a.example")], connectors=[connector("out", ("*", 1))])
    assert route(routes, "a.example").connector == "out"


def test_subdomain_goes_to_nearest_parent_that_matches_subdomains():
    routes = table(
        domains=[
            accepted("example", deliver=Lmtp(host="far"), match_subdomains=True),
            accepted("a.example", deliver=Lmtp(host="near"), match_subdomains=True),
            accepted("b.a.example", deliver=Lmtp(host="exact-only")),
        ]
    )
    assert route(routes, "x.y.a.example").destination == "lmtp:near:24"
    assert route(routes, "b.a.example").destination == "lmtp:exact-only:24"
    assert route(routes, "x.b.a.example").destination == "lmtp:near:24"
    assert route(routes, "z.example").destination == "lmtp:far:24"


def test_exact_beats_longest_suffix_beats_shorter_suffix_beats_star_whatever_the_cost():
    routes = table(
        connectors=[
            connector("star", ("*", 1)),
            connector("short", ("*.example", 1)),
            connector("long", ("*.a.example", 50)),
            connector("exact", ("x.a.example", 100)),
        ]
    )
    names = {d: route(routes, d).connector for d in ("x.a.example", "y.a.example", "a.example", "example", "com")}
    assert names == {
        "x.a.example": "exact",
        "y.a.example": "long",
        "a.example": "short",
        "example": "star",
        "com": "star",
    }


def test_lowest_cost_then_name_wins_among_equal_spaces():
    routes = table(connectors=[connector("b", ("*", 5)), connector("c", ("*", 2)), connector("a", ("*", 5))])
    assert route(routes, "x.example").connector == "c"
    routes = table(connectors=[connector("b", ("*", 5)), connector("a", ("*", 5))])
    assert route(routes, "x.example").connector == "a"


def test_address_literal_is_covered_by_star_and_by_itself_but_by_no_suffix():
    routes = table(connectors=[connector("star", ("*", 1)), connector("suffix", ("*.2.1]", 1), ("*.0.2.1]", 1))])
    assert route(routes, "[192.0.2.1]").destination == "dns:[192.0.2.1]"
    routes = table(connectors=[connector("exact", ("[192.0.2.1]", 1))])
    assert route(routes, "[192.0.2.1]").connector == "exact"


def test_u_label_and_case_and_final_dot_make_no_difference():
    routes = table(domains=[accepted("xn--bcher-kva.example", deliver=Lmtp(host="l"))])
    for spelling in ("bücher.example", "BÜCHER.example", "xn--bcher-kva.EXAMPLE", "xn--bcher-kva.example."):
        assert route(routes, spelling).destination == "lmtp:l:24"


def test_a_letter_that_was_once_written_as_two_makes_another_domain():
    routes = table(
        domains=[accepted(name, deliver=Lmtp(host=name)) for name in ("fass.example", "xn--fa-hia.example")]
    )
    assert routes.route("faß.example").destination == "lmtp:xn--fa-hia.example:24"
    assert routes.route("fass.example").destination == "lmtp:fass.example:24"


@pytest.mark.parametrize("domain", ["", ".", "ü..example", "ü" * 300])
def test_what_is_no_domain_name_is_unroutable_for_good(domain):
    found = table(connectors=[connector("star", ("*", 1))]).route(domain)
    assert isinstance(found, Unroutable)
    assert found.reply[:2] == (550, "5.1.2")


def test_uncovered_foreign_domain_fails_and_uncovered_accepted_domain_waits():
    routes = table(domains=[accepted("a.example")], connectors=[connector("b", ("b.example", 1))])
    foreign, own = routes.route("c.example"), routes.route("a.example")
    assert isinstance(foreign, Unroutable)
    assert isinstance(own, Unroutable)
    assert foreign.reply[:2] == (550, "5.4.4")
    assert own.reply[:2] == (451, "4.4.4")


labels = st.sampled_from(["a", "b", "c"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
spaces = st.one_of(st.just("*"), names, names.map(lambda name: f"*.{name}"))
connectors = st.lists(st.lists(st.tuples(spaces, st.integers(1, 3)), min_size=1, max_size=4), max_size=6).map(
    lambda lists: [connector(f"c{index}", *entries) for index, entries in enumerate(lists)]
)
domains = st.dictionaries(names, st.tuples(st.booleans(), st.booleans()), max_size=6).map(
    lambda known: [
        accepted(name, match_subdomains=match, deliver=Lmtp(host=name) if deliver else None)
        for name, (match, deliver) in known.items()
    ]
)


def oracle(config_domains, config_connectors, name):
    """What the rules say, one candidate after another."""
    owners = [d for d in config_domains if d.domain == name or (d.match_subdomains and name.endswith("." + d.domain))]
    owner = max(owners, key=lambda d: (d.domain == name, len(d.domain)), default=None)
    if owner is not None and owner.deliver is not None:
        return f"lmtp:{owner.deliver.host}:24"
    ranked = []
    for candidate in config_connectors:
        for space in candidate.address_spaces:
            if space.domain == name:
                rank = 1000
            elif space.domain.startswith("*.") and name.endswith(space.domain[1:]):
                rank = len(space.domain)
            elif space.domain == "*":
                rank = 0
            else:
                continue
            ranked.append((-rank, space.cost, candidate.name))
    if ranked:
        return min(ranked)[2]
    return 451 if owner is not None else 550


@given(domains, connectors, names)
def test_every_lookup_agrees_with_the_rules_read_naively(config_domains, config_connectors, name):
    found = table(domains=config_domains, connectors=config_connectors).route(name)
    expected = oracle(config_domains, config_connectors, name)
    if isinstance(found, Unroutable):
        assert found.reply.code == expected
    else:
        assert expected == (found.connector if found.send_connector else found.destination)
