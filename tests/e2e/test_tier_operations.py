"""What an operator meets: stops, kills, taken ports, a state directory in use, fewer workers, full disks, loops."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import smtplib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mail_sink import mail_sink
from running_tier import PASSWORD, PASSWORD_HASH, Manifests, Tier, document, free_port, wait_for


def relay(manifests: Manifests, port: int) -> None:
    """Let loopback relay by the mx port to a smart host on `port`."""
    mx = manifests.documents["mx"]
    mx["spec"] |= {
        "remoteIPRanges": ["127.0.0.0/8"],
        "grants": [{"principal": "Anonymous", "permissions": ["SMTP-Accept-Any-Recipient"]}],
    }
    manifests.put("mx", mx)
    manifests.smart_host(port)


def send(tier: Tier, recipient: str, subject: str = "x") -> int:
    """Hand in one message on a connection of its own; return the code of the final reply."""
    with smtplib.SMTP("127.0.0.1", tier.manifests.mx, timeout=20) as client:
        client.ehlo("client.example")
        client.mail("someone@client.example")
        assert client.rcpt(recipient)[0] == 250
        return client.data(f"Subject: {subject}\r\n\r\nhello\r\n".encode())[0]


def workers(tier: Tier) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(tier.http("/configz"))["workers"]
    return found


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_sigterm_ends_idle_sessions_with_421_and_finishes_the_transaction_under_way(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    tier = start_tier(manifests)
    idle = smtplib.SMTP("127.0.0.1", manifests.mx, timeout=20)
    idle.ehlo("client.example")
    busy = smtplib.SMTP("127.0.0.1", manifests.mx, timeout=20)
    busy.ehlo("client.example")
    busy.mail("someone@client.example")
    busy.rcpt("alice@mail.example")
    assert busy.docmd("DATA")[0] == 354
    busy.send(b"Subject: half\r\n\r\nhalf of it")
    assert tier.process is not None
    tier.process.send_signal(signal.SIGTERM)
    assert idle.getreply() == (421, b"4.3.2 Service shutting down")
    busy.send(b" and the rest\r\n.\r\n")
    assert busy.getreply()[0] == 250
    assert busy.getreply()[0] == 421
    assert tier.process.wait(30) == 0
    assert len(tier.mailbox()) == 1
    assert not (tier.state_dir / "run.json").exists()


def test_a_killed_worker_comes_back_with_its_queue_and_no_metric_goes_back(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    port = free_port()
    relay(manifests, port)
    tier = start_tier(manifests)
    for number in range(12):
        assert send(tier, f"user{number}@far.example") == 250
    received = tier.metric("postroad_messages_received_total")
    assert received == 12
    os.kill(int(str(workers(tier)[0]["pid"])), signal.SIGKILL)
    seen = []

    def restarted() -> bool:
        seen.append(tier.metric("postroad_messages_received_total"))
        return tier.metric("postroad_worker_up") == 2 and tier.metric("postroad_worker_restarts_total") == 1

    wait_for(restarted, what="the worker's return")
    assert set(seen) == {received}
    wait_for(tier.is_ready, what="the tier to be ready again")
    with mail_sink(port=port) as sink:
        assert tier.command("queue", "--state-dir", str(tier.state_dir), "retry", "--all").returncode == 0
        wait_for(lambda: len(sink.recipients) == 12, what="the whole queue, of both workers")
        assert set(sink.recipients.values()) == {1}


def test_an_edit_while_the_only_worker_is_being_started_again_is_served_by_it(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    tier = start_tier(manifests, workers=1)
    os.kill(int(str(workers(tier)[0]["pid"])), signal.SIGKILL)
    target = {"domain": "new.example", "deliver": {"maildir": {"path": "maildir/{domain}/{local}"}}}
    manifests.put("new", document("AcceptedDomain", "new", target))
    wait_for(lambda: " loaded" in tier.output.read_text(), timeout=30, what="the new domain")
    wait_for(lambda: tier.metric("postroad_worker_up") == 1, timeout=30, what="the worker")
    assert send(tier, "alice@new.example") == 250


def test_workers_stop_soon_when_the_supervisor_is_killed_and_a_new_start_takes_over(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    tier = start_tier(manifests)
    pids = tier.pids()
    # A session in the middle of a transaction must not hold the next tier up.
    held = smtplib.SMTP("127.0.0.1", manifests.mx, timeout=20)
    held.ehlo("client.example")
    held.mail("someone@client.example")
    os.kill(pids[0], signal.SIGKILL)
    assert tier.process is not None
    tier.process.wait()
    tier.start()
    assert not [pid for pid in pids if running(pid)]
    assert send(tier, "alice@mail.example") == 250
    held.close()


def test_a_second_tier_on_the_same_state_directory_is_refused_and_harms_nothing(
    manifests: Manifests, start_tier: Callable[..., Tier], tmp_path: Path
) -> None:
    tier = start_tier(manifests)
    other = Manifests(tmp_path / "other")
    answer = tier.command("run", str(other.directory), "--state-dir", str(tier.state_dir), "--metrics-port", "0")
    assert answer.returncode == 1
    assert "is in use by another tier" in answer.stderr
    assert json.loads((tier.state_dir / "run.json").read_text())["pid"] == tier.run["pid"]
    listed = tier.command("queue", "--state-dir", str(tier.state_dir), "list")
    assert listed.stdout == "The queue is empty.\n", listed.stderr
    assert send(tier, "alice@mail.example") == 250


def test_a_port_that_is_taken_is_named_at_the_start_and_refused_at_a_reload(
    manifests: Manifests, start_tier: Callable[..., Tier], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        tier = start_tier(manifests)
        before = json.loads(tier.http("/configz"))["hash"]
        mx = manifests.documents["mx"]
        mx["spec"]["bindings"] = [{"port": manifests.mx}, {"port": port}]
        manifests.put("mx", mx)
        message = f"cannot listen on 127.0.0.1:{port}: Address already in use"
        wait_for(lambda: message in tier.output.read_text(), what="the report")
        assert json.loads(tier.http("/configz"))["hash"] == before
        assert send(tier, "alice@mail.example") == 250
        assert tier.stop() == 0
        state = str(tmp_path / "fresh")
        answer = tier.command("run", str(manifests.directory), "--state-dir", state, "--metrics-port", "0")
        assert answer.returncode == 1
        assert message in answer.stderr


def test_fewer_workers_deliver_what_the_others_had_queued(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    port = free_port()
    relay(manifests, port)
    tier = start_tier(manifests, workers=3)
    for number in range(15):
        assert send(tier, f"user{number}@far.example") == 250
    assert tier.stop() == 0
    with mail_sink(port=port) as sink:
        tier.workers = 1
        tier.start()
        wait_for(lambda: len(sink.recipients) == 15, what="every message")
        assert set(sink.recipients.values()) == {1}
        wait_for(lambda: tier.metric("postroad_queue_recipients") == 0, what="an empty queue")
        assert tier.stop() == 0
    assert {path.name for path in (tier.state_dir / "spool").glob("*.sqlite")} == {"worker-0.sqlite"}


def test_a_certificate_for_another_name_is_served_at_once_and_no_session_is_dropped(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    tier = start_tier(manifests)
    context = tier.tls_context()
    with tier.submit() as session:
        certificate = manifests.documents["cert"]
        certificate["spec"]["dnsNames"].append("new.mail.example")
        manifests.put("cert", certificate)

        def served() -> bool:
            try:
                raw = socket.create_connection(("127.0.0.1", manifests.smtps), timeout=10)
                with raw, context.wrap_socket(raw, server_hostname="new.mail.example"):
                    return True
            except OSError:
                return False

        wait_for(served, what="the new name")
        session.sendmail("alice@mail.example", ["alice@mail.example"], b"Subject: old session\r\n\r\nhello\r\n")


def test_a_tier_that_is_its_own_smart_host_stops_the_loop_and_tells_the_sender(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    relay(manifests, manifests.mx)
    spec = manifests.documents["mx"]["spec"]
    spec["limits"]["hopCount"] = 8
    spec["grants"][0]["permissions"].append("SMTP-Accept-Authoritative-Domain-Sender")
    manifests.put("mx", manifests.documents["mx"])
    tier = start_tier(manifests)
    with tier.submit() as client:
        client.sendmail("alice@mail.example", ["bob@far.example"], b"Subject: round\r\n\r\nhello\r\n")
    (notice,) = wait_for(tier.mailbox, what="the notice")
    assert b"5.4.6 Hop count exceeded" in notice
    assert tier.metric("postroad_messages_received_total", connector="mx") == 8


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 110 MB that can be filled."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=110m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_gives_452_and_mail_is_taken_again_when_there_is_room(
    manifests: Manifests, small_disk: Path, tmp_path: Path
) -> None:
    tier = Tier(manifests, small_disk / "state", workers=1)
    tier.output = tmp_path / "tier.out"
    tier.start()
    try:
        assert send(tier, "alice@mail.example", "before") == 250
        filling = small_disk / "filling"
        with filling.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(bytes(1 << 20)) == 1 << 20:
                    pass
            wait_for(lambda: send(tier, "alice@mail.example", "full") == 452, what="a refusal")
            assert tier.http("/healthz") == "ok\n"
        filling.unlink()
        wait_for(lambda: send(tier, "alice@mail.example", "after") == 250, what="room again")
        subjects = wait_for(
            lambda: (found := b"".join(tier.mailbox())).count(b"Subject:") >= 2 and found, what="both messages"
        )
        assert b"Subject: before" in subjects
        assert b"Subject: after" in subjects
        assert b"Subject: full" not in subjects
    finally:
        assert tier.stop() == 0


def test_no_secret_is_written_where_it_does_not_belong(manifests: Manifests, start_tier: Callable[..., Tier]) -> None:
    tier = start_tier(manifests)
    with tier.submit() as client:
        client.sendmail("alice@mail.example", ["alice@mail.example"], b"Subject: x\r\n\r\nhello\r\n")
    with pytest.raises(smtplib.SMTPAuthenticationError), tier.submit(password="not my password"):
        pass
    wait_for(lambda: any(event["event"] == "auth.failed" for event in tier.events()), what="the failed login")
    rendered = tier.command("render", str(manifests.directory))
    assert rendered.returncode == 0
    config_maps = "".join(part for part in rendered.stdout.split("\n---\n") if "kind: ConfigMap" in part)
    assert config_maps
    told = (
        tier.output.read_text() + (tier.state_dir / "events.jsonl").read_text() + json.dumps(tier.run) + config_maps
    )
    for secret in (PASSWORD, PASSWORD_HASH, "not my password", "AGFsaWNl", "PRIVATE KEY"):
        assert secret not in told
    open_files = [
        path.relative_to(tier.state_dir)
        for path in (tier.state_dir, *tier.state_dir.rglob("*"))
        if path.lstat().st_mode & 0o007 and path.name not in {"ca.pem", "run.json", "config", "served"}
    ]
    assert not open_files


def test_thousands_of_idle_connections_leave_room_for_one_that_works(
    manifests: Manifests, start_tier: Callable[..., Tier]
) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], min(4096, limits[1])), limits[1]))
    manifests.documents["mx"]["spec"]["limits"]["connectionsPerSource"] = 0
    manifests.put("mx", manifests.documents["mx"])
    tier = start_tier(manifests)

    def memory() -> int:
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in tier.pids())

    before = memory()
    idle = [socket.create_connection(("127.0.0.1", manifests.mx), timeout=20) for _ in range(2000)]
    try:
        assert {connection.recv(100)[:3] for connection in idle} == {b"220"}
        assert (memory() - before) / len(idle) < 32 * 1024
        started = time.monotonic()
        assert send(tier, "alice@mail.example") == 250
        assert time.monotonic() - started < 5
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
