"""Accepted domains: one owner each, one default, aliases resolved, every authoritative domain with a way to go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from postroad_operator.compile import unsupported
from postroad_operator.compile.references import References
from postroad_operator.compile.verdict import Compiled, Reason, RefusedError
from postroad_operator.resources import AcceptedDomain
from postroad_operator.resources.accepted_domain import AcceptedDomainSpec, Deliver
from postroad_operator.resources.scalars import ascii_domain, host
from postroad_transport import config
from postroad_transport.config import DomainType

Domains = dict[str, Compiled[config.AcceptedDomain]]
Refusals = dict[str, RefusedError]


def compile_domains(
    resources: Sequence[AcceptedDomain], references: References, send: Iterable[config.SendConnector]
) -> tuple[Domains, Refusals]:
    """Compile all accepted domains of a tier; both results are by source.

    `resources` come oldest first: of two that want the same, the older one gets it. `send` are the connectors that
    domains without ``deliver`` are routed by. Linear in the number of domains.
    """
    compiled: Domains = {}
    refused: Refusals = {}
    owners: dict[str, str] = {}
    default = ""
    spaces = _AddressSpaces(send)
    for resource in resources:
        try:
            item = _compile(resource, references)
            _check_conflicts(item.part, owners.get(item.part.domain, ""), default)
            if item.part.deliver is None and not item.part.alias_of:
                _check_route(item, spaces)
        except RefusedError as refusal:
            refused[resource.source] = refusal
            continue
        owners[item.part.domain] = resource.source
        default = resource.source if item.part.default else default
        compiled[resource.source] = item
    _resolve_aliases(compiled, refused, owners)
    return compiled, refused


def _check_conflicts(part: config.AcceptedDomain, owner: str, default: str) -> None:
    if owner:
        raise RefusedError(
            Reason.CONFLICT, f"spec.domain: {part.domain} belongs to {owner}, which is older: remove one"
        )
    if part.default and default:
        raise RefusedError(
            Reason.CONFLICT, f"spec.default: {default}, which is older, is the default domain: unset one"
        )


def _compile(resource: AcceptedDomain, references: References) -> Compiled[config.AcceptedDomain]:
    spec = resource.spec
    warnings = unsupported.warnings(resource)
    domain = ascii_domain(spec.domain)
    part = config.AcceptedDomain(
        domain=domain,
        source=resource.source,
        match_subdomains=spec.match_subdomains,
        type=DomainType(spec.type),
        default=spec.default,
        alias_of=ascii_domain(spec.alias_of) if spec.alias_of else "",
        deliver=_deliver(spec.deliver) if spec.deliver else None,
        recipients=_recipients(spec, domain, resource.metadata.namespace, references, warnings),
    )
    return Compiled(part, warnings=warnings)


def _deliver(deliver: Deliver) -> config.Maildir | config.Lmtp | config.SmtpHost:
    if deliver.maildir is not None:
        return config.Maildir(path=deliver.maildir.path)
    if deliver.lmtp is not None:
        return config.Lmtp(host=host(deliver.lmtp.host), port=deliver.lmtp.port)
    if deliver.smtp is not None:
        return config.SmtpHost(host=host(deliver.smtp.host), port=deliver.smtp.port)
    raise RefusedError(Reason.INVALID, "spec.deliver: give exactly one of maildir, lmtp and smtp")


def _recipients(
    spec: AcceptedDomainSpec, domain: str, namespace: str, references: References, warnings: list[str]
) -> tuple[str, ...] | None:
    if spec.recipients is None:
        return None
    field = "spec.recipients.list"
    if reference := spec.recipients.config_map_ref:
        field = "spec.recipients.configMapRef"
        text = references.config_map(namespace, reference.name, reference.key, field)
        lines = [line.partition("#")[0] for line in text.splitlines()]
    else:
        lines = spec.recipients.names or []
    locals_: set[str] = set()
    elsewhere: set[str] = set()
    for entry in filter(None, (line.strip().lower() for line in lines)):
        local, at, of_domain = entry.rpartition("@")
        if not at:
            locals_.add(entry)
        elif of_domain in (domain, spec.domain.lower()):
            locals_.add(local)
        else:
            elsewhere.add(entry)
    if elsewhere:
        some = ", ".join(sorted(elsewhere)[:3])
        warnings.append(f"{field}: {len(elsewhere)} addresses of other domains are passed over: {some}")
    if not locals_:
        warnings.append(f"{field}: empty: every recipient is refused")
    return tuple(sorted(locals_))


class _AddressSpaces:
    """Which domains some send connector takes, and whether by name or only by ``*``."""

    def __init__(self, connectors: Iterable[config.SendConnector]) -> None:
        self._domains = {space.domain for connector in connectors for space in connector.address_spaces}

    def names(self, domain: str) -> bool:
        labels = domain.split(".")
        return domain in self._domains or any(
            f"*.{'.'.join(labels[start:])}" in self._domains for start in range(1, len(labels))
        )

    def catch_all(self) -> bool:
        return "*" in self._domains


def _check_route(item: Compiled[config.AcceptedDomain], spaces: _AddressSpaces) -> None:
    domain = item.part.domain
    if spaces.names(domain):
        return
    if item.part.type is DomainType.AUTHORITATIVE:
        # A connector for * would send our own mail out by our own MX records, straight back to us.
        raise RefusedError(
            Reason.NO_ROUTE,
            f"spec.deliver: {domain} is authoritative, and nothing says where its mail goes: give deliver, or a"
            f" SendConnector with the address space {domain}, or another type",
        )
    if not spaces.catch_all():
        item.warnings.append(
            f"spec.deliver: no SendConnector takes {domain}: its mail is returned: give deliver, or a SendConnector"
        )


def _resolve_aliases(compiled: Domains, refused: Refusals, owners: dict[str, str]) -> None:
    """Replace every alias's target by the end of its chain; refuse those that lead nowhere or in a circle."""
    ends: dict[str, str] = {}
    for start in [source for source, item in compiled.items() if item.part.alias_of]:
        path: list[str] = []
        walked: set[str] = set()
        source, end = start, ""
        while True:
            part = compiled[source].part
            if source in ends:
                end = ends[source]
            elif source in walked:
                end = ""
            elif not part.alias_of:
                end = part.domain
            elif part.alias_of in owners:
                path.append(source)
                walked.add(source)
                source = owners[part.alias_of]
                continue
            else:
                path.append(source)
            break
        ends.update(dict.fromkeys(path, end))
    for source, end in ends.items():
        part = compiled[source].part
        if end:
            compiled[source].part = msgspec.structs.replace(part, alias_of=end)
            continue
        target = part.alias_of
        known = target in owners
        refused[source] = RefusedError(
            Reason.INVALID_REF if known else Reason.REF_NOT_FOUND,
            f"spec.aliasOf: {target} leads back to itself or nowhere: point it at a domain with a target of its own"
            if known
            else f"spec.aliasOf: this tier has no accepted domain {target}: create it",
        )
    for source, end in ends.items():
        if not end:
            del compiled[source]
