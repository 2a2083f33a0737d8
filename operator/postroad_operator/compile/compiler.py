"""The compiler: from a snapshot to one configuration and a verdict on every resource.

It is total (whatever the snapshot holds, it answers), pure (the snapshot is all it looks at), deterministic
(the order of the input does not matter) and linear in the number of resources. A bad resource is left out and
takes nothing from the others; of two that conflict, the older one is served.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from postroad_operator.compile.certificates import compile_certificate, names, served_before, uncovered
from postroad_operator.compile.conflicts import PortClaims
from postroad_operator.compile.direct_trust import TrustedStore, not_offered
from postroad_operator.compile.domains import compile_domains
from postroad_operator.compile.receive import compile_receive_connector
from postroad_operator.compile.references import References
from postroad_operator.compile.send import compile_send_connector
from postroad_operator.compile.snapshot import Snapshot
from postroad_operator.compile.verdict import Compilation, Compiled, Reason, RefusedError, Verdict
from postroad_operator.resources import (
    AcceptedDomain,
    Invalid,
    ReceiveConnector,
    Resource,
    SendConnector,
    TransportCertificate,
)
from postroad_transport import config
from postroad_transport.config import TierConfig
from postroad_transport.config.files import SESSION_TICKETS_FILE

_R = TypeVar("_R", bound=Resource)


def compile_tier(snapshot: Snapshot) -> Compilation:
    """Compile the resources of ``snapshot.settings.tier``; those of other tiers get no verdict."""
    settings = snapshot.settings
    ledger = _Ledger()
    objects = _unique(snapshot.objects, ledger)
    for item in objects:
        if isinstance(item, Invalid) and item.tier in ("", settings.tier):
            ledger.refuse(item, RefusedError(Reason.INVALID, "; ".join(map(str, item.problems))))
    references = References(objects)
    mine = _Oldest(objects, settings.tier)
    trust = TrustedStore(snapshot.server_identity)
    certificates, certified = _certificates(mine.of(TransportCertificate), snapshot, references, trust, ledger)
    receive = _receive_connectors(mine.of(ReceiveConnector), snapshot, references, certified, ledger)
    send = _send_connectors(mine.of(SendConnector), snapshot, references, ledger)
    domains, refused = compile_domains(mine.of(AcceptedDomain), references, send)
    for domain in mine.of(AcceptedDomain):
        if refusal := refused.get(domain.source):
            ledger.refuse(domain, refusal)
        else:
            ledger.accept(domain, domains[domain.source])
    direct_trust, files = trust.part()
    ledger.files |= files
    if snapshot.ticket_secret:
        ledger.files[SESSION_TICKETS_FILE] = snapshot.ticket_secret
    return Compilation(
        TierConfig(
            tier=settings.tier,
            role=settings.role,
            hostname=settings.hostname,
            receive_connectors=tuple(sorted(receive, key=lambda part: part.source)),
            send_connectors=tuple(sorted(send, key=lambda part: part.source)),
            accepted_domains=tuple(sorted((item.part for item in domains.values()), key=lambda part: part.domain)),
            certificates=tuple(sorted(certificates, key=lambda part: part.source)),
            postmaster=settings.postmaster,
            trust_bundle=settings.trust_bundle,
            direct_trust=direct_trust,
            generations=dict(sorted(ledger.generations.items())),
        ),
        dict(sorted(ledger.files.items())),
        tuple(sorted(ledger.verdicts, key=lambda verdict: (verdict.source, not verdict.accepted, verdict.message))),
    )


def tiers(objects: Iterable[Resource | Invalid]) -> tuple[str, ...]:
    """Return the names of the tiers that the objects belong to, sorted."""
    found = {item.tier if isinstance(item, Invalid) else _tier(item) for item in objects}
    return tuple(sorted(found - {""}))


class _Ledger:
    """Verdicts, secret files and generations, collected kind by kind."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.files: dict[str, bytes] = {}
        self.generations: dict[str, int] = {}

    def accept(self, resource: Resource, item: Compiled[Any]) -> None:
        generation = resource.metadata.generation
        self.files |= item.files
        self.generations[resource.source] = generation
        self.verdicts.append(
            Verdict(resource.source, True, item.reason, item.message or "valid", tuple(item.warnings), generation)
        )

    def refuse(self, resource: Resource | Invalid, refusal: RefusedError) -> None:
        generation = resource.generation if isinstance(resource, Invalid) else resource.metadata.generation
        self.verdicts.append(Verdict(resource.source, False, refusal.reason, refusal.message, (), generation))


def _certificates(
    resources: list[TransportCertificate],
    snapshot: Snapshot,
    references: References,
    trust: TrustedStore,
    ledger: _Ledger,
) -> tuple[list[config.Certificate], list[str]]:
    """Return the certificates that can be served, and the names of all that are or will be."""
    parts: list[config.Certificate] = []
    certified: list[str] = []
    for resource in resources:
        try:
            if resource.spec.subscription is not None:
                ledger.accept(resource, trust.subscribe(resource, resource.spec.subscription))
                continue
            item = compile_certificate(resource, snapshot, references)
        except RefusedError as refusal:
            before = served_before(resource, snapshot)
            if before is None:
                ledger.refuse(resource, refusal)
            else:
                told = f"{refusal.message}; what it had before goes on being served"
                ledger.refuse(resource, RefusedError(refusal.reason, told))
                ledger.files |= before.files
                certified += names(resource, before.part)
                parts.append(before.part)
            continue
        ledger.accept(resource, item)
        certified += names(resource, item.part)
        if item.part is not None:
            parts.append(item.part)
    return parts, certified


def _receive_connectors(
    resources: list[ReceiveConnector],
    snapshot: Snapshot,
    references: References,
    certified: list[str],
    ledger: _Ledger,
) -> list[config.ReceiveConnector]:
    parts: list[config.ReceiveConnector] = []
    claims = PortClaims()
    for resource in resources:
        try:
            item = compile_receive_connector(resource, snapshot.settings, references)
            if resource.spec.enabled:
                claims.claim(item.part)
        except RefusedError as refusal:
            ledger.refuse(resource, refusal)
            continue
        if not resource.spec.enabled:
            ledger.accept(resource, _disabled(item))
            continue
        if warning := uncovered(item.part, certified):
            item.warnings.append(warning)
        item.warnings += not_offered(item.part, snapshot.settings.hostname, snapshot.server_identity_problem)
        ledger.accept(resource, item)
        parts.append(item.part)
    return parts


def _send_connectors(
    resources: list[SendConnector], snapshot: Snapshot, references: References, ledger: _Ledger
) -> list[config.SendConnector]:
    parts: list[config.SendConnector] = []
    for resource in resources:
        try:
            item = compile_send_connector(resource, snapshot.settings, references)
        except RefusedError as refusal:
            ledger.refuse(resource, refusal)
            continue
        ledger.accept(resource, item if resource.spec.enabled else _disabled(item))
        if resource.spec.enabled:
            parts.append(item.part)
    return parts


def _disabled(item: Compiled[Any]) -> Compiled[None]:
    return Compiled(None, {}, item.warnings, Reason.DISABLED, "valid, but spec.enabled is false: not served")


def _unique(objects: Iterable[Resource | Invalid], ledger: _Ledger) -> list[Resource | Invalid]:
    """Return one object per source: a valid one before an invalid one, an older one before a newer one."""
    by_source: dict[str, list[Resource | Invalid]] = {}
    for item in objects:
        by_source.setdefault(item.source, []).append(item)
    unique: list[Resource | Invalid] = []
    for source, same in by_source.items():
        if len(same) == 1 or source.endswith("?"):
            unique += same
            continue
        first, *others = sorted(same, key=_identity)
        unique.append(first)
        for other in others:
            ledger.refuse(
                other, RefusedError(Reason.CONFLICT, f"metadata.name: {source} is defined twice: remove one")
            )
    return unique


def _identity(item: Resource | Invalid) -> tuple[bool, str, str]:
    if isinstance(item, Invalid):
        return True, "", repr(item)
    return False, item.metadata.creation_timestamp, item.model_dump_json()


class _Oldest:
    """The resources of one tier, oldest first."""

    def __init__(self, objects: Iterable[Resource | Invalid], tier: str) -> None:
        mine = [item for item in objects if isinstance(item, Resource) and _tier(item) == tier]
        mine.sort(key=lambda item: (item.metadata.creation_timestamp, item.metadata.name, item.metadata.namespace))
        self._resources = mine

    def of(self, kind: type[_R]) -> list[_R]:
        return [item for item in self._resources if isinstance(item, kind)]


def _tier(resource: Resource) -> str:
    return str(getattr(getattr(resource, "spec", None), "tier", ""))
