"""The hop against peers that behave, and against the ways in which peers do not."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from smtp_peer import CLOSE, HANG, MESSAGE, Peer, deliver, direct_hop, dns_hop, hop_to, limits, settings

from postroad_transport.config import Drop, RetryPolicy
from postroad_transport.delivery import smtp_hop
from postroad_transport.delivery.hop import Result
from postroad_transport.delivery.smtp_hop import RECIPIENTS, make_hop
from postroad_transport.message import Body, PlainContent, Recipient
from postroad_transport.routing.mx import LookupFailedError, MailExchanger
from postroad_transport.routing.resolver import DnsResolver
from postroad_transport.routing.table import Route

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:pytest.PytestDeprecationWarning")


@pytest.fixture
def event_loop_policy():
    """The loop that workers run on."""
    return uvloop.EventLoopPolicy()


BARE = ("8BITMIME",)


def results(outcomes) -> list[Result]:
    return [outcome.result for outcome in outcomes]


@pytest.fixture(params=[("PIPELINING", "8BITMIME", "DSN"), BARE], ids=["pipelined", "one-by-one"])
async def peer(request):
    async with Peer(extensions=request.param) as made:
        yield made


# Peers that behave


async def test_message_arrives_with_its_dots_and_the_outcome_names_reply_and_host(peer):
    hop = hop_to(peer.port)
    content = [b"Subject: x\r\n\r\n", b".hidden\r\n..\r\n", b"end\r\n"]
    (outcome,) = await deliver(hop, "r@d.example", content=content)
    assert outcome.result is Result.DELIVERED
    assert outcome.reply == "250 2.0.0 taken"
    assert outcome.remote == f"127.0.0.1[127.0.0.1]:{peer.port}"
    assert peer.taken[0].data == b"".join(content)
    await hop.close()


async def test_every_recipient_gets_its_own_reply_in_order(peer):
    peer.answers["RCPT"] = [b"250 2.1.5 ok\r\n", b"550 5.1.1 no\r\n", b"450 4.2.0 busy\r\n", b"250 2.1.5 ok\r\n"]
    hop = hop_to(peer.port)
    outcomes = await deliver(hop, "a@d.example", "b@d.example", "c@d.example", "d@d.example")
    assert results(outcomes) == [Result.DELIVERED, Result.FAILED, Result.DEFERRED, Result.DELIVERED]
    assert [outcome.reply for outcome in outcomes[1:3]] == ["550 5.1.1 no", "450 4.2.0 busy"]
    assert peer.taken[0].recipients == ["RCPT TO:<a@d.example>", "RCPT TO:<d@d.example>"]
    await hop.close()


@pytest.mark.parametrize(
    ("key", "reply", "result"),
    [
        ("MAIL", b"451 4.3.0 later\r\n", Result.DEFERRED),
        ("MAIL", b"550 5.7.1 never\r\n", Result.FAILED),
        ("RCPT", b"552 too many\r\n", Result.DEFERRED),
        ("RCPT", b"552 5.2.2 mailbox full\r\n", Result.FAILED),
        ("DATA", b"451 4.3.0 later\r\n", Result.DEFERRED),
        ("DATA", b"554 5.3.0 never\r\n", Result.FAILED),
        (".", b"452 4.3.1 full\r\n", Result.DEFERRED),
        (".", b"554 5.6.0 spam\r\n", Result.FAILED),
        (".", b"354 what\r\n", Result.DEFERRED),
        ("DATA", b"250 what\r\n", Result.DEFERRED),
        ("MAIL", b"354 what\r\n", Result.DEFERRED),
    ],
)
async def test_refusal_decides_and_the_session_carries_the_next_message(peer, key, reply, result):
    peer.answers[key] = reply
    hop = hop_to(peer.port)
    outcomes = await deliver(hop, "a@d.example", "b@d.example")
    assert results(outcomes) == [result, result]
    assert outcomes[0].reply.startswith("5" if result is Result.FAILED else "4")
    del peer.answers[key]
    assert results(await deliver(hop)) == [Result.DELIVERED]
    assert len(peer.taken) == 1
    await hop.close()


async def test_connection_is_kept_and_closed_with_quit(peer):
    given_settings = settings()
    hop = hop_to(peer.port, given=given_settings)
    for _ in range(5):
        assert results(await deliver(hop)) == [Result.DELIVERED]
    gauge = given_settings.metrics.outbound_connections.labels("out")
    assert (peer.connections, gauge._value.get()) == (1, 1)
    await hop.close()
    while peer.open:
        await asyncio.sleep(0.001)
    assert peer.commands[-1] == "QUIT"
    assert gauge._value.get() == 0


async def test_idle_connection_is_let_go(peer):
    hop = hop_to(peer.port, given=settings(idle_seconds=0.01))
    await deliver(hop)
    while peer.open:
        await asyncio.sleep(0.001)
    assert results(await deliver(hop)) == [Result.DELIVERED]
    assert peer.connections == 2
    await hop.close()


async def test_messages_per_connection_is_kept_to(peer):
    hop = hop_to(peer.port, limits=limits(messages_per_connection=2))
    for _ in range(5):
        await deliver(hop)
    assert peer.connections == 3
    await hop.close()


async def test_concurrent_calls_stay_within_the_connection_limit(peer):
    hop = hop_to(peer.port, limits=limits(connections=3))
    outcomes = await asyncio.gather(*(deliver(hop) for _ in range(30)))
    assert all(results(outcome) == [Result.DELIVERED] for outcome in outcomes)
    assert peer.connections <= 3
    assert len(peer.taken) == 30
    await hop.close()


async def test_rate_limit_spaces_messages(peer):
    hop = hop_to(peer.port, limits=limits(rate=50))
    start = time.monotonic()
    await asyncio.gather(*(deliver(hop) for _ in range(6)))
    assert time.monotonic() - start >= 5 / 50
    await hop.close()


async def test_kept_connection_that_the_peer_closed_costs_nothing_but_a_new_one(peer):
    hop = hop_to(peer.port)
    await deliver(hop)
    peer.answers["MAIL"] = [b"421 4.4.2 idle too long\r\n", b"250 ok\r\n"]
    assert results(await deliver(hop)) == [Result.DELIVERED]
    peer.answers["MAIL"] = [CLOSE, b"250 ok\r\n"]
    assert results(await deliver(hop)) == [Result.DELIVERED]
    assert peer.connections == 3
    await hop.close()


async def test_host_of_an_accepted_domain_is_greeted_with_the_servers_own_name():
    async with Peer() as peer:
        hop = direct_hop(peer.port)
        assert results(await deliver(hop)) == [Result.DELIVERED]
        assert peer.commands[0] == "EHLO tier.example"
        await hop.close()


async def test_more_recipients_than_a_transaction_holds_go_in_several():
    async with Peer() as peer:
        hop = hop_to(peer.port)
        outcomes = await deliver(hop, *(f"r{n}@d.example" for n in range(2 * RECIPIENTS + 1)))
        assert set(results(outcomes)) == {Result.DELIVERED}
        assert [len(transaction.recipients) for transaction in peer.taken] == [RECIPIENTS, RECIPIENTS, 1]
        assert peer.connections == 1
        await hop.close()


async def test_peer_without_ehlo_is_spoken_to_in_plain_smtp():
    async with Peer(answers={"EHLO": b"502 5.5.2 what\r\n"}) as peer:
        hop = hop_to(peer.port)
        assert results(await deliver(hop)) == [Result.DELIVERED]
        assert peer.commands[:3] == ["EHLO tier.example", "HELO tier.example", "MAIL FROM:<s@o.example>"]
        await hop.close()


async def test_lmtp_gives_a_final_reply_for_each_accepted_recipient(peer):
    peer.lmtp = True
    peer.answers["RCPT"] = [b"250 ok\r\n", b"550 5.1.1 no\r\n", b"250 ok\r\n", b"250 ok\r\n"]
    peer.answers["."] = [b"250 2.0.0 saved\r\n", b"552 5.2.2 full\r\n", b"452 4.2.2 nearly full\r\n"]
    hop = hop_to(peer.port, lmtp=True)
    outcomes = await deliver(hop, "a@d.example", "b@d.example", "c@d.example", "d@d.example")
    assert [outcome.reply for outcome in outcomes] == [
        "250 2.0.0 saved",
        "550 5.1.1 no",
        "552 5.2.2 full",
        "452 4.2.2 nearly full",
    ]
    assert results(outcomes) == [Result.DELIVERED, Result.FAILED, Result.FAILED, Result.DEFERRED]
    assert peer.commands[0] == "LHLO tier.example"
    await hop.close()


async def test_lmtp_that_stops_between_final_replies_defers_the_rest():
    async with Peer(lmtp=True, answers={".": [b"250 2.0.0 saved\r\n", CLOSE]}) as peer:
        hop = hop_to(peer.port, lmtp=True)
        outcomes = await deliver(hop, "a@d.example", "b@d.example", "c@d.example")
        assert results(outcomes) == [Result.DELIVERED, Result.DEFERRED, Result.DEFERRED]
        await hop.close()


async def test_binary_message_goes_by_bdat_byte_for_byte():
    async with Peer(extensions=("PIPELINING", "CHUNKING", "BINARYMIME")) as peer:
        hop = hop_to(peer.port)
        content = [b"Subject: x\r\n\r\n", bytes(range(256)) + b"\n.\r\n.\r\n"]
        assert results(await deliver(hop, content=content, body=Body.BINARY_MIME)) == [Result.DELIVERED]
        assert peer.taken[0].data == b"".join(content)
        assert peer.taken[0].mail == "MAIL FROM:<s@o.example> BODY=BINARYMIME"
        await hop.close()


EIGHT_BIT = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xc3\xa4\r\n"
CONVERTED = EIGHT_BIT.replace(b"8bit", b"quoted-printable").replace(b"\xc3\xa4", b"=C3=A4")


@pytest.mark.parametrize("body", [Body.SEVEN_BIT, Body.EIGHT_BIT_MIME, Body.BINARY_MIME])
@pytest.mark.parametrize("kind", [PlainContent, list])
async def test_8_bit_message_is_converted_for_a_peer_that_takes_none(body, kind):
    async with Peer(extensions=("PIPELINING", "SIZE", "CHUNKING")) as peer:
        hop = hop_to(peer.port)
        (outcome,) = await deliver(hop, content=kind([EIGHT_BIT[:30], memoryview(EIGHT_BIT)[30:]]), body=body)
        assert outcome.result is Result.DELIVERED
        assert outcome.converted == "7BIT"
        assert peer.taken[0].mail == f"MAIL FROM:<s@o.example> SIZE={len(CONVERTED)}"
        assert peer.taken[0].data == CONVERTED
        await hop.close()


async def test_8_bit_message_goes_as_it_is_to_a_peer_that_takes_it(peer):
    hop = hop_to(peer.port)
    (outcome,) = await deliver(hop, content=[EIGHT_BIT], body=Body.EIGHT_BIT_MIME)
    assert not outcome.converted
    assert peer.taken[0].data == EIGHT_BIT
    assert peer.taken[0].mail == "MAIL FROM:<s@o.example> BODY=8BITMIME"
    await hop.close()


async def test_binary_message_is_converted_for_a_peer_that_takes_8_bit(peer):
    hop = hop_to(peer.port)
    content = [b"MIME-Version: 1.0\r\nContent-Type: image/x\r\nContent-Transfer-Encoding: binary\r\n\r\n\x00\n"]
    (outcome,) = await deliver(hop, content=content, body=Body.BINARY_MIME)
    assert outcome.converted == "8BITMIME"
    assert peer.taken[0].data == content[0].replace(b"binary", b"base64").replace(b"\x00\n", b"AAo=\r\n")
    assert peer.taken[0].mail == "MAIL FROM:<s@o.example> BODY=8BITMIME"
    await hop.close()


async def test_message_that_cannot_be_converted_fails_unless_nobody_declared_it():
    content = [EIGHT_BIT.replace(b"Subject: x", b"Subject: \xe4")]
    async with Peer(extensions=("PIPELINING",)) as peer:
        hop = hop_to(peer.port)
        for body, kind in ((Body.EIGHT_BIT_MIME, "8-bit"), (Body.BINARY_MIME, "8-bit")):
            (outcome,) = await deliver(hop, content=content, body=body)
            assert outcome.result is Result.FAILED
            assert outcome.reply == (
                f"554 5.6.3 the peer takes no {kind} messages, and it cannot be converted: 8-bit bytes in a header"
            )
        assert not any(command.startswith("MAIL") for command in peer.commands)
        (outcome,) = await deliver(hop, content=content)
        assert outcome.result is Result.DELIVERED
        assert not outcome.converted
        assert peer.taken[0].data == content[0]
        await hop.close()


async def test_large_8_bit_message_is_converted_beside_the_loop():
    content = [EIGHT_BIT, b".\xc3\xa4\r\n" * 100_000]
    async with Peer(extensions=("PIPELINING",)) as peer:
        hop = hop_to(peer.port, limits=limits(data_timeout=20))
        (outcome,) = await deliver(hop, content=content, body=Body.EIGHT_BIT_MIME)
        assert outcome.converted == "7BIT"
        assert peer.taken[0].data == CONVERTED + b".=C3=A4\r\n" * 100_000
        await hop.close()


async def test_large_message_arrives_whole(peer):
    hop = hop_to(peer.port, limits=limits(data_timeout=20))
    lines = (b"y" * 98 + b"\r\n") * 40_000
    content = [b"Subject: x\r\n\r\n", b"." * 70 + b"\r\n", memoryview(b"x" * 998 + b"\r\n"), lines]
    assert results(await deliver(hop, content=content)) == [Result.DELIVERED]
    assert peer.taken[0].data == b"".join(content)
    await hop.close()


async def test_dsn_parameters_are_passed_on_and_the_outcome_says_so():
    async with Peer() as peer:
        hop = hop_to(peer.port)
        recipient = Recipient(address="r@d.example", notify=("SUCCESS",), orcpt="rfc822;r@d.example")
        (outcome,) = await deliver(hop, recipient, ret="HDRS", envid="e1")
        assert outcome.dsn
        assert peer.taken[0].mail == f"MAIL FROM:<s@o.example> SIZE={len(MESSAGE)} RET=HDRS ENVID=e1"
        assert peer.taken[0].recipients == ["RCPT TO:<r@d.example> NOTIFY=SUCCESS ORCPT=rfc822;r@d.example"]
        await hop.close()
    async with Peer(extensions=BARE) as peer:
        hop = hop_to(peer.port)
        (outcome,) = await deliver(hop, recipient, ret="HDRS")
        assert not outcome.dsn
        assert peer.taken[0].mail == "MAIL FROM:<s@o.example>"
        await hop.close()


async def test_oversize_message_fails_without_being_sent():
    async with Peer(extensions=("SIZE 10",)) as peer:
        for hop in (hop_to(peer.port), hop_to(peer.port, limits=limits(message_size=5))):
            (outcome,) = await deliver(hop)
            assert outcome.result is Result.FAILED
            assert outcome.reply.startswith("552 5.3.4")
            await hop.close()
        assert not any(command.startswith("MAIL") for command in peer.commands)


# Failover


async def test_next_host_takes_over_from_a_dead_one_which_is_then_avoided():
    async with Peer() as gone:
        dead_port = gone.port
    async with Peer() as alive:
        hop = hop_to(dead_port, alive.port, limits=limits(messages_per_connection=1))
        for _ in range(3):
            (outcome,) = await deliver(hop)
            assert outcome.result is Result.DELIVERED
            assert outcome.remote.endswith(f":{alive.port}")
        await hop.close()


@pytest.mark.parametrize("key", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."])
async def test_temporary_refusal_by_one_host_goes_to_the_next_in_the_same_attempt(key):
    async with Peer(answers={key: b"450 4.3.2 not now\r\n"}) as first, Peer() as second:
        hop = hop_to(first.port, second.port)
        assert results(await deliver(hop, "a@d.example", "b@d.example")) == [Result.DELIVERED] * 2
        assert len(second.taken) == 1
        await hop.close()


async def test_only_the_deferred_recipients_go_to_the_next_host():
    replies = [b"250 ok\r\n", b"450 4.2.0 busy\r\n", b"550 5.1.1 no\r\n"]
    async with Peer(answers={"RCPT": replies}) as first, Peer() as second:
        hop = hop_to(first.port, second.port)
        outcomes = await deliver(hop, "a@d.example", "b@d.example", "c@d.example")
        assert results(outcomes) == [Result.DELIVERED, Result.DELIVERED, Result.FAILED]
        assert second.taken[0].recipients == ["RCPT TO:<b@d.example>"]
        await hop.close()


async def test_lost_final_reply_is_not_followed_by_a_second_copy_to_another_host():
    async with Peer(answers={".": CLOSE}) as first, Peer() as second:
        hop = hop_to(first.port, second.port)
        (outcome,) = await deliver(hop)
        assert outcome.result is Result.DEFERRED
        assert "after the end of the message" in outcome.reply
        assert second.connections == 0
        await hop.close()


async def test_all_hosts_down_defers_with_the_reason():
    async with Peer() as one, Peer() as two:
        ports = one.port, two.port
    hop = hop_to(*ports)
    (outcome,) = await deliver(hop)
    assert outcome.result is Result.DEFERRED
    assert outcome.reply.startswith("451 4.4.1 connect to 127.0.0.1[127.0.0.1]:")
    assert "refused" in outcome.reply
    await hop.close()


# Routing by DNS


class Zone:
    def __init__(self, mx, addresses):
        self.records, self.hosts = mx, addresses

    async def mx(self, domain):
        if isinstance(self.records, Exception):
            raise self.records
        return self.records

    async def addresses(self, host):
        return self.hosts[host]


async def test_mail_goes_to_the_best_exchanger_that_answers():
    async with Peer() as peer:
        zone = Zone(
            (MailExchanger(20, "good"), MailExchanger(10, "bad")), {"good": ("127.0.0.1",), "bad": ("127.9.9.9",)}
        )
        hop = dns_hop("d.example", peer.port, settings(resolver=lambda servers: zone))
        (outcome,) = await deliver(hop)
        assert (outcome.result, outcome.remote) == (Result.DELIVERED, f"good[127.0.0.1]:{peer.port}")
        await hop.close()


@pytest.mark.parametrize(
    ("mx", "result", "reply"),
    [
        ((MailExchanger(0, ""),), Result.FAILED, "556 5.1.10"),
        (LookupFailedError("timeout"), Result.DEFERRED, "451 4.4.3"),
        ((MailExchanger(10, "tier.example"),), Result.FAILED, "554 5.4.6"),
        ((MailExchanger(10, "here"),), Result.FAILED, "554 5.4.6"),
    ],
)
async def test_domain_without_usable_exchanger_gets_its_reply(mx, result, reply):
    zone = Zone(mx, {"tier.example": ("192.0.2.1",), "here": ("127.0.0.1",)})
    given_settings = settings(resolver=lambda servers: zone, local_endpoints=frozenset({("127.0.0.1", 2500)}))
    (outcome,) = await deliver(dns_hop("d.example", 2500, given_settings))
    assert outcome.result is result
    assert outcome.reply.startswith(reply)


async def test_resolver_that_is_no_address_defers():
    hop = dns_hop("d.example", 2500, settings(resolver=DnsResolver), resolvers=("dns.example",))
    (outcome,) = await deliver(hop)
    assert (outcome.result, outcome.reply[:9]) == (Result.DEFERRED, "451 4.3.5")


async def test_host_that_was_down_gets_its_turn_when_the_kept_connection_is_old(monkeypatch):
    async with Peer(answers={"CONNECT": [b"421 4.3.2 starting\r\n", b"220 up\r\n"]}) as first, Peer() as second:
        hop = hop_to(first.port, second.port, given=settings(dead_seconds=0))
        await deliver(hop)
        await deliver(hop)
        assert (len(first.taken), len(second.taken)) == (0, 2)
        monkeypatch.setattr(smtp_hop, "SESSION_SECONDS", -1)
        await deliver(hop)
        await deliver(hop)
        assert (len(first.taken), len(second.taken)) == (1, 3)
        await hop.close()


def test_target_that_is_not_smtp_makes_no_hop():
    with pytest.raises(TypeError):
        make_hop(Route("out", "drop:out", Drop(), None, RetryPolicy()), settings())


# Peers that do not behave

FAULTS = {
    "closes": CLOSE,
    "hangs": HANG,
    "421": b"421 4.3.2 going down\r\n",
    "garbage": b"\x00\xff\x16\x03 what?\r\n",
    "half a reply": b"250-first\r\n",
    "no line end": b"250 ok",
    "endless line": b"250 " + b"x" * 100_000,
    "endless reply": b"250-x\r\n" * 10_000,
    "code changes": b"250-a\r\n550 b\r\n",
    "code 1xx": b"100 hm\r\n",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("key", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."])
async def test_misbehaving_peer_defers_every_recipient_and_the_next_attempt_delivers(peer, key, fault):
    peer.answers[key] = FAULTS[fault]
    hop = hop_to(peer.port, limits=limits(command_timeout=0.05, data_timeout=0.05))
    outcomes = await asyncio.wait_for(deliver(hop, "a@d.example", "b@d.example"), 5)
    assert results(outcomes) == [Result.DEFERRED] * 2
    assert all(outcome.reply[0] == "4" and outcome.reply.isprintable() for outcome in outcomes)
    peer.answers.clear()
    peer.taken.clear()
    assert results(await deliver(hop)) == [Result.DELIVERED]
    await hop.close()


@pytest.mark.parametrize("key", ["MAIL", "RCPT", "DATA"])
async def test_extra_replies_are_never_taken_for_the_final_one(key):
    extra = {"MAIL": b"250 a\r\n250 b\r\n", "RCPT": b"250 a\r\n250 b\r\n", "DATA": b"354 go\r\n250 taken\r\n"}
    async with Peer(answers={key: extra[key], ".": HANG}) as peer:
        hop = hop_to(peer.port, limits=limits(data_timeout=0.05, command_timeout=0.05))
        assert results(await deliver(hop)) == [Result.DEFERRED]
        await hop.close()


async def test_replies_sent_while_idle_spoil_the_connection():
    async with Peer(answers={".": [b"250 taken\r\n250 taken\r\n250 taken\r\n", b"250 taken\r\n"]}) as peer:
        hop = hop_to(peer.port)
        assert results(await deliver(hop)) == [Result.DELIVERED]
        assert results(await deliver(hop)) == [Result.DELIVERED]
        assert (peer.connections, len(peer.taken)) == (2, 2)
        await hop.close()


async def test_354_without_any_recipient_gets_a_lone_dot_and_no_message():
    async with Peer(answers={"RCPT": b"550 5.1.1 no\r\n", "DATA": b"354 go on\r\n"}) as peer:
        hop = hop_to(peer.port)
        (outcome,) = await deliver(hop)
        assert (outcome.result, outcome.reply) == (Result.FAILED, "550 5.1.1 no")
        while peer.open:
            await asyncio.sleep(0.001)
        assert [transaction.data for transaction in peer.taken] == [b""]
        await hop.close()


async def test_refusal_in_the_middle_of_a_large_message_counts_and_nothing_hangs():
    async def refuse_early(reader, writer):
        writer.write(b"220 hi\r\n")
        await reader.readline()
        writer.write(b"250-hi\r\n250 PIPELINING\r\n")
        for _ in range(3):
            await reader.readline()
        writer.write(b"250 ok\r\n250 ok\r\n354 go\r\n")
        await reader.readexactly(1000)
        writer.write(b"552 5.3.4 too much\r\n")
        await closed.wait()
        writer.transport.abort()

    closed = asyncio.Event()
    server = await asyncio.start_server(refuse_early, "127.0.0.1", 0)
    hop = hop_to(server.sockets[0].getsockname()[1], limits=limits(data_timeout=5))
    (outcome,) = await deliver(hop, content=[b"x" * 998 + b"\r\n"] * 30_000)
    assert (outcome.result, outcome.reply) == (Result.FAILED, "552 5.3.4 too much")
    closed.set()
    await hop.close()
    server.close()
    await server.wait_closed()


async def test_peer_that_stops_reading_runs_into_the_data_timeout():
    async def stuck(reader, writer):
        writer.transport.get_extra_info("socket").setsockopt(1, 8, 4096)
        writer.write(b"220 hi\r\n")
        await reader.readline()
        writer.write(b"250-hi\r\n250 PIPELINING\r\n")
        for _ in range(3):
            await reader.readline()
        writer.transport.pause_reading()
        writer.write(b"250 ok\r\n250 ok\r\n354 go\r\n")
        await closed.wait()
        writer.transport.abort()

    closed = asyncio.Event()
    server = await asyncio.start_server(stuck, "127.0.0.1", 0)
    hop = hop_to(server.sockets[0].getsockname()[1], limits=limits(data_timeout=0.2))
    (outcome,) = await deliver(hop, content=[b"x" * 998 + b"\r\n"] * 30_000)
    assert outcome.result is Result.DEFERRED
    closed.set()
    await hop.close()
    server.close()
    await server.wait_closed()


async def test_cancelled_delivery_gives_its_connection_and_turn_back():
    given_settings = settings()
    async with Peer(answers={".": [HANG, b"250 ok\r\n"]}) as peer:
        hop = hop_to(peer.port, given=given_settings, limits=limits(connections=1, data_timeout=60))
        running = asyncio.create_task(deliver(hop))
        while len(peer.answers["."]) == 2:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert given_settings.metrics.outbound_connections.labels("out")._value.get() == 0
        assert results(await deliver(hop)) == [Result.DELIVERED]
        await hop.close()


codes = st.sampled_from([200, 250, 251, 354, 334, 421, 450, 452, 550, 552, 554])


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(codes, st.lists(codes, min_size=1, max_size=3), codes, codes, st.booleans(), st.booleans())
def test_delivered_means_that_every_step_said_yes_and_failed_that_one_said_5xx(
    mail, rcpts, data, final, pipelining, lmtp
):
    def say(code):
        return b"%d text\r\n" % code

    async def run():
        answers = {"MAIL": say(mail), "RCPT": [say(code) for code in rcpts], "DATA": say(data), ".": say(final)}
        async with Peer(extensions=("PIPELINING",) if pipelining else BARE, answers=answers, lmtp=lmtp) as peer:
            hop = hop_to(peer.port, lmtp=lmtp, limits=limits(command_timeout=0.1, data_timeout=0.1))
            outcomes = await deliver(hop, *(f"r{index}@d.example" for index in range(len(rcpts))))
            await hop.close()
            return outcomes, peer.taken

    outcomes, taken = uvloop.run(run())
    assert len(outcomes) == len(rcpts)
    for rcpt, outcome in zip(rcpts, outcomes, strict=True):
        steps = (mail, rcpt, data, final)
        if outcome.result is Result.DELIVERED:
            assert mail < 300
            assert rcpt < 300
            assert data == 354
            assert final < 300
            assert any(transaction.data for transaction in taken)
        elif outcome.result is Result.FAILED:
            assert any(code >= 500 for code in steps)
        elif (mail, rcpt, data, final) == (250, 250, 354, 250):
            # Only another recipient's nonsense may hold back one that every step accepted.
            assert set(rcpts) & {354, 334, 421}
