"""Dovecot as a peer: one protocol on a free port of loopback, one user, everything in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import smtplib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True)
class Dovecot:
    """A server that runs. ``maildir`` is its user's."""

    port: int
    maildir: Path


def missing(protocol: str) -> str:
    """Say what keeps Dovecot from serving ``lmtp`` or ``submission``; empty: nothing does."""
    if shutil.which("dovecot") and Path("/usr/lib/dovecot", protocol).exists() and os.geteuid() == 0:
        return ""
    return f"needs Debian's dovecot-{protocol}d, and root to start it"


@contextlib.contextmanager
def running_dovecot(
    protocol: str,
    user: str,
    password: str = "",
    *,
    settings: str = "ssl = no",
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Iterator[Dovecot]:
    """Serve `protocol`, which is ``lmtp`` or ``submission``; ``{home}`` in `settings` is where `files` lie."""
    home = Path(tempfile.mkdtemp(prefix="postroad-dovecot-"))
    home.chmod(0o755)
    mail = home / "mail"
    mail.mkdir()
    shutil.chown(mail, "nobody", "nogroup")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, content in files.items():
        (home / name).write_bytes(content)
    credentials = f"{{PLAIN}}{password}" if password else ""
    (home / "users").write_text(f"{user}:{credentials}:65534:65534::{mail}::\n")
    service, client = ("lmtp", smtplib.LMTP) if protocol == "lmtp" else ("submission-login", smtplib.SMTP)
    (home / "dovecot.conf").write_text(
        f"""
protocols = {protocol}
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/log
mail_location = maildir:{mail}/Maildir
userdb {{
  driver = passwd-file
  args = {home}/users
}}
passdb {{
  driver = passwd-file
  args = {home}/users
}}
service {service} {{
  inet_listener {protocol} {{
    address = 127.0.0.1
    port = {port}
  }}
}}
{settings.replace("{home}", str(home))}
"""
    )
    process = subprocess.Popen(
        ["dovecot", "-F", "-c", str(home / "dovecot.conf")], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError, smtplib.SMTPException), client("127.0.0.1", port, timeout=5):
                break
            if process.poll() is not None:
                assert process.stderr is not None
                raise AssertionError(process.stderr.read().decode())
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.05)
        yield Dovecot(port, mail / "Maildir")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        shutil.rmtree(home)
