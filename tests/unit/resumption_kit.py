"""``openssl s_client`` as a client that comes again."""

from __future__ import annotations

import subprocess
from pathlib import Path

VERSIONS = ("tls1_3", "tls1_2")


class ReturningClient:
    """Keeps the last session of one TLS version (``tls1_3``, ``tls1_2``) in `file`, and offers it from then on."""

    def __init__(self, file: Path, version: str, port: int, *, starttls: bool = False) -> None:
        self._file = file
        self._command = ["openssl", "s_client", f"-{version}", "-ign_eof"]
        self._command += ["-starttls", "smtp"] if starttls else []
        self._port = port

    def resumes(self, address: str = "127.0.0.1", *, port: int | None = None, keep: bool = True) -> bool:
        """Connect once; tell whether the session was resumed. Without `keep` the file is left as it is."""
        command = [*self._command, "-connect", f"{address}:{port or self._port}"]
        command += ["-sess_in", str(self._file)] if self._file.exists() else []
        command += ["-sess_out", str(self._file)] if keep else []
        done = subprocess.run(command, input=b"QUIT\r\n", capture_output=True, check=False, timeout=30)
        assert b"221 2.0.0" in done.stdout, done.stdout + done.stderr
        resumed = b"\nReused, TLSv1." in done.stdout
        assert resumed or b"\nNew, TLSv1." in done.stdout
        return resumed

    def resumed(self, times: int, address: str = "127.0.0.1", *, port: int | None = None, keep: bool = True) -> int:
        """Connect `times` times; return how many sessions were resumed."""
        return sum(self.resumes(address, port=port, keep=keep) for _ in range(times))
