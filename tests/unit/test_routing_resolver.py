from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from postroad_transport.routing.mx import LookupFailedError, MailExchanger, NoSuchDomainError
from postroad_transport.routing.resolver import DnsResolver, SystemResolver

ZONE = {
    ("d.example.", "MX"): ["d.example. 300 IN MX 20 MX2.d.example.", "d.example. 300 IN MX 10 mx1.d.example."],
    ("null.example.", "MX"): ["null.example. 300 IN MX 0 ."],
    ("short.example.", "MX"): ["short.example. 0 IN MX 5 mx1.d.example."],
    ("alias.example.", "MX"): ["alias.example. 300 IN CNAME d.example.", "d.example. 300 IN MX 10 mx1.d.example."],
    ("mx1.d.example.", "A"): ["mx1.d.example. 300 IN A 192.0.2.1", "mx1.d.example. 300 IN A 192.0.2.2"],
    ("mx1.d.example.", "AAAA"): ["mx1.d.example. 300 IN AAAA 2001:db8::1"],
    ("four.example.", "A"): ["four.example. 300 IN A 192.0.2.4"],
}
NAMES = {name for name, _ in ZONE} | {"empty.example."}


class _Server(asyncio.DatagramProtocol):
    def __init__(self):
        self.questions = []

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), question.rdtype.name
        self.questions.append((name, kind))
        if name.startswith("silent."):
            return
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA | dns.flags.AA
        if name.startswith("servfail."):
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif name not in NAMES:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        for line in ZONE.get((name, kind), ()):
            owner, ttl, rdclass, rdtype, rest = line.split(" ", 4)
            rrset = dns.rrset.from_text(owner, int(ttl), rdclass, rdtype, rest)
            answer = reply.find_rrset(reply.answer, rrset.name, rrset.rdclass, rrset.rdtype, create=True)
            answer.add(rrset[0], rrset.ttl)
        self.transport.sendto(reply.to_wire(), peer)


@asynccontextmanager
async def dns_server():
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        _Server, local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]
    try:
        yield server, DnsResolver([f"127.0.0.1:{port}"], query_timeout=0.2, lookup_timeout=0.5)
    finally:
        transport.close()


async def test_mx_records_are_read_and_lower_cased():
    async with dns_server() as (_, resolver):
        assert set(await resolver.mx("d.example")) == {
            MailExchanger(10, "mx1.d.example"),
            MailExchanger(20, "mx2.d.example"),
        }


async def test_null_mx_has_an_empty_host():
    async with dns_server() as (_, resolver):
        assert await resolver.mx("null.example") == (MailExchanger(0, ""),)


async def test_cname_is_followed():
    async with dns_server() as (_, resolver):
        assert await resolver.mx("alias.example") == (MailExchanger(10, "mx1.d.example"),)


async def test_domain_without_mx_gives_nothing_and_missing_domain_raises():
    async with dns_server() as (_, resolver):
        assert await resolver.mx("empty.example") == ()
        with pytest.raises(NoSuchDomainError):
            await resolver.mx("gone.example")
        with pytest.raises(NoSuchDomainError):
            await resolver.addresses("gone.example")


@pytest.mark.parametrize("name", ["servfail.example", "silent.example"])
async def test_server_fault_and_silence_are_temporary(name):
    async with dns_server() as (_, resolver):
        with pytest.raises(LookupFailedError):
            await resolver.mx(name)
        with pytest.raises(LookupFailedError):
            await resolver.addresses(name)


async def test_addresses_hold_both_families_or_the_one_there_is():
    async with dns_server() as (_, resolver):
        assert set(await resolver.addresses("mx1.d.example")) == {"192.0.2.1", "192.0.2.2", "2001:db8::1"}
        assert await resolver.addresses("four.example") == ("192.0.2.4",)
        assert await resolver.addresses("empty.example") == ()


async def test_answer_is_asked_for_once_while_its_ttl_lasts():
    async with dns_server() as (server, resolver):
        for _ in range(3):
            await resolver.mx("d.example")
            await resolver.mx("short.example")
        assert server.questions.count(("d.example.", "MX")) == 1
        assert server.questions.count(("short.example.", "MX")) == 3


@pytest.mark.parametrize("name", ["a..example", "x" * 64 + ".example", ".".join(["x" * 60] * 5)])
async def test_impossible_name_does_not_exist_and_is_not_asked_for(name):
    async with dns_server() as (server, resolver):
        with pytest.raises(NoSuchDomainError):
            await resolver.mx(name)
        assert server.questions == []


@pytest.mark.parametrize("server", ["192.0.2.1:x", "dns.example", "[::1]5353", "192.0.2.1:99999999"])
def test_resolver_that_is_no_address_is_refused_at_once(server):
    with pytest.raises(ValueError, match=r"."):
        DnsResolver([server])


@pytest.mark.parametrize("server", ["::1", "[::1]:5353", "192.0.2.1", "192.0.2.1:5353"])
def test_resolver_addresses_of_both_families_are_taken(server):
    DnsResolver([server])


async def test_system_resolver_finds_localhost_and_knows_no_impossible_name():
    assert {"127.0.0.1", "::1"} & set(await SystemResolver().addresses("localhost"))
    with pytest.raises((NoSuchDomainError, LookupFailedError)):
        await SystemResolver().addresses("x" * 300)
