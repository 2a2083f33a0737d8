"""The quick start as its reader meets it: what `make run` starts, what it prints, and that it works as printed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from running_tier import wait_for

REPOSITORY = Path(__file__).parents[2]
PORTS = (2525, 2587, 2465, 9925)
ALICE = "maildir/mail.example/alice/new"


def taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


@dataclass
class QuickStart:
    """A running quick start: where it runs, and what it printed up to its last line."""

    directory: Path
    printed: str

    @property
    def lines(self) -> list[str]:
        block = self.printed.partition("Try it (any of these, as printed)\n")[2]
        return block.partition("\n\n")[0].splitlines()

    def messages(self) -> list[Path]:
        return list((self.directory / ".postroad" / ALICE).glob("*"))


@pytest.fixture(scope="module")
def quick_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickStart]:
    """Start `postroad run examples/quickstart` with its own ports and its default state directory."""
    if busy := [port for port in PORTS if taken(port)]:
        pytest.skip(f"the quick start's ports {busy} are in use on this machine")
    directory = tmp_path_factory.mktemp("quickstart")
    output = directory / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "postroad_operator.cli", "run", str(REPOSITORY / "examples/quickstart"),
             "--hostname", "hub1.mail.example"],
            cwd=directory, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
    try:

        def announced() -> str:
            assert process.poll() is None, output.read_text()
            text = output.read_text()
            return text if "Ctrl-C drains and stops." in text else ""

        yield QuickStart(directory, wait_for(announced, timeout=30, what="the announcement"))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, output.read_text()


@pytest.mark.parametrize("program", ["swaks", "curl", "python3"])
def test_each_printed_line_works_as_it_stands(quick_start: QuickStart, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    (line,) = [line for line in quick_start.lines if re.search(rf"(^|\| ){program} ", line)]
    before = set(quick_start.messages())
    ran = subprocess.run(
        ["/bin/sh", "-c", line], cwd=quick_start.directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (path,) = wait_for(lambda: set(quick_start.messages()) - before, what=f"the message that {program} sent")
    stored = path.read_text()
    assert "with ESMTPSA id" in stored
    assert re.search(r"^Date: ", stored, re.MULTILINE)


@pytest.mark.parametrize("heading", ["Receiving", "Delivering", "Accounts", "CA ", "Metrics", "Events", "Try it"])
def test_the_readme_shows_what_is_printed(quick_start: QuickStart, heading: str) -> None:
    def block(text: str) -> list[str]:
        found = re.search(rf"^{heading}.*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
        assert found is not None
        lines = [line.rstrip() for line in found[0].splitlines()]
        return [line for line in lines if not line.startswith("Queue")]

    readme = (REPOSITORY / "README.md").read_text()
    assert block(quick_start.printed) == block(readme)
