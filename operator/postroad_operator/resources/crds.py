"""The four CustomResourceDefinitions, generated from the models."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

from postroad_operator.resources.accepted_domain import AcceptedDomain, AcceptedDomainStatus
from postroad_operator.resources.base import GROUP, VERSION, Resource, Status
from postroad_operator.resources.receive_connector import ReceiveConnector, ReceiveConnectorStatus
from postroad_operator.resources.schema import Schema, structural
from postroad_operator.resources.send_connector import SendConnector, SendConnectorStatus
from postroad_operator.resources.transport_certificate import TransportCertificate, TransportCertificateStatus

CATEGORY = "mail"
#: Where ``isCIDR`` and ``isIP`` came into CEL.
MINIMUM_KUBERNETES = "1.31"


class Column(NamedTuple):
    """One column of ``kubectl get``; priority 1 shows with ``-o wide``."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


class Definition(NamedTuple):
    """What a CRD says beyond its schema."""

    model: type[Resource]
    status: type[Status]
    plural: str
    short_name: str
    columns: tuple[Column, ...]


def _condition(name: str) -> Column:
    return Column(name, f'.status.conditions[?(@.type=="{name}")].status')


_REASON = Column("Reason", '.status.conditions[?(@.type=="Accepted")].reason', priority=1)
_TIER = Column("Tier", ".spec.tier", priority=1)
_STATE = (_condition("Accepted"), _condition("Programmed"), _condition("Ready"))
_TAIL = (_TIER, _REASON, Column("Age", ".metadata.creationTimestamp", "date"))

DEFINITIONS = (
    Definition(
        ReceiveConnector,
        ReceiveConnectorStatus,
        "receiveconnectors",
        "rconn",
        (
            Column("Usage", ".spec.usage"),
            Column("Ports", ".status.ports"),
            *_STATE,
            Column("FQDN", ".spec.fqdn", priority=1),
            Column("Certificate", ".status.certificate", priority=1),
            Column("Chosen", ".status.certificateReason", priority=1),
            *_TAIL,
        ),
    ),
    Definition(
        SendConnector,
        SendConnectorStatus,
        "sendconnectors",
        "sconn",
        (
            Column("Usage", ".spec.usage"),
            Column("Domains", ".status.domains"),
            *_STATE,
            Column("Route", ".status.route", priority=1),
            *_TAIL,
        ),
    ),
    Definition(
        AcceptedDomain,
        AcceptedDomainStatus,
        "accepteddomains",
        "adom",
        (
            Column("Domain", ".spec.domain"),
            Column("Type", ".spec.type"),
            Column("Default", ".spec.default", "boolean"),
            *_STATE,
            Column("Route", ".status.route", priority=1),
            *_TAIL,
        ),
    ),
    Definition(
        TransportCertificate,
        TransportCertificateStatus,
        "transportcertificates",
        "tcert",
        (
            Column("Expires", ".status.notAfter"),
            Column("Served", ".status.servedBy"),
            *_STATE,
            Column("Services", ".status.services", priority=1),
            Column("Renewal", ".status.renewalTime", priority=1),
            Column("Issuer", ".status.issuer", priority=1),
            Column("Thumbprint", ".status.thumbprint", priority=1),
            *_TAIL,
        ),
    ),
)


def definition(entry: Definition) -> dict[str, Any]:
    """Return one CustomResourceDefinition (apiextensions.k8s.io/v1)."""
    kind = entry.model.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{entry.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "categories": [CATEGORY],
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": entry.plural,
                "shortNames": [entry.short_name],
                "singular": kind.lower(),
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _schema(entry)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in entry.columns],
                }
            ],
        },
    }


def _schema(entry: Definition) -> Schema:
    whole = structural(entry.model)
    return {
        "description": whole["description"],
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this representation."},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": {"type": "object"},
            "spec": whole["properties"]["spec"],
            # kstatus takes what has no status for done; with this it is in progress until the operator has seen it.
            "status": structural(entry.status) | {"default": {"observedGeneration": -1}},
        },
    }


def _column(column: Column) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return shown | ({"priority": column.priority} if column.priority else {})


class _Dumper(yaml.SafeDumper):
    """Writes a part that stands twice (a model used by two fields) twice: anchors are hard to read in a CRD."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def manifests() -> dict[str, str]:
    """Return the CRDs as YAML, by file name."""
    return {
        f"{entry.plural}.{GROUP}.yaml": "# Generated by `make crds` from the models; do not edit.\n"
        + yaml.dump(definition(entry), Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)
        for entry in DEFINITIONS
    }
