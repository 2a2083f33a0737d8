"""``postroad explain`` against a running tier says what that tier then does, also after a change."""

from __future__ import annotations

import json
import smtplib
from typing import Any

from running_tier import document, wait_for


def explained(tier, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = tier.command("explain", "--state-dir", str(tier.state_dir), "--output", "json", *arguments)
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_explain_tells_what_the_running_tier_then_does(manifests, start_tier) -> None:
    tier = start_tier(manifests)
    mx = ("--port", str(manifests.mx), "--from-ip", "127.0.0.1", "--mail-from", "x@elsewhere.example")

    def asked(recipient: str) -> str:
        with smtplib.SMTP("127.0.0.1", manifests.mx, timeout=30) as client:
            client.ehlo("client.example")
            client.mail("x@elsewhere.example")
            code, text = client.rcpt(recipient)
            return f"{code} {text.decode()}"

    for recipient in ("alice@mail.example", "someone@other.example"):
        code, told = explained(tier, *mx, "--rcpt", recipient)
        reply = told["conversation"][-1 if code else -2]["reply"]
        assert asked(recipient) == reply
    assert code == 1

    submission = ("--port", str(manifests.submission), "--from-ip", "127.0.0.1", "--tls")
    code, told = explained(
        tier, *submission, "--auth", "alice@mail.example", "--mail-from", "alice@mail.example",
        "--rcpt", "alice@mail.example", "--header-from", "alice@mail.example", "--header", "Received: by me",
    )  # fmt: skip
    assert code == 0
    with tier.submit() as client:
        client.sendmail(
            "alice@mail.example",
            "alice@mail.example",
            "From: alice@mail.example\nReceived: by me\nSubject: x\n\nbody\n",
        )
    (stored,) = wait_for(tier.mailbox, what="delivery")
    header, _, body = stored.replace(b"\r\n", b"\n").partition(b"\n\n")
    assert body == b"body\n"
    assert b"Received: by me" not in header
    assert told["explanation"]["stripped"] == ["Received"]
    for line in told["explanation"]["added"]:
        assert line.encode() in header
    assert told["deliveries"][0]["connector"] == "maildir"

    # The same question after a change: asked of what is served now.
    grant = {"principal": "Anonymous", "permissions": ["SMTP-Accept-Any-Recipient"]}
    spec = manifests.documents["mx"]["spec"] | {"remoteIPRanges": ["127.0.0.0/8"], "grants": [grant]}
    manifests.put("mx", document("ReceiveConnector", "mx", spec))
    wait_for(lambda: asked("someone@other.example").startswith("250"), what="the change")
    code, told = explained(tier, *mx, "--rcpt", "someone@other.example")
    assert code == 0
    assert told["deliveries"][0]["reply"] == "550 5.4.4 No send connector covers other.example"
