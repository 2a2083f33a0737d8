"""A flood of refusals is counted in full and logged in part."""

from __future__ import annotations

import json
from typing import Any

from conftest import INTERNET, connector

from postroad_transport.config import ReceiveLimits
from postroad_transport.smtp import sessions


def logged(tier: Any, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in tier.events().splitlines()]
    return [line for line in lines if line["event"] == event]


async def test_refused_commands_beyond_some_hundreds_a_minute_are_counted_only(make_tier, monkeypatch) -> None:
    monkeypatch.setattr(sessions, "REFUSALS_LOGGED", 3)
    tier = await make_tier(connector(grants=INTERNET, limits=ReceiveLimits(tarpit=0.0, errors=0)))
    line = await tier.connect()
    await line.start()
    await line.ask("MAIL FROM:<a@client.example>")
    replies = await line.script(*["RCPT TO:<b@elsewhere.example>"] * 5)
    assert {reply[:3] for reply in replies} == {"550"}
    assert tier.count("postroad_refusals_total", verb="RCPT") == 5
    events = logged(tier, "command.refused")
    assert len(events) == 3
    assert all(event["rule"] and event["subject"] == "b@elsewhere.example" for event in events)
    # Another rule has its own count.
    await line.script("RSET", "MAIL FROM:<a@example.com>")
    assert len(logged(tier, "command.refused")) == 4


async def test_refused_connections_beyond_ten_a_minute_are_counted_only(make_tier) -> None:
    tier = await make_tier(connector(grants=INTERNET, limits=ReceiveLimits(connections_per_source=1)))
    first = await tier.connect()
    await first.start()
    for _ in range(12):
        refused = await tier.connect()
        assert (await refused.reply())[:3] == "421"
    assert tier.count("postroad_sessions_refused_total", reason="connections_per_source") == 12
    events = logged(tier, "session.refused")
    assert len(events) == 10
    assert all(event["reason"] == "connections_per_source" and event["client"] for event in events)
