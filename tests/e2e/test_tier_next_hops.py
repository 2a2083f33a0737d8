"""Next hops as they are outside: a name server, Dovecot's LMTP, hosts that stay away."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from dovecot_kit import Dovecot, missing, running_dovecot
from mail_sink import mail_sink
from name_server import name_server
from running_tier import Manifests, Tier, document, free_port, wait_for

RECORDS = {
    ("far.example.", "MX"): ["10 mx1.far.example.", "20 mx2.far.example."],
    ("mx1.far.example.", "A"): ["127.0.0.2"],
    ("mx2.far.example.", "A"): ["127.0.0.1"],
    ("plain.example.", "A"): ["127.0.0.1"],
    ("null.example.", "MX"): ["0 ."],
}


def send(tier: Tier, *recipients: str) -> None:
    with tier.submit() as client:
        message = b"From: alice@mail.example\r\nSubject: out\r\n\r\nhello\r\n"
        client.sendmail("alice@mail.example", list(recipients), message)


def test_mail_is_routed_by_mx_with_fallback_and_null_mx_and_names_that_do_not_exist_come_back(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    with name_server(RECORDS) as resolver, mail_sink() as sink:
        manifests.put(
            "outbound",
            document(
                "SendConnector",
                "outbound",
                {
                    "usage": "Internet",
                    "addressSpaces": [{"domain": "*"}],
                    "dns": {"resolvers": [f"127.0.0.1:{resolver}"], "port": sink.port},
                },
            ),
        )
        tier = start_tier(manifests)
        send(tier, "bob@far.example", "bob@plain.example")
        wait_for(lambda: len(sink.recipients) == 2, what="mail by the second MX and by address")
        send(tier, "bob@null.example")
        assert b"5.1.10" in wait_for(lambda: b"".join(tier.mailbox()), what="the notice about a null MX")
        send(tier, "bob@none.example")
        wait_for(lambda: b"none.example" in b"".join(tier.mailbox()), what="the notice about no such domain")
        assert b"5.1.2" in b"".join(tier.mailbox())
        send(tier, "bob@broken.example")
        wait_for(lambda: tier.metric("postroad_deliveries_total", result="deferred") >= 1, what="a deferral")
        listed = tier.command("queue", "--state-dir", str(tier.state_dir), "list").stdout
        assert "bob@broken.example" in listed
        assert "4.4.3" in listed


def test_senders_are_told_of_delay_and_of_expiry_once_unless_they_asked_not_to_be(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    retry = {"schedule": ["1s"], "delayNotification": "1s", "expiration": "4s"}
    manifests.smart_host(free_port(), retry=retry)
    tier = start_tier(manifests)
    with tier.submit() as client:
        client.ehlo("client.example")
        for recipient, options in (("told@far.example", []), ("never@far.example", ["NOTIFY=NEVER"])):
            assert client.mail("alice@mail.example", ["ENVID=Qq+2B17"])[0] == 250
            assert client.rcpt(recipient, options)[0] == 250
            assert client.data(b"From: alice@mail.example\r\nSubject: late\r\n\r\nhello\r\n")[0] == 250
    wait_for(lambda: tier.metric("postroad_deliveries_total", result="expired") == 2, what="both expiries")
    delay, failure = wait_for(lambda: len(found := tier.mailbox()) >= 2 and found, what="two notices")
    assert b"Action: delayed" in delay
    assert b"Action: failed" in failure
    for notice in (delay, failure):
        assert b"Original-Envelope-Id: Qq+17" in notice
        assert b"told@far.example" in notice
        assert b"never@far.example" not in notice
    assert len(tier.mailbox()) == 2


def test_success_notices_are_sent_on_request_after_delivery_to_a_maildir(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    tier = start_tier(manifests)
    with tier.submit() as client:
        client.ehlo("client.example")
        assert client.mail("alice@mail.example")[0] == 250
        assert client.rcpt("bob@mail.example", ["NOTIFY=SUCCESS", "ORCPT=rfc822;Bob@Mail.example"])[0] == 250
        assert client.data(b"From: alice@mail.example\r\nSubject: please\r\n\r\nhello\r\n")[0] == 250
    (notice,) = wait_for(tier.mailbox, what="the notice")
    assert b"Action: delivered" in notice
    assert b"Original-Recipient: rfc822; Bob@Mail.example" in notice or b"rfc822;Bob@Mail.example" in notice


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    """Dovecot's LMTP server with one user, ``alice@boxes.example``."""
    if reason := missing("lmtp"):
        pytest.skip(reason)
    with running_dovecot("lmtp", "alice@boxes.example") as running:
        yield running


def test_dovecot_takes_mail_by_lmtp_and_each_recipient_has_its_own_result(
    manifests: Manifests, start_tier: Callable[..., Tier], dovecot: Dovecot
) -> None:
    new = dovecot.maildir / "new"
    target = {"domain": "boxes.example", "deliver": {"lmtp": {"host": "127.0.0.1", "port": dovecot.port}}}
    manifests.put("boxes", document("AcceptedDomain", "boxes", target))
    tier = start_tier(manifests)
    send(tier, "alice@boxes.example", "nobody@boxes.example")
    (path,) = wait_for(lambda: list(new.glob("*")) if new.is_dir() else [], what="the message in Dovecot's Maildir")
    stored = path.read_bytes()
    assert b"Subject: out" in stored
    assert b"X-MS-Exchange-Organization-AuthAs: Internal" in stored
    (notice,) = wait_for(tier.mailbox, what="the notice about the other recipient")
    assert b"Final-Recipient: rfc822; nobody@boxes.example" in notice
    assert b"5.1.1" in notice
    assert tier.metric("postroad_deliveries_total", result="delivered") >= 1
