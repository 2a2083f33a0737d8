from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.config import Host
from postroad_transport.routing.locate import locate_exchangers, locate_hosts
from postroad_transport.routing.mx import (
    LookupFailedError,
    MailExchanger,
    NoExchanger,
    NoSuchDomainError,
    arrange,
    by_family,
    exchangers,
)


class FakeResolver:
    """Answers from two tables; an exception in them is raised, a name not in them does not exist."""

    def __init__(self, mx=None, addresses=None):
        self.records = mx or {}
        self.hosts = addresses or {}

    async def mx(self, domain):
        return self._answer(self.records, domain)

    async def addresses(self, host):
        return self._answer(self.hosts, host)

    @staticmethod
    def _answer(known, name):
        answer = known.get(name, NoSuchDomainError(f"{name} does not exist"))
        if isinstance(answer, Exception):
            raise answer
        return answer


def nowhere(name: str) -> bool:
    return False


async def locate(resolver, domain="d.example", *, is_local=nowhere, seed=1):
    return await locate_exchangers(domain, resolver, is_local=is_local, random=Random(seed))


def mx(*pairs):
    return tuple(MailExchanger(preference, host) for preference, host in pairs)


async def test_hosts_come_by_preference():
    resolver = FakeResolver(
        {"d.example": mx((20, "b"), (10, "a"), (30, "c"))},
        {"a": ("192.0.2.1",), "b": ("192.0.2.2",), "c": ("192.0.2.3",)},
    )
    assert await locate(resolver) == [("a", "192.0.2.1"), ("b", "192.0.2.2"), ("c", "192.0.2.3")]


async def test_equal_preference_is_shuffled_by_the_random_given():
    resolver = FakeResolver(
        {"d.example": mx(*((10, f"h{n}") for n in range(4)), (20, "last"))},
        {**{f"h{n}": (f"192.0.2.{n}",) for n in range(4)}, "last": ("192.0.2.9",)},
    )
    orders = {tuple(host for host, _ in await locate(resolver, seed=seed)) for seed in range(20)}
    assert len(orders) > 5
    assert all(order[-1] == "last" for order in orders)


@pytest.mark.parametrize(
    ("records", "addresses", "code", "enhanced"),
    [
        (NoSuchDomainError("no"), {}, 550, "5.1.2"),
        (LookupFailedError("timeout"), {}, 451, "4.4.3"),
        (mx((0, "")), {}, 556, "5.1.10"),
        ((), {"d.example": ()}, 550, "5.1.2"),
        ((), {"d.example": LookupFailedError("timeout")}, 451, "4.4.3"),
        (mx((10, "a"), (20, "b")), {"a": ()}, 550, "5.4.4"),
        (mx((10, "a"), (20, "b")), {"b": LookupFailedError("timeout")}, 451, "4.4.3"),
    ],
    ids=["nxdomain", "servfail", "null-mx", "no-host", "address-unsure", "mx-without-address", "one-mx-unsure"],
)
async def test_dns_that_leads_nowhere_gives_the_reply_of_its_kind(records, addresses, code, enhanced):
    found = await locate(FakeResolver({"d.example": records}, addresses))
    assert isinstance(found, NoExchanger)
    assert found.reply[:2] == (code, enhanced)


async def test_without_mx_the_domain_itself_is_the_host():
    assert await locate(FakeResolver({"d.example": ()}, {"d.example": ("192.0.2.7",)})) == [
        ("d.example", "192.0.2.7")
    ]


async def test_a_host_without_address_is_passed_over():
    resolver = FakeResolver({"d.example": mx((10, "a"), (20, "b"))}, {"b": ("192.0.2.2",)})
    assert await locate(resolver) == [("b", "192.0.2.2")]


@pytest.mark.parametrize("ours", ["b", "192.0.2.2"])
async def test_from_our_own_preference_on_every_host_is_left_out(ours):
    resolver = FakeResolver(
        {"d.example": mx((10, "a"), (20, "b"), (20, "equal"), (30, "c"))},
        {"a": ("192.0.2.1",), "b": ("192.0.2.2",), "equal": ("192.0.2.4",), "c": ("192.0.2.3",)},
    )
    assert await locate(resolver, is_local=lambda name: name == ours) == [("a", "192.0.2.1")]


async def test_being_the_best_exchanger_ourselves_is_a_loop():
    resolver = FakeResolver({"d.example": mx((10, "me"))}, {"me": ("192.0.2.1",)})
    found = await locate(resolver, is_local=lambda name: name == "me")
    assert isinstance(found, NoExchanger)
    assert found.reply[:2] == (554, "5.4.6")


def test_null_mx_beside_real_ones_is_passed_over():
    assert exchangers("d.example", mx((0, ""), (10, "a"))) == mx((10, "a"))


@pytest.mark.parametrize(
    ("literal", "address"), [("[192.0.2.1]", "192.0.2.1"), ("[ipv6:2001:db8::1]", "2001:db8::1")]
)
async def test_address_literal_needs_no_lookup(literal, address):
    assert await locate(FakeResolver(), literal) == [(address, address)]


async def test_broken_address_literal_fails_and_our_own_is_a_loop():
    broken = await locate(FakeResolver(), "[192.0.2]")
    ours = await locate(FakeResolver(), "[192.0.2.1]", is_local=lambda name: name == "192.0.2.1")
    assert isinstance(broken, NoExchanger)
    assert isinstance(ours, NoExchanger)
    assert (broken.reply.code, ours.reply.enhanced) == (550, "5.4.6")


def test_families_take_turns_and_ipv6_begins():
    assert by_family(["192.0.2.1", "192.0.2.2", "2001:db8::1"]) == ["2001:db8::1", "192.0.2.1", "192.0.2.2"]


async def test_configured_hosts_keep_their_order_and_a_lost_one_is_passed_over():
    resolver = FakeResolver(addresses={"one": ("192.0.2.1",), "two": LookupFailedError("timeout")})
    hosts = [Host(host="two", port=1), Host(host="one", port=2), Host(host="192.0.2.9", port=3)]
    assert await locate_hosts(hosts, resolver) == [("one", "192.0.2.1", 2), ("192.0.2.9", "192.0.2.9", 3)]


async def test_configured_host_that_does_not_exist_only_defers():
    found = await locate_hosts([Host(host="gone")], FakeResolver())
    assert isinstance(found, NoExchanger)
    assert found.reply[:2] == (451, "4.4.3")


records = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from("abcdef")).map(lambda pair: MailExchanger(*pair)),
    min_size=1,
    max_size=8,
    unique_by=lambda record: record.host,
)


@given(records, st.sets(st.sampled_from("abcdef")), st.integers())
def test_order_holds_exactly_the_hosts_better_than_ourselves_sorted_by_preference(hosts, ours, seed):
    addresses = {record.host: (f"192.0.2.{ord(record.host)}",) for record in hosts}
    found = arrange("d.example", hosts, addresses, is_local=ours.__contains__, random=Random(seed))
    own_best = min((record.preference for record in hosts if record.host in ours), default=99)
    expected = {record.host: record.preference for record in hosts if record.preference < own_best}
    if not expected:
        assert isinstance(found, NoExchanger)
        return
    preferences = [expected[host] for host, _ in found]
    assert sorted(expected) == sorted(host for host, _ in found)
    assert preferences == sorted(preferences)
