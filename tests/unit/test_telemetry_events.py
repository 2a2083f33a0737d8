"""What reaches the event log."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from postroad_transport.telemetry.events import EventLog, Routed


def test_an_event_that_cannot_be_encoded_takes_no_other_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "events"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:
        events = EventLog(fd, worker=1)
        for recipient in ("a@example.com", "\ud800@example.com", "b@example.com"):
            events.step(Routed(id="m", recipients=[recipient], connector="out", destination="dns:example.com"))
        events.emit("worker.drained")
        events.flush()
    finally:
        os.close(fd)
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event.get("recipients") for event in written] == [["a@example.com"], ["b@example.com"], None]
    assert "cannot be encoded" in caplog.text
