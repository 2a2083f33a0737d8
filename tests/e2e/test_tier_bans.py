"""Bans in a running tier: shared by its workers, kept over reloads, crashes and restarts, listed and lifted."""

from __future__ import annotations

import json
import os
import signal
import smtplib
from collections.abc import Callable

from running_tier import PASSWORD, Manifests, Tier, wait_for

ATTACKER, OTHER = "127.0.0.66", "127.0.0.67"


def log_in(tier: Tier, password: str, source: str = ATTACKER) -> int:
    """Try to log in from a loopback address; return the code of the reply that decides."""
    try:
        with smtplib.SMTP("127.0.0.1", tier.manifests.submission, timeout=30, source_address=(source, 0)) as client:
            client._host = "mail.example"
            client.starttls(context=tier.tls_context())
            client.user, client.password = "alice@mail.example", password
            client.ehlo("client.example")
            return client.auth("plain", client.auth_plain)[0]
    except (smtplib.SMTPAuthenticationError, smtplib.SMTPConnectError) as error:
        return error.smtp_code


def refuses_every_worker(tier: Tier) -> bool:
    """Connections spread over the workers, so that eight of them meet both."""
    return {log_in(tier, PASSWORD) for _ in range(8)} == {421}


def bans(tier: Tier, *arguments: str) -> str:
    answer = tier.command("bans", "--state-dir", str(tier.state_dir), *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_a_ban_holds_in_every_worker_over_a_reload_a_crash_and_a_restart_until_it_is_lifted(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    submission = manifests.documents["submission"]
    submission["spec"]["authentication"]["bans"] = {"failures": 4}
    manifests.put("submission", submission)
    tier = start_tier(manifests)
    assert bans(tier, "list") == "Nothing is banned.\n"
    assert [log_in(tier, "wrong") for _ in range(4)] == [535] * 4
    assert refuses_every_worker(tier)
    assert log_in(tier, PASSWORD, OTHER) == 235
    (ban,) = json.loads(bans(tier, "list", "--output", "json"))
    assert (ban["kind"], ban["subject"], ban["until"] - ban["since"]) == ("address", ATTACKER, 3600.0)
    assert ATTACKER in bans(tier, "list")
    assert tier.metric("postroad_bans_active", kind="address") == 1

    submission["spec"]["banner"] = "ESMTP"
    manifests.put("submission", submission)
    wait_for(lambda: tier.metric("postroad_config_reloads_total", result="ok") == 4, what="the reload")
    assert refuses_every_worker(tier)

    os.kill(int(json.loads(tier.http("/configz"))["workers"][0]["pid"]), signal.SIGKILL)
    wait_for(lambda: tier.metric("postroad_worker_restarts_total") == 1, what="the crash")
    wait_for(lambda: tier.metric("postroad_worker_up") == 2, what="the worker's return")
    assert refuses_every_worker(tier)

    assert tier.stop() == 0
    tier.start()
    assert refuses_every_worker(tier)
    assert bans(tier, "lift", OTHER) == "lifted: 0 ban(s)\n"
    assert bans(tier, "lift", ATTACKER) == "lifted: 1 ban(s)\n"
    assert {log_in(tier, PASSWORD) for _ in range(6)} == {235}
    assert tier.metric("postroad_bans_active") == 0
    tier.stop()
    events = [event for event in tier.events() if event["event"] in ("auth.banned", "auth.bans_lifted")]
    assert [(event["event"], event.get("lifted")) for event in events] == [
        ("auth.banned", None),
        ("auth.bans_lifted", 0),
        ("auth.bans_lifted", 1),
    ]


def test_lift_wants_to_be_told_what(manifests: Manifests, start_tier: Callable[..., Tier]) -> None:
    tier = start_tier(manifests, workers=1)
    for arguments in ((), ("--all", ATTACKER)):
        answer = tier.command("bans", "--state-dir", str(tier.state_dir), "lift", *arguments)
        assert answer.returncode == 2
        assert "name an address or an account, or give --all" in answer.stderr
    assert bans(tier, "lift", "--all") == "lifted: 0 ban(s)\n"
