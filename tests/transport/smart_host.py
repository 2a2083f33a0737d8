"""A smart host as providers run it: Dovecot's submission server with its own users, certificate and mechanisms."""

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
from collections.abc import Iterator
from pathlib import Path

import pytest

USER, PASSWORD = "relay@example.test", "correct horse ü"

needs_smart_host = pytest.mark.skipif(
    shutil.which("dovecot") is None or not Path("/usr/lib/dovecot/submission").exists() or os.geteuid() != 0,
    reason="needs Debian's dovecot-submissiond, and root to start it",
)


@contextlib.contextmanager
def running_smart_host(
    relay_port: int, *, mechanisms: str = "plain login", certificate: bytes = b"", key: bytes = b""
) -> Iterator[int]:
    """Serve on a port of loopback, and hand what comes in to `relay_port`.

    Parameters
    ----------
    mechanisms
        As ``auth_mechanisms`` of Dovecot.
    certificate, key
        PEM; empty: no STARTTLS is offered and passwords are taken in clear.
    """
    home = Path(tempfile.mkdtemp(prefix="postroad-smarthost-"))
    home.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (home / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}:65534:65534::{home}::\n")
    (home / "tls.crt").write_bytes(certificate)
    (home / "tls.key").write_bytes(key)
    tls = f"ssl = required\nssl_cert = <{home}/tls.crt\nssl_key = <{home}/tls.key" if certificate else "ssl = no"
    (home / "dovecot.conf").write_text(
        f"""
protocols = submission
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/log
{tls}
disable_plaintext_auth = {"yes" if certificate else "no"}
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
hostname = smarthost.example
mail_location = maildir:{home}/Maildir
submission_relay_host = 127.0.0.1
submission_relay_port = {relay_port}
submission_relay_trusted = no
userdb {{
  driver = passwd-file
  args = {home}/users
}}
passdb {{
  driver = passwd-file
  args = {home}/users
}}
service submission-login {{
  inet_listener submission {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"""
    )
    process = subprocess.Popen(
        ["dovecot", "-F", "-c", str(home / "dovecot.conf")], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError, smtplib.SMTPException), smtplib.SMTP("127.0.0.1", port, timeout=5):
                break
            if process.poll() is not None:
                assert process.stderr is not None
                raise AssertionError(process.stderr.read().decode())
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        shutil.rmtree(home)
