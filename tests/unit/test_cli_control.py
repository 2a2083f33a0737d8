"""How commands find the tier that they ask: by its run.json, or in a transport pod by the state directory alone."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from click.testing import CliRunner

from postroad_operator.cli import main
from postroad_operator.cli.control import NoTierError, control_socket, default_state_dir


class EmptyQueue(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"[]" if self.path.startswith("/queue") else b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state directory of a transport pod that runs: it has a control socket, and no run.json."""
    monkeypatch.chdir(tmp_path)
    state = tmp_path / "s"
    (state / "run").mkdir(parents=True)
    with socketserver.UnixStreamServer(str(state / "run/control.sock"), EmptyQueue) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def test_a_command_in_a_pod_finds_the_tier_by_the_variable_of_the_image(
    pod: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = CliRunner().invoke(main, ["queue", "list"])
    assert missing.exit_code == 2
    assert "no tier runs with the state directory .postroad" in missing.stderr
    monkeypatch.setenv("POSTROAD_STATE_DIR", str(pod))
    found = CliRunner().invoke(main, ["queue", "list"])
    assert (found.exit_code, found.stdout) == (0, "The queue is empty.\n")


def test_a_command_finds_a_pod_by_its_state_directory(pod: Path) -> None:
    found = CliRunner().invoke(main, ["queue", "--state-dir", str(pod), "list"])
    assert (found.exit_code, found.stdout) == (0, "The queue is empty.\n")


def test_what_run_json_says_comes_first(pod: Path) -> None:
    (pod / "run.json").write_text(json.dumps({"control": "/elsewhere"}))
    assert control_socket(pod) == "/elsewhere"


def test_where_nothing_runs_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoTierError, match="no tier runs with the state directory"):
        control_socket(tmp_path)


def test_the_image_sets_the_variable_to_where_the_chart_keeps_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    [setting] = [
        word
        for line in (root / "Dockerfile").read_text().splitlines()
        for word in line.split()
        if word.startswith("POSTROAD_STATE_DIR=")
    ]
    directory = setting.partition("=")[2]
    assert f"- --state-dir={directory}\n" in (root / "charts/postroad/templates/transport.yaml").read_text()
    monkeypatch.setenv("POSTROAD_STATE_DIR", directory)
    assert default_state_dir() == Path(directory)
