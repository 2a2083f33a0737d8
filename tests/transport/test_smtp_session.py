"""A session over a real socket, command by command."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import struct
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import connector, tier_config

from postroad_transport.auth.sources import Sources
from postroad_transport.config import AcceptedDomain, Binding, Grant, Permission, Principal, ReceiveLimits
from postroad_transport.policy.tier import TierPolicy
from postroad_transport.smtp.serving import prepare
from postroad_transport.spool.store import SpoolError, SpoolFullError


async def test_message_is_committed_before_its_250_and_then_delivered(tier):
    line = await tier.connect()
    assert await line.reply() == "220 mail.example.com ESMTP Postroad"
    ehlo = (await line.ask("EHLO client.example")).split("\n")
    assert ehlo == [
        "250-mail.example.com",
        "250-8BITMIME",
        "250-BINARYMIME",
        "250-CHUNKING",
        "250-DSN",
        "250-ENHANCEDSTATUSCODES",
        "250-PIPELINING",
        "250-SIZE 37748736",
        "250 SMTPUTF8",
    ]
    assert await line.ask("MAIL FROM:<a@client.example> SIZE=100") == "250 2.1.0 Sender OK"
    assert await line.ask("RCPT TO:<b@example.com>") == "250 2.1.5 Recipient OK"
    assert await line.ask("DATA") == "354 End data with <CR><LF>.<CR><LF>"
    await line.send(b"From: a@client.example\r\nMessage-ID: <m1@client>\r\n\r\n..dot\r\n.\r\n")
    reply = await line.reply()
    ((envelope, content),) = tier.store.messages
    assert reply == f"250 2.0.0 Ok: queued as {envelope.id}"
    assert tier.committed == [envelope.id]
    assert envelope.sender == "a@client.example"
    assert [r.address for r in envelope.recipients] == ["b@example.com"]
    assert content.startswith(b"Received: from client.example ([127.0.0.1])\r\n\tby mail.example.com with ESMTP id ")
    assert b"for <b@example.com>;" in content
    assert content.endswith(b"Message-ID: <m1@client>\r\n\r\n.dot\r\n")
    assert envelope.size == len(content)
    assert '"event":"RECEIVE"' in tier.events()
    assert '"message_id":"<m1@client>"' in tier.events()
    assert await line.ask("QUIT") == "221 2.0.0 Bye"
    assert await line.at_end()
    assert tier.count("postroad_messages_received_total", connector="internet") == 1


@pytest.mark.parametrize(
    ("commands", "reply"),
    [
        (["MAIL FROM:<a@b.example>"], "503 5.5.1 Send EHLO or HELO first"),
        (["HELO c.example"], "250 mail.example.com"),
        (["EHLO"], "501 5.5.4 A domain name or an address literal is needed"),
        (["EHLO two words"], "501 5.5.4 A domain name or an address literal is needed"),
        (["EHLO c", "RCPT TO:<b@example.com>"], "503 5.5.1 Send MAIL first"),
        (["EHLO c", "DATA"], "503 5.5.1 Send MAIL first"),
        (["EHLO c", "MAIL FROM:<>", "DATA"], "503 5.5.1 Send RCPT first"),
        (["EHLO c", "MAIL FROM:<>", "RCPT TO:<b@else.example>"], "550 5.7.1 Unable to relay"),
        (["EHLO c", "MAIL FROM:<>", "RCPT TO:<b@else.example>", "DATA"], "554 5.5.1 No valid recipients"),
        (["EHLO c", "MAIL FROM:<>", "MAIL FROM:<>"], "503 5.5.1 A transaction is under way; send RSET first"),
        (["EHLO c", "MAIL FROM:<>", "RSET", "MAIL FROM:<>"], "250 2.1.0 Sender OK"),
        (["EHLO c", "mail from:<>"], "250 2.1.0 Sender OK"),
        (["EHLO c", "MAIL <a@b.example>"], "501 5.5.4 Syntax: MAIL FROM:<address> [parameters]"),
        (["EHLO c", "MAIL FROM:<a b@c.example>"], "501 5.1.7 Address is malformed or too long"),
        (["EHLO c", "MAIL FROM:<a@b.example> FOO=1"], "555 5.5.4 FOO parameter not recognized or not implemented"),
        (["EHLO c", "MAIL FROM:<a@b.example> SIZE=x"], "501 5.5.4 Bad value of the SIZE parameter"),
        (["EHLO c", "MAIL FROM:<> SIZE=99999999"], "552 5.3.4 Message size exceeds fixed maximum message size"),
        (["EHLO c", "MAIL FROM:<b@example.com>"], "550 5.7.1 Client does not have permission to send as this sender"),
        (["HELO c", "MAIL FROM:<> SIZE=1"], "555 5.5.4 SIZE parameter not recognized or not implemented"),
        (["EHLO c", "MAIL FROM:<>", "RCPT <b@example.com>"], "501 5.5.4 Syntax: RCPT TO:<address> [parameters]"),
        (["EHLO c", "MAIL FROM:<>", "RCPT TO:<b>"], "501 5.1.3 Recipient address needs a domain"),
        (
            ["EHLO c", "MAIL FROM:<>", "RCPT TO:<b@example.com> X=1"],
            "555 5.5.4 X parameter not recognized or not implemented",
        ),
        (
            ["EHLO c", "MAIL FROM:<> BODY=BINARYMIME", "RCPT TO:<b@example.com>", "DATA"],
            "503 5.5.1 BODY=BINARYMIME needs BDAT",
        ),
        (["EHLO c", "MAIL FROM:<bö@c.example>"], "553 5.6.7 A non-ASCII address needs SMTPUTF8"),
        (["EHLO c", "MAIL FROM:<>", "RCPT TO:<bö@example.com>"], "553 5.6.7 A non-ASCII address needs SMTPUTF8"),
        (["EHLO c", "MAIL FROM:<> SMTPUTF8", "RCPT TO:<bö@example.com>"], "250 2.1.5 Recipient OK"),
        (["EHLO c", "MAIL FROM:<>", "RCPT TO:<Postmaster>"], "250 2.1.5 Recipient OK"),
        (["NOOP"], "250 2.0.0 OK"),
        (["NOOP whatever"], "250 2.0.0 OK"),
        (["RSET"], "250 2.0.0 OK"),
        (["RSET x"], "501 5.5.4 This command takes no argument"),
        (["QUIT x"], "501 5.5.4 This command takes no argument"),
        (["VRFY b"], "252 2.5.2 Cannot VRFY user, but will accept message and attempt delivery"),
        (["VRFY"], "501 5.5.4 Syntax: VRFY address"),
        (["EXPN list"], "502 5.5.1 EXPN not implemented"),
        (["HELP"], "214 2.0.0 Commands: HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP STARTTLS AUTH QUIT"),
        (["STARTTLS"], "502 5.5.1 STARTTLS is not offered"),
        (["EHLO c", "AUTH PLAIN"], "502 5.5.1 Command not implemented"),
        (["FOO"], "500 5.5.1 Command not recognized"),
        ([""], "500 5.5.1 Command not recognized"),
        (["\x01\x02\xff\xfe"], "500 5.5.1 Command not recognized"),
        (["NOOP " + "x" * 13000], "500 5.5.2 Line too long"),
        (["BDAT x"], "501 5.5.4 Syntax: BDAT octets [LAST]"),
    ],
    ids=lambda value: value[-1][:60] if isinstance(value, list) else "",
)
async def test_reply(tier, commands, reply):
    line = await tier.connect()
    await line.reply()
    assert (await line.script(*commands))[-1] == reply


async def test_pipelined_group_is_answered_in_one_write(tier):
    line = await tier.connect()
    await line.start()
    writes = []
    (session,) = tier.listeners.sessions._open
    transport = session._writer.transport
    session._writer.transport = SimpleNamespace(
        write=lambda data: (writes.append(data), transport.write(data)), is_closing=transport.is_closing
    )
    await line.send(b"MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<x@else.example>\r\nDATA\r\n")
    assert [(await line.reply())[:3] for _ in range(4)] == ["250", "250", "550", "354"]
    assert len(writes) == 1


async def test_body_pipelined_behind_a_refused_data_is_not_taken_for_a_message(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(errors=5)))
    line = await tier.connect()
    await line.start()
    await line.send(
        b"MAIL FROM:<>\r\nRCPT TO:<x@else.example>\r\nDATA\r\nSubject: a\r\n\r\nMAIL FROM:<>\r\nbody\r\n.\r\n"
    )
    replies = [(await line.reply())[:9] for _ in range(7)]
    assert replies == ["250 2.1.0", "550 5.7.1", "554 5.5.1", "500 5.5.1", "500 5.5.1", "503 5.5.1", "421 4.7.0"]
    assert await line.at_end()
    assert tier.store.messages == []


@pytest.mark.parametrize(
    "fake_end",
    [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\n.\r", b"\r\r\n.\r\n"],
    ids=repr,
)
async def test_smuggled_message_is_refused_as_a_whole(tier, fake_end):
    line = await tier.connect()
    await line.begin()
    await line.send(
        b"Subject: outer\r\n\r\nouter" + fake_end + b"MAIL FROM:<admin@example.com>\r\nRCPT TO:<b@example.com>\r\n"
        b"DATA\r\nSubject: smuggled\r\n\r\n.\r\n"
    )
    assert await line.reply() == "554 5.6.0 Bare <CR> or <LF> in message; lines end with <CR><LF>"
    assert await line.reply() == "421 4.7.0 Closing the connection, for the end of the message is in doubt"
    assert await line.at_end()
    assert tier.store.messages == []
    assert tier.count("postroad_refusals_total", rule="bare_line_end") == 1


@pytest.mark.parametrize("body", ["", " BODY=BINARYMIME"])
@pytest.mark.parametrize("end", [b"\r", b"\n"], ids=repr)
async def test_no_header_is_brought_past_the_firewall_behind_a_bare_line_end_by_bdat(tier, body, end):
    line = await tier.connect()
    await line.start()
    content = b"Subject: x" + end + b"X-MS-Exchange-Organization-AuthAs: Internal\r\n\r\nhello\r\n"
    for _ in range(2):
        await line.script("MAIL FROM:<a@client.example>" + body, "RCPT TO:<b@example.com>")
        await line.send(b"BDAT 11\r\n" + content[:11] + b"BDAT %d LAST\r\n" % (len(content) - 11) + content[11:])
        assert await line.reply() == "250 2.0.0 11 octets received"
        assert await line.reply() == "554 5.6.0 Bare <CR> or <LF> in message; lines end with <CR><LF>"
    assert tier.store.messages == []


@pytest.mark.parametrize(("body", "code"), [("", "554"), (" BODY=8BITMIME", "554"), (" BODY=BINARYMIME", "250")])
async def test_bare_line_ends_in_a_body_are_for_binary_messages_only(tier, body, code):
    line = await tier.connect()
    await line.start()
    content = b"Subject: x\r\n\r\n\n.\n\r.\r"
    await line.script("MAIL FROM:<a@client.example>" + body, "RCPT TO:<b@example.com>")
    await line.send(b"BDAT %d LAST\r\n" % len(content) + content)
    assert (await line.reply())[:3] == code


async def test_bare_lf_in_commands_is_refused_and_counted(tier):
    line = await tier.connect()
    await line.reply()
    await line.send(b"EHLO c.example\n")
    assert await line.reply() == "500 5.5.2 Bare <CR> or <LF> in a command; lines end with <CR><LF>"
    await line.send(b"\r\nNOOP\rRSET\r\n")
    assert await line.reply() == "500 5.5.2 Bare <CR> or <LF> in a command; lines end with <CR><LF>"
    assert tier.count("postroad_refusals_total", verb="line", rule="bare_line_end") == 2


async def test_half_closed_client_gets_its_commit_and_its_250(tier):
    tier.store.gate = asyncio.Event()
    line = await tier.connect()
    await line.begin()
    await line.send(b"Subject: a\r\n\r\n.\r\n")
    line.writer.write_eof()
    await asyncio.wait_for(tier.store.entered.wait(), 5)
    tier.store.gate.set()
    assert (await line.reply()).startswith("250 2.0.0 Ok: queued as ")
    assert await line.at_end()
    assert len(tier.store.messages) == 1


def reset(line) -> None:
    """Go away without a goodbye: RST, not FIN."""
    sock = line.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.writer.transport.abort()


async def test_message_of_a_client_that_went_away_is_committed_and_delivered(tier):
    tier.store.gate = asyncio.Event()
    line = await tier.connect()
    await line.begin()
    await line.send(b"Subject: a\r\n\r\n.\r\n")
    await asyncio.wait_for(tier.store.entered.wait(), 5)
    reset(line)
    while len(tier.listeners.sessions):
        await asyncio.sleep(0.001)
    tier.store.gate.set()
    await asyncio.wait_for(tier.store.arrived.wait(), 5)
    await asyncio.sleep(0)
    assert tier.committed == [tier.store.messages[0][0].id]


async def test_client_gone_in_the_middle_of_data_leaves_nothing(tier):
    line = await tier.connect()
    await line.begin()
    await line.send(b"Subject: a\r\n\r\nhalf a message")
    line.writer.transport.abort()
    while len(tier.listeners.sessions):
        await asyncio.sleep(0.001)
    assert tier.store.messages == []
    assert tier.count("postroad_sessions_open") == 0


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (SpoolFullError("full"), "452 4.3.1 Insufficient system storage"),
        (SpoolError("broken"), "451 4.3.0 Local problem, try again later"),
        (ValueError("secret detail"), "451 4.3.0 Local problem, try again later"),
    ],
)
async def test_spool_failure_is_transient_and_tells_nothing(tier, error, reply):
    tier.store.error = error
    line = await tier.connect()
    await line.begin()
    await line.send(b"Subject: a\r\n\r\n.\r\n")
    assert await line.reply() == reply
    tier.store.error = None
    assert [r[:3] for r in await line.script("MAIL FROM:<>", "RCPT TO:<b@example.com>", "DATA")] == [
        "250",
        "250",
        "354",
    ]
    await line.send(b".\r\n")
    assert (await line.reply())[:3] == "250"
    assert "secret" not in tier.events()


async def test_oversize_message_is_read_to_its_end_refused_and_not_kept(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(message_size=10_000)))
    line = await tier.connect()
    await line.begin()
    for _ in range(50):
        await line.send(b"x" * 998 + b"\r\n")
    (_session,) = tier.listeners.sessions._open
    await line.send(b".\r\n")
    assert await line.reply() == "552 5.3.4 Message size exceeds fixed maximum message size"
    assert await line.ask("MAIL FROM:<>") == "250 2.1.0 Sender OK"


async def test_endless_line_in_a_message_is_refused(make_tier):
    tier = await make_tier(line_length_limit=1000)
    line = await tier.connect()
    await line.begin()
    await line.send(b"x" * 5000 + b"\r\n.\r\n")
    assert await line.reply() == "500 5.6.0 Line too long in message"


async def test_too_many_errors_end_the_session_and_a_message_resets_the_count(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(errors=3)))
    line = await tier.connect()
    await line.start()
    assert [r[:3] for r in await line.script("FOO", "FOO")] == ["500", "500"]
    await line.script("MAIL FROM:<>", "RCPT TO:<b@example.com>", "DATA")
    await line.send(b".\r\n")
    assert (await line.reply())[:3] == "250"
    assert [r[:3] for r in await line.script("FOO", "FOO", "FOO")] == ["500"] * 3
    assert await line.reply() == "421 4.7.0 Too many errors"
    assert await line.at_end()


async def test_messages_on_one_connection_are_limited(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(messages_per_connection=1)))
    line = await tier.connect()
    await line.begin()
    await line.send(b".\r\n")
    await line.reply()
    assert await line.ask("MAIL FROM:<>") == "421 4.7.0 Too many messages on this connection"
    assert await line.at_end()


async def test_recipients_are_limited(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(recipients=2)))
    line = await tier.connect()
    await line.start()
    commands = ["MAIL FROM:<>", *(f"RCPT TO:<b{n}@example.com>" for n in range(3))]
    assert (await line.script(*commands))[-1] == "452 4.5.3 Too many recipients"


async def test_recipient_named_twice_gets_one_copy(tier):
    line = await tier.connect()
    await line.start()
    await line.script("MAIL FROM:<>", "RCPT TO:<b@example.com>", "RCPT TO:<b@EXAMPLE.com>", "DATA")
    await line.send(b".\r\n")
    await line.reply()
    assert [r.address for r in tier.store.messages[0][0].recipients] == ["b@example.com"]


async def test_domain_alias_is_applied_and_the_original_kept(make_tier):
    domains = (
        AcceptedDomain(domain="example.com", source="a"),
        AcceptedDomain(domain="example.net", source="b", alias_of="example.com"),
    )
    tier = await make_tier(config=tier_config(accepted_domains=domains))
    line = await tier.connect()
    await line.start()
    await line.script("MAIL FROM:<>", "RCPT TO:<b@example.net> NOTIFY=NEVER ORCPT=rfc822;B@x", "DATA")
    await line.send(b".\r\n")
    await line.reply()
    (recipient,) = tier.store.messages[0][0].recipients
    assert (recipient.address, recipient.original) == ("b@example.com", "b@example.net")
    assert (recipient.notify, recipient.orcpt) == (("NEVER",), "rfc822;B@x")


async def test_envelope_keeps_dsn_parameters_as_sent(tier):
    line = await tier.connect()
    await line.start()
    await line.script("MAIL FROM:<a@c.example> RET=HDRS ENVID=MixedCase+2B1", "RCPT TO:<b@example.com>", "DATA")
    await line.send(b".\r\n")
    await line.reply()
    envelope = tier.store.messages[0][0]
    assert (envelope.ret, envelope.envid) == ("HDRS", "MixedCase+2B1")


async def test_recipient_is_not_named_in_received_when_there_are_several(tier):
    line = await tier.connect()
    await line.start()
    await line.script("MAIL FROM:<>", "RCPT TO:<b@example.com>", "RCPT TO:<secret@example.com>", "DATA")
    await line.send(b".\r\n")
    await line.reply()
    assert b"secret@" not in tier.store.messages[0][1]


# Connections.


async def test_unknown_source_is_refused_before_a_greeting(make_tier):
    tier = await make_tier(connector(remote_ip_ranges=("192.0.2.0/24",)))
    line = await tier.connect()
    assert await line.reply() == "554 5.7.1 No mail is taken from your address here"
    assert await line.at_end()
    assert tier.count("postroad_sessions_refused_total", reason="no_connector") == 1


@pytest.mark.parametrize(
    ("limits", "reply", "reason"),
    [
        (ReceiveLimits(connections=2), "421 4.3.2 Too many connections, try again later", "connections"),
        (
            ReceiveLimits(connections_per_source=2),
            "421 4.7.0 Too many connections from your address",
            "connections_per_source",
        ),
    ],
)
async def test_connections_are_limited_and_a_closed_one_makes_room(make_tier, limits, reply, reason):
    tier = await make_tier(connector(limits=limits))
    first, second = await tier.connect(), await tier.connect()
    await first.reply()
    await second.reply()
    third = await tier.connect()
    assert await third.reply() == reply
    assert await third.at_end()
    assert tier.count("postroad_sessions_refused_total", reason=reason) == 1
    await first.ask("QUIT")
    assert await first.at_end()
    while len(tier.listeners.sessions) > 1:
        await asyncio.sleep(0.001)
    assert (await (await tier.connect()).reply())[:3] == "220"


async def test_idle_connections_cost_little_and_go_in_time(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(idle_timeout=2.0)))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        sockets = [socket.create_connection(("127.0.0.1", tier.ports[0])) for _ in range(1)]
        for _ in range(9):
            sockets += [socket.create_connection(("127.0.0.1", tier.ports[0])) for _ in range(40)]
            await asyncio.sleep(0)
        while len(tier.listeners.sessions) < len(sockets):
            await asyncio.sleep(0.005)
        assert (tracemalloc.get_traced_memory()[0] - before) / len(sockets) < 20_000
    finally:
        tracemalloc.stop()
    while len(tier.listeners.sessions):
        await asyncio.sleep(0.02)
    for sock in sockets:
        assert sock.recv(200).endswith(b"421 4.4.2 Timed out waiting for the client\r\n")
        sock.close()


async def test_idle_client_is_told_421(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(idle_timeout=0.05)))
    line = await tier.connect()
    await line.reply()
    assert await line.reply() == "421 4.4.2 Timed out waiting for the client"
    assert await line.at_end()


async def drip(line, byte: bytes) -> str:
    """Send a byte now and then, until there is a reply."""
    reply = asyncio.ensure_future(line.reply())
    while not reply.done():
        line.writer.write(byte)
        await asyncio.wait((reply,), timeout=0.02)
    return reply.result()


async def test_command_that_drips_in_does_not_hold_the_connection(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(idle_timeout=0.15)))
    line = await tier.connect()
    await line.reply()
    assert (await drip(line, b"N"))[:9] == "421 4.4.2"


async def test_progressing_data_outlives_idle_and_total_time_and_is_then_told_421(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(idle_timeout=0.2, total_timeout=0.3)))
    line = await tier.connect()
    await line.begin()
    for _ in range(20):
        await line.send(b"x" * 100 + b"\r\n")
        await asyncio.sleep(0.03)
    await line.send(b".\r\n")
    assert (await line.reply())[:3] == "250"
    assert await line.reply() == "421 4.4.2 Timed out waiting for the client"


async def test_dripping_data_is_cut(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(idle_timeout=0.2)), minimum_rate=1000.0)
    line = await tier.connect()
    await line.begin()
    assert (await drip(line, b"x"))[:9] == "421 4.4.2"
    assert tier.store.messages == []


async def test_slow_commit_is_not_cut_by_the_idle_timer(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(idle_timeout=0.05)))
    tier.store.gate = asyncio.Event()
    line = await tier.connect()
    await line.begin()
    await line.send(b".\r\n")
    await asyncio.sleep(0.15)
    tier.store.gate.set()
    assert (await line.reply())[:3] == "250"


async def test_drain_tells_421_to_the_idle_and_lets_a_transaction_finish(tier):
    idle, busy = await tier.connect(), await tier.connect()
    await idle.start()
    await busy.begin()
    draining = asyncio.ensure_future(tier.listeners.drain(5))
    assert await idle.reply() == "421 4.3.2 Service shutting down"
    assert await idle.at_end()
    await busy.send(b"Subject: a\r\n\r\n.\r\nMAIL FROM:<>\r\n")
    assert (await busy.reply())[:3] == "250"
    assert await busy.reply() == "421 4.3.2 Service shutting down"
    assert await draining == 0
    assert len(tier.store.messages) == 1


async def test_drain_aborts_what_does_not_finish_in_time(tier):
    line = await tier.connect()
    await line.begin()
    assert await tier.listeners.drain(0.02) == 1


# What is passed on.


@pytest.mark.parametrize(
    ("permissions", "kept"),
    [
        ((Permission.SUBMIT,), ("", 0)),
        ((Permission.SUBMIT, Permission.ACCEPT_AUTHENTICATION_FLAG), ("e+3Dmc2@c.example", -4)),
    ],
)
async def test_submitter_and_priority_are_kept_where_the_client_is_trusted_to_say_them(make_tier, permissions, kept):
    grants = tuple(Grant(principal=Principal.ANONYMOUS, permission=permission) for permission in permissions)
    tier = await make_tier(connector(grants=grants))
    line = await tier.connect()
    await line.start()
    mail = "MAIL FROM:<a@c.example> AUTH=e+3Dmc2@c.example MT-PRIORITY=-4"
    await line.script(mail, "RCPT TO:<b@example.com>", "DATA")
    assert (await line.ask(b"Subject: a\r\n\r\n.")).startswith("250 2.0.0")
    envelope, _ = tier.store.messages[0]
    assert (envelope.submitter, envelope.priority) == kept


# CHUNKING and BINARYMIME.


async def test_binary_message_in_chunks_arrives_octet_for_octet(tier):
    line = await tier.connect()
    await line.start()
    body = b"Subject: a\r\n\r\n.\r\n\x00\r\n.\n\r" + bytes(range(256))
    await line.script("MAIL FROM:<a@c.example> BODY=BINARYMIME", "RCPT TO:<b@example.com>")
    await line.send(b"BDAT 20\r\n" + body[:20] + f"BDAT {len(body) - 20} LAST\r\n".encode() + body[20:] + b"NOOP\r\n")
    assert await line.reply() == "250 2.0.0 20 octets received"
    assert (await line.reply()).startswith("250 2.0.0 Ok: queued as ")
    assert await line.reply() == "250 2.0.0 OK"
    envelope, content = tier.store.messages[0]
    assert content.endswith(body)
    assert envelope.body == "BINARYMIME"


async def test_chunks_of_a_refused_transaction_are_drained(tier):
    line = await tier.connect()
    await line.start()
    await line.send(b"MAIL FROM:<>\r\nRCPT TO:<x@else.example>\r\nBDAT 14 LAST\r\nMAIL FROM:<>\r\nNOOP\r\n")
    assert [(await line.reply())[:9] for _ in range(4)] == ["250 2.1.0", "550 5.7.1", "554 5.5.1", "250 2.0.0"]


async def test_chunks_over_the_size_limit_are_drained_and_refused_until_the_transaction_ends(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(message_size=1000)))
    line = await tier.connect()
    await line.start()
    await line.script("MAIL FROM:<>", "RCPT TO:<b@example.com>")
    await line.send(b"BDAT 900\r\n" + bytes(900) + b"BDAT 200\r\n" + bytes(200) + b"BDAT 1 LAST\r\nx")
    replies = [await line.reply() for _ in range(3)]
    assert (
        replies
        == ["250 2.0.0 900 octets received"] + ["552 5.3.4 Message size exceeds fixed maximum message size"] * 2
    )
    assert await line.ask("MAIL FROM:<>") == "250 2.1.0 Sender OK"


async def test_data_and_recipients_are_refused_between_chunks_and_rset_forgets_them(tier):
    line = await tier.connect()
    await line.start()
    await line.script("MAIL FROM:<>", "RCPT TO:<b@example.com>")
    await line.send(b"BDAT 3\r\nabc")
    await line.reply()
    refused = "503 5.5.1 A message sent with BDAT is under way"
    assert await line.script("DATA", "RCPT TO:<c@example.com>", "RSET") == [refused, refused, "250 2.0.0 OK"]
    assert await line.ask("BDAT 0 LAST") == "503 5.5.1 Send MAIL first"


async def test_extensions_can_be_turned_off(make_tier):
    tier = await make_tier(connector(extensions=("PIPELINING",)))
    line = await tier.connect()
    await line.reply()
    assert await line.ask("EHLO c") == "250-mail.example.com\n250 PIPELINING"
    replies = await line.script("MAIL FROM:<> SIZE=3", "MAIL FROM:<>", "RCPT TO:<b@example.com> NOTIFY=NEVER")
    assert [reply[:9] for reply in replies] == ["555 5.5.4", "250 2.1.0", "555 5.5.4"]
    assert await line.ask("BDAT 0 LAST") == "502 5.5.1 BDAT is not offered"


async def test_smtplib_sends_a_large_message(tier):
    body = b"Subject: large\r\n\r\n" + (b"." + b"x" * 70 + b"\r\n") * 50_000

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", tier.ports[0], timeout=20) as client:
            client.sendmail("a@c.example", ["b@example.com"], body)

    await asyncio.to_thread(send)
    assert tier.store.messages[0][1].endswith(body)


async def test_client_that_does_not_read_its_replies_is_not_read_either(tier):
    _reader, writer = await asyncio.open_connection("127.0.0.1", tier.ports[0], limit=1)
    sent = 0
    try:
        # Far more than all socket buffers together hold, if replies were kept without bound.
        while sent < 64_000_000:
            writer.write(b"VRFY x\r\n" * 8192)
            await asyncio.wait_for(writer.drain(), 1.0)
            sent += 8 * 8192
    except TimeoutError:
        pass
    (session,) = tier.listeners.sessions._open
    assert sent < 64_000_000
    assert len(session._input) < 1_000_000
    writer.transport.abort()


async def test_client_that_never_reads_its_replies_does_not_hold_the_connection(make_tier):
    tier = await make_tier(connector(limits=ReceiveLimits(idle_timeout=0.2)))
    _reader, writer = await asyncio.open_connection("127.0.0.1", tier.ports[0], limit=1)
    writer.write(b"VRFY x\r\n" * 500_000)
    while not len(tier.listeners.sessions):
        await asyncio.sleep(0.001)
    async with asyncio.timeout(10):
        while len(tier.listeners.sessions):
            await asyncio.sleep(0.01)
    writer.transport.abort()


# Reload.


async def test_reload_opens_and_closes_ports_and_sessions_keep_what_they_began_with(make_tier, tmp_path):
    tier = await make_tier(connector(banner="old"))
    old_session = await tier.connect()
    assert await old_session.reply() == "220 mail.example.com old"
    port = tier.ports[0]
    serving = prepare(
        tier_config(connector(banner="new", fqdn="new.example.com")),
        tmp_path,
        store=tier.store,
        metrics=tier.metrics,
        events=tier.serving.events,
        sources=Sources(),
        on_committed=lambda envelope, content: None,
    )
    await tier.listeners.apply(serving)
    assert tier.ports == [port]
    assert await old_session.ask("HELO c") == "250 mail.example.com"
    assert await (await tier.connect()).reply() == "220 new.example.com new"
    moved = replace(serving, tier=TierPolicy(tier_config(connector(bindings=(Binding(port=free_port()),)))))
    await tier.listeners.apply(moved)
    assert port not in tier.ports
    assert await old_session.ask("NOOP") == "250 2.0.0 OK"
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_port_that_cannot_be_bound_changes_nothing(make_tier):
    tier = await make_tier()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bindings = (Binding(port=0), Binding(port=taken.getsockname()[1]))
        broken = replace(tier.serving, tier=TierPolicy(tier_config(connector(bindings=bindings))))
        before = tier.ports
        with pytest.raises(OSError, match="in use"):
            await tier.listeners.apply(broken)
    assert tier.ports == before
    assert (await (await tier.connect()).reply())[:3] == "220"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_a_session_keeps_so_few_attributes_in_its_dictionary_that_its_methods_are_found_fast(tier):
    line = await tier.connect()
    await line.start()
    await line.script("MAIL FROM:<a@client.example>", "RCPT TO:<b@example.com>", "DATA")
    assert (await line.ask("Subject: test\r\n\r\ntext\r\n."))[:3] == "250"
    (session,) = tier.listeners.sessions._open
    # SHARED_KEYS_MAX_SIZE of CPython's dictobject.c; see Reception.__slots__.
    assert len(vars(session)) <= 30
