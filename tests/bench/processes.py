"""Processes under measurement: a server's whole family, and the CPU time it has used."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> dict[int, float]:
    """Return the CPU seconds of a process and of each of its descendants, reaped children included, by pid."""
    used: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
        used[int(entry.name)] = sum(int(ticks) for ticks in fields[11:15]) / _TICK
    found: dict[int, float] = {}
    waiting = [pid]
    while waiting:
        member = waiting.pop()
        if member in used:
            found[member] = used[member]
            waiting += children.get(member, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process and all its descendants, dead or alive, have used."""
    return sum(family(pid).values())


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def greets(port: int) -> bool:
    """Say whether an SMTP server answers on `port`."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            greeted = connection.recv(1024).startswith(b"220")
            connection.sendall(b"QUIT\r\n")
            return greeted
    except OSError:
        return False


def wait_until(true: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Poll until `true`. Raises TimeoutError, naming `what`."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.02)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started, kindly at first."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
