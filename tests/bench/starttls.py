"""The STARTTLS load: a small C client, since smtp-source speaks no TLS, and other clients cost more than the servers.

Needs Debian's ``gcc``, ``libssl-dev`` and ``openssl``.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent


class StarttlsSource:
    """``starttls_source.c``, compiled into `directory`."""

    def __init__(self, directory: Path) -> None:
        self._program = directory / "starttls-source"
        command = ["gcc", "-O2", "-o", str(self._program), str(HERE / "starttls_source.c"), "-lssl", "-lcrypto"]
        subprocess.run(command, check=True)

    def send(self, port: int, sessions: int, messages: int, size: int, *, resume: bool) -> int:
        """Send `messages`, one a connection; return how many sessions were resumed.

        Raises RuntimeError when a message is refused.
        """
        numbers = [str(sessions), str(messages), str(size)]
        command = [str(self._program), *numbers, "resumed" if resume else "full", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"starttls-source: {done.stderr.strip()}")
        return int(done.stdout)


def postfix_settings(directory: Path) -> dict[str, object]:
    """Make a self-signed P-256 certificate in `directory`; return what has Postfix offer STARTTLS with it."""
    directory.mkdir(parents=True, exist_ok=True)
    key, chain = directory / "key.pem", directory / "chain.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench.example"
    subprocess.run([*make.split(), "-keyout", str(key), "-out", str(chain)], check=True, capture_output=True)
    return {"smtpd_tls_security_level": "may", "smtpd_tls_cert_file": chain, "smtpd_tls_key_file": key}
