"""The log of what clients can cause by the thousand."""

from __future__ import annotations

import json
import os

from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.sparing import SparingLog


def logged(tmp_path, *events: tuple[float, str]) -> list[dict]:
    file = tmp_path / "events.jsonl"
    log = EventLog(os.open(file, os.O_WRONLY | os.O_CREAT))
    sparing = SparingLog(most=2, period=60)
    for now, kind in events:
        sparing.emit(log, "tls.failed", kind=kind, now=now, at=now, reason=kind)
    log.flush()
    os.close(log._fd)
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_first_of_a_kind_are_logged_and_the_next_period_says_how_many_were_not(tmp_path):
    lines = logged(tmp_path, *((float(second), "a") for second in range(10)), (60.0, "a"), (61.0, "a"), (62.0, "a"))
    assert [(line["at"], line.get("left_out")) for line in lines] == [(0, None), (1, None), (60, 8), (61, None)]


def test_one_kind_does_not_crowd_out_another(tmp_path):
    lines = logged(tmp_path, *((float(second), "a") for second in range(10)), (10.0, "b"))
    assert [line["reason"] for line in lines] == ["a", "a", "b"]


def test_a_quiet_period_begins_anew(tmp_path):
    lines = logged(tmp_path, (0.0, "a"), (1000.0, "a"), (1001.0, "a"), (1002.0, "a"), (5000.0, "a"))
    assert [(line["at"], line.get("left_out")) for line in lines] == [
        (0, None),
        (1000, None),
        (1001, None),
        (5000, 1),
    ]
