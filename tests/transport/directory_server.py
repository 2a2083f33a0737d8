"""A real OpenLDAP (slapd) for a test module: StartTLS and LDAPS on free ports, a few people in it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SLAPD = shutil.which("slapd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/libexec")
SCHEMA = Path("/etc/ldap/schema")
BASE = "dc=example,dc=com"
SEARCHER = f"cn=postroad,ou=services,{BASE}"
SEARCHER_PASSWORD = "search secret"

ENTRIES = f"""\
dn: {BASE}
objectClass: domain
dc: example

dn: ou=services,{BASE}
objectClass: organizationalUnit
ou: services

dn: ou=people,{BASE}
objectClass: organizationalUnit
ou: people

dn: {SEARCHER}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: postroad
userPassword: {SEARCHER_PASSWORD}

dn: uid=alice,ou=people,{BASE}
objectClass: inetOrgPerson
objectClass: mailPerson
uid: alice
cn: Alice
sn: Alice
mail: Alice@Example.com
proxyAddresses: SMTP:alice@example.com
proxyAddresses: smtp:sales@example.com
proxyAddresses: x500:/o=Example/cn=alice
proxyAddresses: smtp:*@example.com
userPassword: pencil

dn: cn=Bob \\28the builder\\29\\, Jr\\2e,ou=people,{BASE}
objectClass: inetOrgPerson
uid: bob(*)\\
cn: Bob (the builder), Jr.
sn: Bob
mail: bob@example.com
userPassword: b\u00e4r

dn: uid=twin1,ou=people,{BASE}
objectClass: inetOrgPerson
uid: twin1
cn: Twin
sn: Twin
mail: twins@example.com
userPassword: pencil

dn: uid=twin2,ou=people,{BASE}
objectClass: inetOrgPerson
uid: twin2
cn: Twin
sn: Twin
mail: twins@example.com
userPassword: pencil

dn: uid=nopass,ou=people,{BASE}
objectClass: inetOrgPerson
uid: nopass
cn: Without
sn: Without
mail: nopass@example.com
"""

MAIL_SCHEMA = """\
attributetype ( 1.2.840.113556.1.2.210 NAME 'proxyAddresses'
  EQUALITY caseIgnoreMatch SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.3.6.1.4.1.4203.666.11.1 NAME 'mailPerson' SUP top AUXILIARY MAY proxyAddresses )
"""


def missing() -> str:
    """Say what is not installed, empty where nothing is."""
    if SLAPD is None or not SCHEMA.is_dir():
        return "slapd is not installed (Debian: slapd): LDAP is not tested against a real directory"
    return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Directory:
    """slapd as a process, in the foreground."""

    root: Path
    chain: Path
    key: Path
    starttls_port: int = 0
    ldaps_port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> Directory:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "data").mkdir()
        (self.root / "mail.schema").write_text(MAIL_SCHEMA)
        (self.root / "slapd.conf").write_text(
            f"""\
include {SCHEMA}/core.schema
include {SCHEMA}/cosine.schema
include {SCHEMA}/inetorgperson.schema
include {self.root}/mail.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {self.root}/slapd.pid
TLSCertificateFile {self.chain}
TLSCertificateKeyFile {self.key}
# Nothing but StartTLS in clear, so that a bind in clear is seen to fail.
security tls=1 simple_bind=128
database mdb
suffix {BASE}
directory {self.root}/data
maxsize 10485760
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{SEARCHER}" read by anonymous auth by * none
"""
        )
        (self.root / "entries.ldif").write_text(ENTRIES, "utf-8")
        self.starttls_port, self.ldaps_port = free_port(), free_port()
        slapadd = [SLAPD, "-T", "add", "-f", f"{self.root}/slapd.conf", "-l", f"{self.root}/entries.ldif"]
        subprocess.run(slapadd, check=True, capture_output=True, timeout=30)
        return self

    def start(self) -> Directory:
        urls = f"ldap://127.0.0.1:{self.starttls_port}/ ldaps://127.0.0.1:{self.ldaps_port}/"
        self.process = subprocess.Popen(
            [SLAPD, "-d", "0", "-h", urls, "-f", f"{self.root}/slapd.conf"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        for port in (self.starttls_port, self.ldaps_port):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert self.process.poll() is None, "slapd ended"
                    assert time.monotonic() < deadline, "slapd does not listen"
                    time.sleep(0.05)
        return self

    def pause(self) -> None:
        """Let it hang: it keeps its connections and takes new ones, and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None:
            self.resume()
            self.process.terminate()
            self.process.wait(20)
            self.process = None
