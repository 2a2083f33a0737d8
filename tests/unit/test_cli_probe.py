"""``postroad probe`` against a server that answers as told, and metrics that move."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from click.testing import CliRunner, Result

import postroad_operator.cli.probe
from postroad_operator.cli.probe import deliveries, probe


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Tier:
    """A mail server with a ``/metrics`` page; ``result`` is what becomes of each message."""

    def __init__(self) -> None:
        self.result = "delivered"
        self.refusal = ""
        self.messages: list[Any] = []
        self.counts = {"delivered": 3, "failed": 1, "deferred": 7}
        tier = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                lines = [
                    f'postroad_deliveries_total{{connector="c",result="{result}"}} {count}'
                    for result, count in tier.counts.items()
                ]
                self.send_response(200)
                self.end_headers()
                self.wfile.write(("# TYPE postroad_deliveries_total counter\n" + "\n".join(lines) + "\n").encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.smtp = Controller(self, hostname="127.0.0.1", port=free_port())

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refusal:
            return self.refusal
        self.messages.append(envelope)
        self.counts[self.result] = self.counts.get(self.result, 0) + 1
        return "250 2.0.0 queued as 1M82"


@pytest.fixture
def tier() -> Iterator[Tier]:
    tier = Tier()
    tier.smtp.start()
    yield tier
    tier.smtp.stop()
    tier.http.shutdown()
    tier.http.server_close()


def run(tier: Tier, *options: str) -> Result:
    server = f"127.0.0.1:{tier.smtp.server.sockets[0].getsockname()[1]}"
    metrics = f"127.0.0.1:{tier.http.server_address[1]}"
    return CliRunner().invoke(probe, [server, "--to", "a@b.example", "--metrics", metrics, *options])


def test_a_delivered_message_is_a_success_and_its_id_is_shown(tier: Tier) -> None:
    result = run(tier)
    assert (result.exit_code, result.output) == (0, "accepted: 250 2.0.0 queued as 1M82\ndelivered\n")
    (envelope,) = tier.messages
    assert (envelope.mail_from, envelope.rcpt_tos) == ("<>", ["a@b.example"])
    assert b"Auto-Submitted: auto-generated" in envelope.original_content
    # A strict server takes nothing but CRLF.
    assert envelope.original_content.count(b"\n") == envelope.original_content.count(b"\r\n")


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("failed", "delivery failed"),
        ("expired", "delivery failed"),
        ("deferred", "it was deferred"),
        ("lost", "not delivered in time"),
    ],
)
def test_what_is_not_delivered_is_a_failure_that_says_why(tier: Tier, outcome: str, said: str) -> None:
    tier.result = outcome
    result = run(tier, "--timeout", "0.1")
    assert result.exit_code == 1
    assert said in result.output


def test_a_refused_message_shows_the_reply(tier: Tier) -> None:
    tier.refusal = "554 5.6.0 no"
    result = run(tier)
    assert result.exit_code == 1
    assert "not accepted: 554 5.6.0 no" in result.output


def test_a_server_that_is_not_there_is_said_so() -> None:
    result = CliRunner().invoke(probe, ["127.0.0.1:1", "--to", "a@b.example"])
    assert result.exit_code == 1
    assert "not accepted" in result.output


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.now = 0.0
        self.then = then

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then()


def test_a_server_that_begins_to_answer_while_it_is_waited_for_gets_the_message(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Controller(tier, hostname="127.0.0.1", port=free_port())
    clock = Clock(late.start)
    monkeypatch.setattr(postroad_operator.cli.probe, "time", clock)
    result = CliRunner().invoke(probe, [f"127.0.0.1:{late.port}", "--to", "a@b.example", "--wait", "10"])
    late.stop()
    assert (result.exit_code, len(tier.messages)) == (0, 1)
    assert 0 < clock.now < 10


def test_a_server_that_never_answers_is_waited_for_no_longer_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(postroad_operator.cli.probe, "time", clock)
    result = CliRunner().invoke(probe, ["127.0.0.1:1", "--to", "a@b.example", "--wait", "10"])
    assert result.exit_code == 1
    assert 10 <= clock.now < 11


@pytest.mark.parametrize("server", ["nowhere", "host:", ":25", "host:0", "host:65536"])
def test_a_server_without_a_port_is_a_usage_error(server: str) -> None:
    result = CliRunner().invoke(probe, [server, "--to", "a@b.example"])
    assert result.exit_code == 2
    assert "HOST:PORT" in result.output


def test_counts_of_all_connectors_are_added() -> None:
    text = (
        "# TYPE postroad_deliveries_total counter\n"
        'postroad_deliveries_total{connector="a",result="delivered"} 2.0\n'
        'postroad_deliveries_total{connector="b",result="delivered"} 3.0\n'
        'postroad_deliveries_created{connector="a",result="delivered"} 1.7e9\n'
        "# TYPE postroad_sessions_total counter\n"
        'postroad_sessions_total{connector="a"} 9.0\n'
    )
    assert deliveries(text) == {"delivered": 5}
