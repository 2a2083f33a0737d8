"""A Kerberos realm on loopback, from Debian's krb5-kdc: made, served and gone with the test that needs it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_NEEDED = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")


def missing() -> str:
    """Say what keeps a realm from being made; empty: nothing does."""
    absent = [tool for tool in _NEEDED if shutil.which(tool, path=_PATH) is None]
    if absent:
        return f"no {', '.join(absent)}: install krb5-kdc, krb5-admin-server and krb5-user"
    try:
        import gssapi  # noqa: F401 (is it there?)
    except (ImportError, OSError) as error:
        return f"the extra kerberos is not installed: {error}"
    return ""


needs_kdc = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


@dataclass
class Realm:
    """A realm and its running KDC. ``environment`` makes every Kerberos tool and library use it."""

    name: str
    directory: Path
    environment: dict[str, str]

    def run(self, *command: str, given: str | None = None) -> str:
        done = subprocess.run(
            command, env=self.environment, input=given, capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def add(self, principal: str, password: str | None = None, *options: str) -> None:
        key = ("-pw", password) if password else ("-randkey",)
        self.run("kadmin.local", "-r", self.name, "add_principal", *key, *options, principal)

    def keytab(self, *principals: str, name: str = "service.keytab", norandkey: bool = True) -> Path:
        """Extract the keys of `principals`."""
        path = self.directory / name
        options = ("-norandkey",) if norandkey else ()
        self.run("kadmin.local", "-r", self.name, "ktadd", "-q", "-k", str(path), *options, *principals)
        return path

    def log_in(self, principal: str, password: str, *options: str) -> Path:
        """Get a ticket-granting ticket; return the credentials cache."""
        cache = self.directory / f"{principal.replace('/', '_')}.ccache"
        self.run("kinit", "-c", str(cache), *options, f"{principal}@{self.name}", given=f"{password}\n")
        return cache

    @contextlib.contextmanager
    def in_process(self) -> Iterator[None]:
        """Make this process' own library use the realm."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KRB5_CONFIG", self.environment["KRB5_CONFIG"])
            yield


class Client:
    """The client's side of RFC 4752, on MIT Kerberos; `service` is a principal without its realm."""

    def __init__(self, cache: Path, service: str, realm: str, *, mutual: bool = True) -> None:
        import gssapi

        name = gssapi.Name(f"{service}@{realm}", gssapi.NameType.kerberos_principal)
        flags = gssapi.RequirementFlag.integrity
        if mutual:
            flags |= gssapi.RequirementFlag.mutual_authentication
        credentials = gssapi.Credentials(usage="initiate", store={"ccache": str(cache)})
        self.context = gssapi.SecurityContext(
            name=name, creds=credentials, flags=flags, mech=gssapi.MechType.kerberos, usage="initiate"
        )

    def answer(self, challenge: bytes, choice: bytes = b"\x01\x00\x00\x00") -> bytes:
        """Return the response to `challenge`, with which it may come to the `choice` of a layer and an identity."""
        if not self.context.complete:
            return self.context.step(challenge or None) or b""
        assert self.context.unwrap(challenge).message == b"\x01\x00\x00\x00"
        wrapped: bytes = self.context.wrap(choice, False).message
        return wrapped


@contextlib.contextmanager
def running_realm(directory: Path, name: str = "EXAMPLE.TEST") -> Iterator[Realm]:
    """Make a realm and serve it on a free port."""
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (directory / "krb5.conf").write_text(
        f"""[libdefaults]
 default_realm = {name}
 dns_lookup_kdc = false
 dns_lookup_realm = false
 dns_canonicalize_hostname = false
 rdns = false
 udp_preference_limit = 1
[realms]
 {name} = {{
  kdc = 127.0.0.1:{port}
 }}
[domain_realm]
 .test = {name}
 localhost = {name}
"""
    )
    (directory / "kdc.conf").write_text(
        f"""[realms]
 {name} = {{
  database_name = {directory}/principal
  key_stash_file = {directory}/stash
  acl_file = {directory}/acl
  kdc_listen = 127.0.0.1:{port}
  kdc_tcp_listen = 127.0.0.1:{port}
  supported_enctypes = aes256-cts:normal aes128-cts:normal
 }}
[logging]
 kdc = FILE:{directory}/kdc.log
"""
    )
    environment = {
        **os.environ,
        "PATH": _PATH,
        "KRB5_CONFIG": str(directory / "krb5.conf"),
        "KRB5_KDC_PROFILE": str(directory / "kdc.conf"),
        "KRB5RCACHENAME": f"dfl:{directory}",
    }
    realm = Realm(name, directory, environment)
    realm.run("kdb5_util", "create", "-r", name, "-s", "-P", "master")
    server = subprocess.Popen(
        ["krb5kdc", "-n", "-r", name],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert server.poll() is None, "krb5kdc ended"
            assert time.monotonic() < deadline, "krb5kdc does not answer"
            time.sleep(0.02)
        yield realm
    finally:
        server.terminate()
        server.wait(10)
