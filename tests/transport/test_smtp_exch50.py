"""XEXCH50: offered to whom it is granted, its octets taken and dropped, the message unharmed."""

from __future__ import annotations

import pytest
from conftest import anonymous, connector

from postroad_transport.config import Permission

EXCHANGE = anonymous(Permission.SUBMIT, Permission.ACCEPT_EXCH50)


@pytest.fixture
async def line(make_tier):
    tier = await make_tier(connector(grants=EXCHANGE))
    line = await tier.connect()
    line.tier = tier
    await line.reply()
    assert (await line.ask("EHLO legacy.example")).endswith("\n250 XEXCH50")
    return line


async def test_the_octets_are_dropped_and_the_message_is_as_sent(line):
    await line.script("MAIL FROM:<>", "RCPT TO:<b@example.com>")
    assert await line.ask("XEXCH50 12 1") == "354 Send binary data"
    await line.send(b"\r\n.\r\nQUIT\r\n\x00")
    assert await line.reply() == "250 2.0.0 XEXCH50 OK"
    assert (await line.ask("DATA"))[:3] == "354"
    await line.send(b"Subject: x\r\n\r\nbody\r\n.\r\n")
    assert (await line.reply())[:3] == "250"
    ((_, content),) = line.tier.store.messages
    assert content.endswith(b"Subject: x\r\n\r\nbody\r\n")


@pytest.mark.parametrize(
    ("commands", "reply"),
    [
        (["XEXCH50 1 1"], "503 5.5.1 Send MAIL first"),
        (["MAIL FROM:<>", "XEXCH50 1 1"], "503 5.5.1 Send RCPT first"),
        (["MAIL FROM:<>", "RCPT TO:<b@elsewhere.example>", "XEXCH50 1 1"], "554 5.5.1 No valid recipients"),
        (["MAIL FROM:<>", "RCPT TO:<b@example.com>", "XEXCH50"], "501 5.5.4 Syntax: XEXCH50 octets recipients"),
        (["MAIL FROM:<>", "RCPT TO:<b@example.com>", "XEXCH50 -1 1"], "501 5.5.4 Syntax: XEXCH50 octets recipients"),
        (
            ["MAIL FROM:<>", "RCPT TO:<b@example.com>", "XEXCH50 9999999 1"],
            "552 5.3.4 Message size exceeds the maximum",
        ),
    ],
)
async def test_out_of_order_malformed_or_huge_it_is_refused_before_any_octet(line, commands, reply):
    assert (await line.script(*commands))[-1] == reply
    assert await line.ask("NOOP") == "250 2.0.0 OK"


async def test_without_the_permission_it_is_neither_offered_nor_taken(tier):
    line = await tier.connect()
    await line.reply()
    assert "XEXCH50" not in await line.ask("EHLO c.example")
    await line.script("MAIL FROM:<>", "RCPT TO:<b@example.com>")
    assert await line.ask("XEXCH50 3 1") == "504 5.7.1 Need to authenticate first"
    assert tier.count("postroad_refusals_total", verb="XEXCH50", permission="Accept-Exch50") == 1
    assert '"permission":"Accept-Exch50"' in tier.events()
