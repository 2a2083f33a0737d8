"""What is told about a message, in which order, and by which configuration."""

from __future__ import annotations

import email
import email.utils
import json
from dataclasses import replace

from conftest import INTERNET, connector, tier_config

from postroad_transport.auth.sources import Sources
from postroad_transport.message import Content, Envelope
from postroad_transport.smtp.serving import prepare


async def test_the_receive_event_precedes_everything_delivery_says_about_the_message(make_tier):
    tier = await make_tier()
    log = tier.serving.events

    def deliver(envelope: Envelope, content: Content) -> None:
        log.emit("ROUTE", id=envelope.id)

    tier.listeners.sessions.serving = replace(tier.serving, on_committed=deliver)
    line = await tier.connect()
    await line.begin()
    assert (await line.ask("Subject: x\r\n\r\nhello\r\n.")).startswith("250")
    events = [json.loads(event) for event in tier.events().splitlines()]
    assert [event["event"] for event in events if "id" in event] == ["RECEIVE", "ROUTE"]


async def test_a_message_between_servers_is_not_completed_and_its_trace_is_dated_in_utc(make_tier):
    tier = await make_tier(connector(grants=INTERNET))
    line = await tier.connect()
    await line.begin()
    assert (await line.ask("Subject: x\r\n\r\nhello\r\n.")).startswith("250")
    ((_, content),) = tier.store.messages
    header = content.partition(b"\r\n\r\n")[0].lower()
    assert b"\ndate:" not in header
    assert b"message-id:" not in header
    trace = content.partition(b";")[2].splitlines()[1].strip().decode()
    assert email.utils.parsedate_to_datetime(trace).utcoffset() is not None
    assert trace.endswith("+0000")


async def test_a_new_configuration_is_served_though_no_session_was_open_when_it_came(make_tier):
    tier = await make_tier()
    replacement = prepare(
        tier_config(connector(banner="changed")),
        tier.events_file.parent,
        store=tier.store,
        metrics=tier.metrics,
        events=tier.serving.events,
        sources=Sources(),
        on_committed=lambda envelope, content: None,
    )
    await tier.listeners.apply(replacement)
    line = await tier.connect()
    assert await line.reply() == "220 mail.example.com changed"


async def test_text_without_a_header_arrives_as_a_body(tier):
    line = await tier.connect()
    await line.begin()
    assert (await line.ask("hello\r\n.")).startswith("250")
    ((envelope, content),) = tier.store.messages
    message = email.message_from_bytes(content)
    assert message.get_payload() == "hello\r\n"
    assert envelope.size == len(content)
