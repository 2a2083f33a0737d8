"""Short ways to write resources and to compile them."""

from __future__ import annotations

from typing import Any

from resource_cases import document

from postroad_operator.compile import Compilation, Reason, Snapshot, TierSettings, Verdict, compile_tier
from postroad_operator.resources import Ignored, Invalid, Resource, parse

HASH = "$argon2id$v=19$m=19456,t=2,p=1$6DkPwTT64gWjeFvz3b2RpA$fXmrVN99t2hUHamxkW3vkI4Urut3rU3O5qCg3sQniT0"


def resource(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> Resource | Invalid:
    return read(document(kind, spec, name=name, **metadata))


def read(document: dict[str, Any]) -> Resource | Invalid:
    parsed = parse(document)
    assert not isinstance(parsed, Ignored)
    return parsed


def rconn(name: str = "r", created: str = "", **spec: Any) -> Resource | Invalid:
    spec = {"bindings": [{"port": 25}], "permissionGroups": ["AnonymousUsers"]} | spec
    return resource("ReceiveConnector", name, spec, creationTimestamp=created)


def sconn(name: str = "s", domain: str = "*", **spec: Any) -> Resource | Invalid:
    if not {"dns", "smartHosts", "lmtp", "drop"} & set(spec):
        spec = {"dns": {}} | spec
    return resource("SendConnector", name, {"addressSpaces": [{"domain": domain}]} | spec)


def adom(domain: str, created: str = "", name: str = "", **spec: Any) -> Resource | Invalid:
    if not {"deliver", "aliasOf", "type"} & set(spec):
        spec = {"deliver": {"maildir": {"path": "m/{local}"}}} | spec
    return resource(
        "AcceptedDomain", name or domain.replace(".", "-"), {"domain": domain} | spec, creationTimestamp=created
    )


def tcert(name: str = "c", **spec: Any) -> Resource | Invalid:
    if not {"secretRef", "selfSigned"} & set(spec):
        spec = {"ca": {}, "dnsNames": ["mx.example"]} | spec
    return resource("TransportCertificate", name, spec)


def secret(name: str, **values: str) -> Resource | Invalid:
    return read({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values})


def config_map(name: str, **values: str) -> Resource | Invalid:
    return read({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": values})


def compiled(*objects: Resource | Invalid, settings: TierSettings | None = None, **snapshot: Any) -> Compilation:
    return compile_tier(Snapshot(settings or TierSettings(hostname="mx.example"), objects, **snapshot))


def verdict(compilation: Compilation, name: str) -> Verdict:
    (found,) = [item for item in compilation.verdicts if item.source.rpartition("/")[2] == name]
    return found


def reasons(compilation: Compilation) -> dict[str, Reason]:
    return {item.source.rpartition("/")[2]: item.reason for item in compilation.verdicts}


def warned(compilation: Compilation, name: str, *texts: str) -> bool:
    warnings = verdict(compilation, name).warnings
    return all(any(text in warning for warning in warnings) for text in texts)
