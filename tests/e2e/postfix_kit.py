"""A private Postfix."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def postfix(directory: Path, settings: dict[str, str], *, port: int | None = None) -> Iterator[Path]:
    """Run a private Postfix from `directory`; yield its configuration directory."""
    config, queue, data = directory / "etc", directory / "queue", directory / "data"
    for folder in (config, queue, data):
        folder.mkdir(parents=True)
    directory.chmod(0o755)
    shutil.chown(data, "postfix")
    main = {
        "compatibility_level": "3.6",
        "queue_directory": str(queue),
        "data_directory": str(data),
        "command_directory": "/usr/sbin",
        "daemon_directory": "/usr/lib/postfix/sbin",
        "mail_owner": "postfix",
        "setgid_group": "postdrop",
        "myhostname": "postfix.example",
        "mydestination": "",
        "inet_interfaces": "127.0.0.1",
        "inet_protocols": "ipv4",
        "mynetworks": "127.0.0.0/8",
        "maillog_file": str(directory / "mail.log"),
        "maillog_file_prefixes": str(directory),
        "smtputf8_enable": "no",
        "alias_maps": "",
        **settings,
    }
    (config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
    services = [
        f"127.0.0.1:{port} inet n - n - - smtpd" if port else "",
        "pickup unix n - n 60 1 pickup",
        "cleanup unix n - n - 0 cleanup",
        "qmgr unix n - n 300 1 qmgr",
        "tlsmgr unix - - n 1000? 1 tlsmgr",
        "rewrite unix - - n - - trivial-rewrite",
        "proxymap unix - - n - - proxymap",
        "bounce unix - - n - 0 bounce",
        "defer unix - - n - 0 bounce",
        "trace unix - - n - 0 bounce",
        "smtp unix - - n - - smtp",
        "relay unix - - n - - smtp",
        "error unix - - n - - error",
        "discard unix - - n - - discard",
        "postlog unix-dgram n - n - 1 postlogd",
        "anvil unix - - n - 1 anvil",
        "scache unix - - n - 1 scache",
    ]
    (config / "master.cf").write_text("\n".join(filter(None, services)) + "\n")
    subprocess.run(["postfix", "-c", str(config), "start"], check=True, capture_output=True, timeout=60)
    try:
        yield config
    finally:
        subprocess.run(["postfix", "-c", str(config), "stop"], check=True, capture_output=True, timeout=60)
