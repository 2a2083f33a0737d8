"""Edits of the manifests while the tier runs."""

from __future__ import annotations

import json
import smtplib
import time
from collections.abc import Callable

from running_tier import Manifests, Tier, document, free_port, wait_for


def accepts(tier: Tier, recipient: str) -> bool:
    with smtplib.SMTP("127.0.0.1", tier.manifests.mx, timeout=10) as client:
        client.ehlo("client.example")
        client.mail("someone@elsewhere.example")
        return client.rcpt(recipient)[0] == 250


def new_domain(name: str) -> dict[str, object]:
    path = {"path": "maildir/{domain}/{local}"}
    return document("AcceptedDomain", name.replace(".", "-"), {"domain": name, "deliver": {"maildir": path}})


def test_an_edit_is_live_within_a_second_and_a_session_in_progress_goes_on(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    tier = start_tier(manifests)
    assert not accepts(tier, "x@new.example")
    with smtplib.SMTP("127.0.0.1", manifests.mx, timeout=10) as open_session:
        open_session.ehlo("client.example")
        open_session.mail("someone@elsewhere.example")
        started = time.monotonic()
        manifests.put("new", new_domain("new.example"))
        wait_for(lambda: accepts(tier, "x@new.example"), timeout=5, what="the new domain")
        took = time.monotonic() - started
        assert open_session.rcpt("alice@mail.example")[0] == 250
        assert open_session.data(b"Subject: kept\r\n\r\nstill here\r\n")[0] == 250
    wait_for(tier.mailbox, what="the message of the old session")
    assert took < 2.0, "an edit should be live within a second (two, on a busy machine)"
    status = json.loads(tier.http("/configz"))
    assert status["hash"] == status["wanted"]
    assert "AcceptedDomain/default/new-example" in status["generations"]


def test_a_broken_edit_is_reported_and_changes_nothing(manifests: Manifests, start_tier: Callable[..., Tier]) -> None:
    tier = start_tier(manifests)
    before = json.loads(tier.http("/configz"))["hash"]
    broken = document("ReceiveConnector", "mx", {"usage": "Nonsense", "bindings": [{"port": manifests.mx}]})
    sound = manifests.documents["mx"]
    manifests.put("mx", broken)
    wait_for(lambda: "spec.usage" in tier.output.read_text(), what="the report of the broken edit")
    assert json.loads(tier.http("/configz"))["hash"] == before
    assert accepts(tier, "alice@mail.example")
    manifests.put("mx", sound)
    wait_for(lambda: "mended" in tier.output.read_text(), what="word that all is well again")
    # A directory that goes away, as during a checkout, stops nothing.
    manifests.directory.rename(manifests.directory.with_name("away"))
    wait_for(lambda: "no such file or directory" in tier.output.read_text().lower(), what="the report")
    assert accepts(tier, "alice@mail.example")


def test_a_port_that_is_added_opens_and_one_that_is_removed_closes(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    tier = start_tier(manifests)
    extra = free_port()
    mx = manifests.documents["mx"]
    mx["spec"]["bindings"] = [{"port": extra}]
    manifests.put("mx", mx)

    def greets(port: int) -> bool:
        try:
            with smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
                return client.noop()[0] == 250
        except OSError:
            return False

    wait_for(lambda: greets(extra), what="the new port")
    wait_for(lambda: not greets(manifests.mx), what="the old port to close")
    run_file = tier.state_dir / "run.json"
    wait_for(
        lambda: extra in {listener["port"] for listener in json.loads(run_file.read_text())["listeners"]},
        what="the new port in run.json",
    )
