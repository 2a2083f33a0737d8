"""The servers that are compared: each accepts only, or relays to a sink."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.bench.processes import cpu_seconds, family, free_port, greets, stop, wait_until

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class Server(Protocol):
    """A server under measurement."""

    name: str
    port: int

    def start(self) -> None: ...
    def cpu(self) -> float:
        """CPU seconds used so far, by all its processes."""

    def reset(self) -> None:
        """Forget the messages of the last run, outside what is timed."""

    def stop(self) -> None: ...


class Sink:
    """smtp-sink, which counts what arrives."""

    def __init__(self) -> None:
        self.port = free_port()
        self._said = b""

    def start(self) -> None:
        user = ["-u", "postfix"] if os.geteuid() == 0 else []
        command = ["/usr/sbin/smtp-sink", *user, "-c", f"127.0.0.1:{self.port}", "1024"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        wait_until(lambda: greets(self.port), "smtp-sink")

    def messages(self) -> int:
        """Return the number of messages that have arrived."""
        assert self._process.stdout is not None
        while data := self._process.stdout.read(1 << 20):
            self._said = (self._said + data)[-200:]
        counts: list[bytes] = re.findall(rb"mesg=(\d+)", self._said)
        return int(counts[-1]) if counts else 0

    def stop(self) -> None:
        stop(self._process)


@dataclass
class Postfix:
    """A Postfix instance of its own: Debian's settings, or tuned and without a log.

    To accept only, it holds every message: that is the least work after the queue file is durable.
    """

    directory: Path
    relay_to: int | None
    tuned: bool = False
    port: int = field(default_factory=free_port)
    more: dict[str, object] = field(default_factory=dict)
    """Further settings."""

    @property
    def name(self) -> str:
        return "postfix tuned" if self.tuned else "postfix"

    def start(self) -> None:
        config = self.directory / "etc"
        for folder in (config, self.directory / "queue", self.directory / "data", self.directory / "log"):
            folder.mkdir(parents=True)
        self.directory.chmod(0o755)
        shutil.chown(self.directory / "data", "postfix")
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": self.directory / "queue",
            "data_directory": self.directory / "data",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "command_directory": "/usr/sbin",
            "myhostname": "postfix.bench.example",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "message_size_limit": 64 * 1024 * 1024,
            "alias_maps": "",
            "biff": "no",
        }
        if self.relay_to is None:
            settings["smtpd_client_restrictions"] = "check_client_access static:HOLD"
        else:
            settings["relayhost"] = f"[127.0.0.1]:{self.relay_to}"
        if self.tuned:
            settings |= {
                "default_process_limit": 200,
                "max_use": 10_000,
                "in_flow_delay": 0,
                "smtpd_client_connection_count_limit": 0,
                "smtpd_client_connection_rate_limit": 0,
                "smtpd_peername_lookup": "no",
                "disable_dns_lookups": "yes",
                "smtp_connection_cache_destinations": f"127.0.0.1, [127.0.0.1]:{self.relay_to}",
                "default_destination_concurrency_limit": 50,
                "initial_destination_concurrency": 50,
            }
        else:
            settings |= {
                "maillog_file": self.directory / "log" / "maillog",
                "maillog_file_prefixes": self.directory / "log",
            }
        settings |= self.more
        (config / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        master = (HERE / "postfix-master.cf").read_text()
        (config / "master.cf").write_text(master.replace("@PORT@", str(self.port)))
        self._command("postfix", "start")
        wait_until(lambda: greets(self.port), self.name)

    def cpu(self) -> float:
        return cpu_seconds(int((self.directory / "queue" / "pid" / "master.pid").read_text()))

    def reset(self) -> None:
        self._command("postsuper", "-d", "ALL")

    def stop(self) -> None:
        self._command("postfix", "stop")

    def _command(self, program: str, *arguments: str) -> None:
        command = [f"/usr/sbin/{program}", "-c", str(self.directory / "etc"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")


@dataclass
class Floor:
    """The bare protocol of `tests.bench.floor`, which only accepts."""

    directory: Path
    name: str = "floor"
    port: int = field(default_factory=free_port)

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.bench.floor", "--port", str(self.port)]
        self._process = subprocess.Popen([*command, "--directory", str(self.directory)], cwd=ROOT)
        wait_until(lambda: greets(self.port), self.name)

    def cpu(self) -> float:
        return cpu_seconds(self._process.pid)

    def reset(self) -> None:
        pass

    def stop(self) -> None:
        stop(self._process)


@dataclass
class Postroad:
    """The tier, as ``postroad run`` starts it. To accept only, its send connector is suspended: messages wait."""

    directory: Path
    relay_to: int | None
    command: str = f"{Path(sys.executable).parent}/postroad"
    name: str = "postroad"
    port: int = field(default_factory=free_port)
    more: str = ""
    """Further manifests."""

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers."""
        return [pid for pid in family(self._process.pid) if pid != self._process.pid]

    def start(self) -> None:
        manifests = self.directory / "manifests"
        manifests.mkdir(parents=True)
        template = HERE / ("postroad-accept.yaml" if self.relay_to is None else "postroad-relay.yaml")
        text = (
            (template.read_text() + self.more).replace("@PORT@", str(self.port)).replace("@SINK@", str(self.relay_to))
        )
        (manifests / "tier.yaml").write_text(text)
        state = self.directory / "state"
        self._log = (self.directory / "log").open("wb")
        self._process = subprocess.Popen(
            [*self.command.split(), "run", str(manifests), "--state-dir", str(state), "--metrics-port", "0"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        wait_until(self._is_up, f"{self.name} (see {self.directory / 'log'})", 60)
        running = json.loads((state / "run.json").read_text())
        self.port = next(listener["port"] for listener in running["listeners"] if listener["port"] == self.port)

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended:\n{(self.directory / 'log').read_text()[-4000:]}")
        return (self.directory / "state" / "run.json").exists() and greets(self.port)

    def cpu(self) -> float:
        return cpu_seconds(self._process.pid)

    def reset(self) -> None:
        command = [*self.command.split(), "queue", "--state-dir", str(self.directory / "state"), "delete", "--all"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        stop(self._process)
        self._log.close()
