"""From resources to a tier in the test's own loop: parsed, compiled and served as ``postroad run`` does."""

from __future__ import annotations

import base64
import socket
from pathlib import Path
from typing import Any

from postroad_operator.compile import Compilation, Snapshot, TierSettings, compile_tier
from postroad_operator.resources import Ignored, Invalid, Resource, parse
from postroad_operator.resources.scalars import ascii_domain
from postroad_transport.config.files import SECRETS_DIRECTORY

PASSWORD = "correct horse"
HASH = "$2b$04$6tcdIZE7k749KmKiOBbvte9T9.5OZozpns/zfPBFWJb9XKjWlj.I."


def resource(kind: str, name: str, spec: dict[str, Any]) -> Resource:
    return read({"apiVersion": "postroad.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})


def users(*lines: str) -> Resource:
    """The Secret ``users``; each line is ``name`` or ``name:addresses``, the password is PASSWORD."""
    htpasswd = "".join(
        f"{name}:{HASH}:{addresses}\n" for name, _, addresses in (line.partition(":") for line in lines)
    )
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "users"}}
    return read(secret | {"stringData": {"htpasswd": htpasswd}})


def read(document: dict[str, Any]) -> Resource:
    parsed = parse(document)
    assert not isinstance(parsed, Ignored | Invalid), parsed
    return parsed


ACCOUNTS = {"htpasswdSecretRef": {"name": "users", "key": "htpasswd"}}
LIMITS = {"errors": 0, "tarpit": "0s"}


def connector(name: str, port: int, **spec: Any) -> Resource:
    """A receive connector with no limits that would get in a test's way."""
    limits = LIMITS | spec.pop("limits", {})
    return resource("ReceiveConnector", name, {"bindings": [{"port": port}], "limits": limits} | spec)


def domain(name: str, **spec: Any) -> Resource:
    if "aliasOf" not in spec:
        spec = {"deliver": {"lmtp": {"host": "mailboxes.example"}}} | spec
    return resource("AcceptedDomain", ascii_domain(name).replace(".", "-"), {"domain": name} | spec)


def compiled(*objects: Resource, **fields: Any) -> Compilation:
    """Compile `objects`; ``certificates`` goes to the snapshot, the rest to the tier's settings."""
    certificates = fields.pop("certificates", {})
    settings = TierSettings(**{"hostname": "mail.example.com", **fields})
    return compile_tier(Snapshot(settings, objects, certificates))


def secrets(directory: Path, compilation: Compilation) -> None:
    """Put the secret files where :func:`prepare` reads them."""
    folder = directory / SECRETS_DIRECTORY
    folder.mkdir(exist_ok=True)
    for name, content in compilation.secret_files.items():
        (folder / name).write_bytes(content)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def auth_plain(name: str, password: str = PASSWORD) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{name}\0{password}".encode()).decode()
