"""The whole path of a message through the real program."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import subprocess
from collections.abc import Callable
from email.message import EmailMessage

import pytest
from mail_load import Load, send_all
from mail_sink import mail_sink
from running_tier import PASSWORD, Manifests, Tier, free_port, wait_for


def letter(subject: str, *, recipient: str = "alice@mail.example") -> EmailMessage:
    message = EmailMessage()
    message["From"] = "alice@mail.example"
    message["To"] = recipient
    message["Subject"] = subject
    message.set_content("Grüße aus Postroad\n.\n..two dots\n")
    return message


def test_a_submitted_message_lands_in_the_maildir_with_trace_and_one_id_through_all_events(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    tier = start_tier(manifests)
    with tier.submit() as client:
        client.send_message(letter("hello"))
        code, reply = client.docmd("NOOP")
        assert (code, reply[:5]) == (250, b"2.0.0")
    (stored,) = wait_for(tier.mailbox, what="the message in the Maildir")
    assert b"Subject: hello" in stored
    assert stored.startswith(b"Return-Path: <alice@mail.example>")
    assert b"\n..two dots\n" in stored
    steps = wait_for(
        lambda: (found := tier.events()) and any(e["event"] == "SEND" for e in found) and found, what="the SEND event"
    )
    (received,) = (event for event in steps if event["event"] == "RECEIVE")
    assert f"id {received['id']}".encode() in stored
    assert {e["event"] for e in steps if e.get("id") == received["id"]} >= {"RECEIVE", "ROUTE", "SEND"}
    assert tier.metric("postroad_messages_received_total", connector="submission") == 1
    assert PASSWORD not in tier.output.read_text() + "".join(map(str, steps))
    assert tier.stop() == 0


def test_the_ports_show_exactly_what_their_connector_offers(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    tier = start_tier(manifests)
    with smtplib.SMTP("127.0.0.1", manifests.submission) as client:
        client.ehlo("client.example")
        assert client.has_extn("starttls")
        assert not client.has_extn("auth")
        assert client.docmd("MAIL", "FROM:<a@b.example>") == (451, b"5.7.3 Must issue a STARTTLS command first")
        client._host = "mail.example"
        client.starttls(context=tier.tls_context())
        client.ehlo("client.example")
        assert client.has_extn("auth")
        assert not client.has_extn("starttls")
        assert client.docmd("MAIL", "FROM:<a@b.example>") == (530, b"5.7.1 Client was not authenticated")
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login("alice@mail.example", "wrong")
        assert (refused.value.smtp_code, refused.value.smtp_error) == (535, b"5.7.3 Authentication unsuccessful")
    with socket.create_connection(("127.0.0.1", manifests.smtps)) as raw:
        client = smtplib.SMTP_SSL(context=tier.tls_context())
        client.sock = tier.tls_context().wrap_socket(raw, server_hostname="mail.example")
        client.file = None
        assert client.getreply()[0] == 220
        client.ehlo("client.example")
        assert client.has_extn("auth")
        client.login("alice@mail.example", PASSWORD)
        client.quit()
    with smtplib.SMTP("127.0.0.1", manifests.mx) as client:
        client.ehlo("client.example")
        assert client.has_extn("starttls")
        assert not client.has_extn("auth")
        client.mail("someone@elsewhere.example")
        assert client.rcpt("x@not-ours.example") == (550, b"5.7.1 Unable to relay")
        assert client.rcpt("alice@mail.example")[0] == 250


def test_five_thousand_messages_over_fifty_sessions_reach_the_next_hop_once(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    with mail_sink(keep_bodies=False) as sink:
        manifests.smart_host(sink.port)
        open_relay(manifests)
        tier = start_tier(manifests)
        subprocess.run(
            ["smtp-source", "-c", "-d", "-N", "-s", "50", "-l", "4096", "-m", "5000", "-f", "load@client.example",
             "-t", "user@sink.example", f"127.0.0.1:{manifests.mx}"],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        wait_for(lambda: len(sink.recipients) >= 5000, timeout=60, what="5,000 recipients at the sink")
        assert set(sink.recipients.values()) == {1}
        wait_for(lambda: tier.metric("postroad_queue_recipients") == 0, what="an empty queue")
        assert tier.command("queue", "--state-dir", str(tier.state_dir), "list").stdout == "The queue is empty.\n"


def open_relay(manifests: Manifests) -> None:
    """Let anyone who can reach the loopback mx port relay: a load generator does not log in."""
    mx = manifests.documents["mx"]
    mx["spec"] |= {
        "remoteIPRanges": ["127.0.0.0/8"],
        "grants": [{"principal": "Anonymous", "permissions": ["SMTP-Accept-Any-Recipient"]}],
    }
    manifests.put("mx", mx)


async def test_what_got_a_250_arrives_though_the_tier_is_killed_twice_under_load(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    with mail_sink(keep_bodies=False) as sink:
        manifests.smart_host(sink.port)
        open_relay(manifests)
        tier = start_tier(manifests)
        recipients = [f"user{number}@sink.example" for number in range(4000)]
        load = Load()
        sending = asyncio.create_task(send_all(manifests.mx, recipients, load))
        for milestone in (700, 2200):
            await asyncio.wait_for(load.until(milestone), 60)
            await asyncio.to_thread(tier.kill)
            await asyncio.to_thread(tier.start)
        await asyncio.wait_for(sending, 120)
        await asyncio.to_thread(
            wait_for, lambda: set(sink.recipients) >= load.acknowledged, timeout=60, what="every acknowledged message"
        )
        assert load.acknowledged == set(recipients)
        assert set(sink.recipients) <= load.attempted
        # Only what was in flight at one of the two kills may come twice: a session has one message under way,
        # and a destination a bounded number of deliveries.
        twice = [recipient for recipient, count in sink.recipients.items() if count > 1]
        assert len(twice) < 400


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
def test_thirty_megabytes_go_through_unchanged(
    manifests: Manifests, start_tier: Callable[..., Tier], verb: str
) -> None:
    line = b"".join(bytes([33 + (n * 7) % 90]) for n in range(76)) + b"\r\n"
    content = b"From: alice@mail.example\r\nSubject: large\r\n\r\n" + line * (30_000_000 // len(line))
    tier = start_tier(manifests)
    with tier.submit() as client:
        client.ehlo("client.example")
        assert client.mail("alice@mail.example", [f"SIZE={len(content)}"])[0] == 250
        assert client.rcpt("alice@mail.example")[0] == 250
        if verb == "DATA":
            assert client.data(content)[0] == 250
        else:
            half = len(content) // 2
            client.send(b"BDAT %d\r\n" % half + content[:half])
            assert client.getreply()[0] == 250
            client.send(b"BDAT %d LAST\r\n" % (len(content) - half) + content[half:])
            assert client.getreply()[0] == 250
    (stored,) = wait_for(tier.mailbox, timeout=30, what="the message in the Maildir")
    assert stored.endswith(content.replace(b"\r\n", b"\n"))


def test_a_dead_next_hop_defers_and_the_queue_command_shows_holds_and_retries(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    port = free_port()
    manifests.smart_host(port, retry={"schedule": ["1h"], "expiration": "2d"})
    tier = start_tier(manifests)
    with tier.submit() as client:
        client.send_message(letter("later", recipient="bob@far.example"))
    at = ["queue", "--state-dir", str(tier.state_dir)]
    wait_for(lambda: tier.metric("postroad_deliveries_total", result="deferred") >= 1, what="a deferral")
    listed = tier.command(*at, "list")
    assert "bob@far.example" in listed.stdout, listed.stderr
    deferred = next(event for event in tier.events() if event["event"] == "DEFER")
    identifier = deferred["id"]
    assert "4.4.1" in deferred["reply"]
    assert "later" in tier.command(*at, "show", identifier).stdout
    before = sum(event["event"] == "DEFER" for event in tier.events())
    assert "1 message" in tier.command(*at, "retry", identifier).stdout
    wait_for(lambda: sum(event["event"] == "DEFER" for event in tier.events()) > before, what="another attempt")
    assert "1 message" in tier.command(*at, "hold", identifier).stdout
    with mail_sink(port=port) as sink:
        assert "1 message" in tier.command(*at, "release", identifier).stdout
        wait_for(lambda: sink.recipients["bob@far.example"], what="the released message")
    wait_for(lambda: tier.metric("postroad_queue_recipients") == 0, what="an empty queue")
    assert tier.command(*at, "show", identifier).returncode == 1
    assert "no message" in tier.command(*at, "delete", identifier).stderr


def test_mail_for_a_suspended_connector_waits_until_it_is_let_go_on(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    with mail_sink() as sink:
        manifests.smart_host(sink.port, suspend=True)
        tier = start_tier(manifests)
        with tier.submit() as client:
            client.send_message(letter("later", recipient="bob@far.example"))
        at = ["queue", "--state-dir", str(tier.state_dir)]
        listed = wait_for(lambda: tier.command(*at, "list", "--state", "suspended").stdout, what="the message")
        assert "bob@far.example" in listed
        assert not sink.recipients
        manifests.smart_host(sink.port)
        wait_for(lambda: sink.recipients["bob@far.example"], what="the message")
    wait_for(lambda: tier.metric("postroad_queue_recipients") == 0, what="an empty queue")


def test_a_whole_destination_is_deleted_and_its_senders_told(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    manifests.smart_host(free_port(), suspend=True)
    tier = start_tier(manifests)
    with tier.submit() as client:
        for number in range(3):
            client.send_message(letter(f"unwanted {number}", recipient=f"bob{number}@far.example"))
    wait_for(lambda: tier.metric("postroad_queue_recipients") == 3, what="three messages")
    at = ["queue", "--state-dir", str(tier.state_dir)]
    assert "name a message" in tier.command(*at, "delete").stderr
    assert "0 message" in tier.command(*at, "delete", "--destination", "smarthost:other").stdout
    assert "3 message" in tier.command(*at, "delete", "--destination", "smarthost:outbound", "--notify").stdout
    notices = wait_for(lambda: (found := tier.mailbox()) and len(found) == 3 and found, what="three notices")
    assert all(b"Action: failed" in notice for notice in notices)
    wait_for(lambda: tier.metric("postroad_queue_recipients") == 0, what="an empty queue")


def test_a_refused_recipient_comes_back_as_a_failure_notice(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    with mail_sink() as sink:
        sink.rcpt_reply = b"550 5.1.1 no such user here"
        manifests.smart_host(sink.port)
        tier = start_tier(manifests)
        with tier.submit() as client:
            client.send_message(letter("bounce", recipient="nobody@far.example"))
        (notice,) = wait_for(tier.mailbox, what="the notice")
        assert notice.startswith(b"Return-Path: <>")
        assert b"multipart/report" in notice
        assert b"Diagnostic-Code: smtp; 550 5.1.1 no such user here" in notice
        assert b"Final-Recipient: rfc822; nobody@far.example" in notice
        wait_for(lambda: tier.metric("postroad_queue_recipients") == 0, what="an empty queue")
