"""Accepted domains: exact names, subdomains, aliases, and where ``<postmaster>`` goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.config import AcceptedDomain, DomainType
from postroad_transport.policy.address import Mailbox
from postroad_transport.policy.domains import DomainTable


def domain(name: str, **fields: object) -> AcceptedDomain:
    return AcceptedDomain(domain=name, source=f"AcceptedDomain/mail/{name}", **fields)


def test_a_name_belongs_to_its_own_entry_before_any_parent() -> None:
    table = DomainTable([domain("example.com", match_subdomains=True), domain("a.example.com")])
    found = table.lookup("a.example.com")
    assert found is not None
    assert found.domain == "a.example.com"


def test_a_subdomain_belongs_to_the_nearest_parent_that_takes_subdomains() -> None:
    table = DomainTable(
        [domain("com", match_subdomains=True), domain("example.com", match_subdomains=True), domain("b.example.com")]
    )
    for name, expected in [("x.y.example.com", "example.com"), ("x.b.example.com", "example.com"), ("x.com", "com")]:
        found = table.lookup(name)
        assert found is not None
        assert found.domain == expected


def test_a_subdomain_belongs_nowhere_unless_a_parent_takes_subdomains() -> None:
    table = DomainTable([domain("example.com")])
    assert table.lookup("a.example.com") is None
    assert table.lookup("notexample.com") is None
    assert table.lookup("[192.0.2.1]") is None
    assert table.lookup("") is None


def test_a_u_label_finds_the_a_label_that_is_configured() -> None:
    table = DomainTable([domain("xn--bcher-kva.example")])
    assert table.lookup("bücher.example") is not None
    assert table.lookup("bu\u2028cher.example") is None


def test_of_two_entries_for_one_name_the_first_counts() -> None:
    first = domain("example.com", type=DomainType.INTERNAL_RELAY)
    assert DomainTable([first, domain("example.com")]).lookup("example.com") is first


def test_an_alias_delivers_the_same_local_part_to_the_other_domain() -> None:
    table = DomainTable([domain("a.example"), domain("b.example", alias_of="a.example", match_subdomains=True)])
    assert table.resolve(Mailbox("Id", "b.example")) == Mailbox("Id", "a.example")
    assert table.resolve(Mailbox("Id", "sub.b.example")) == Mailbox("Id", "a.example")
    assert table.resolve(Mailbox("Id", "a.example")) == Mailbox("Id", "a.example")
    assert table.resolve(Mailbox("Id", "c.example")) == Mailbox("Id", "c.example")


def test_aliases_of_aliases_are_followed_and_circles_end() -> None:
    chain = DomainTable([domain("a.example", alias_of="b.example"), domain("b.example", alias_of="c.example")])
    assert chain.resolve(Mailbox("x", "a.example")).domain == "c.example"
    circle = DomainTable([domain("a.example", alias_of="b.example"), domain("b.example", alias_of="a.example")])
    assert circle.resolve(Mailbox("x", "a.example")).domain == "b.example"


def test_postmaster_gets_the_default_domain() -> None:
    postmaster = Mailbox("Postmaster", "")
    flagged = [domain("a.example"), domain("b.example", default=True)]
    unflagged = [domain("r.example", type=DomainType.EXTERNAL_RELAY), domain("a.example")]
    assert DomainTable(flagged, hostname="mx").resolve(postmaster).domain == "b.example"
    assert DomainTable(unflagged, hostname="mx").resolve(postmaster).domain == "a.example"
    assert DomainTable([], hostname="mx.example").resolve(postmaster).address == "Postmaster@mx.example"


names = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


@given(entries=st.lists(st.tuples(names, st.booleans()), max_size=12), name=names)
def test_lookup_agrees_with_its_definition(entries: list[tuple[str, bool]], name: str) -> None:
    table = DomainTable([domain(entry, match_subdomains=subdomains) for entry, subdomains in entries])
    first = dict(reversed(entries))
    candidates = [
        entry for entry, subdomains in first.items() if entry == name or (subdomains and name.endswith("." + entry))
    ]
    found = table.lookup(name)
    assert (found.domain if found else None) == max(candidates, key=len, default=None)
