"""What each kind says beyond its conditions: ports, routes, the certificate in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cryptography import x509

from postroad_operator.certificates import CertificateError, KeySource, from_resource
from postroad_operator.certificates.adapter import issued_name
from postroad_operator.certificates.material import load_chain
from postroad_operator.certificates.renewal import renewal_time
from postroad_operator.compile import Compilation
from postroad_operator.resources import (
    AcceptedDomain,
    ReceiveConnector,
    Resource,
    SendConnector,
    TransportCertificate,
)
from postroad_operator.status.conditions import timestamp
from postroad_transport import config
from postroad_transport.policy.certificate import reason, select

_SHORT = 255
_TEXT = 32_768


def details(
    compilation: Compilation, resources: Mapping[str, Resource], pkcs10: Mapping[str, str], now: float
) -> dict[str, dict[str, Any]]:
    """Return the kind's own status fields of every resource that has any, by source.

    Parameters
    ----------
    compilation
        What is served.
    resources
        Every resource, by source.
    pkcs10
        Certificate requests to hand to an authority, in PEM, by source.
    now
        Seconds since the epoch.
    """
    tier = compilation.config
    refused = {verdict.source for verdict in compilation.verdicts if not verdict.accepted}
    found: dict[str, dict[str, Any]] = {}
    for connector in tier.receive_connectors:
        chosen = select(connector.fqdn, tier.certificates, connector.auth_mechanisms, now=now).presented
        found[connector.source] = _given(
            ports=", ".join(str(binding.port) for binding in connector.bindings),
            certificate=", ".join(certificate.name for certificate in chosen),
            certificateReason=reason(connector.fqdn, tier.certificates, connector.auth_mechanisms, now=now),
        )
    for sender in tier.send_connectors:
        found[sender.source] = _given(
            domains=", ".join(space.domain for space in sender.address_spaces),
            route=_send_route(sender.routing) + (" (suspended)" if sender.suspend else ""),
        )
    for domain in tier.accepted_domains:
        found[domain.source] = _given(route=_domain_route(domain))
    for certificate in tier.certificates:
        resource = resources.get(certificate.source)
        chain = compilation.secret_files.get(certificate.chain_file)
        if isinstance(resource, TransportCertificate) and chain is not None:
            found[certificate.source] = _certificate(certificate, resource, chain)
    for server in sorted(tier.direct_trust.servers, key=lambda server: server.not_after):
        if not server.own:
            # Of a subscription's certificates the newest: it tells an old subscription from a new one.
            found[server.source] = {"thumbprint": server.thumbprint}
    for source, resource in resources.items():
        if isinstance(resource, TransportCertificate):
            found[source] = found.get(source, {}) | _expected(resource, pkcs10.get(source, ""))
        # A disabled resource is in no configuration; its table row still says what it would do.
        if source not in found and source not in refused and (describe := _DISABLED.get(type(resource))) is not None:
            found[source] = describe(resource)
    return found


def _given(**fields: str) -> dict[str, Any]:
    return {name: value[:_SHORT] for name, value in fields.items() if value}


def _send_route(routing: config.DnsRouting | config.SmartHostRouting | config.Lmtp | config.Drop) -> str:
    match routing:
        case config.DnsRouting():
            return "DNS"
        case config.SmartHostRouting():
            return "smart host " + ", ".join(f"{host.host}:{host.port}" for host in routing.hosts)
        case config.Lmtp():
            return f"LMTP {routing.host}:{routing.port}"
        case config.Drop():
            return "dropped"


def _domain_route(domain: config.AcceptedDomain) -> str:
    if domain.alias_of:
        return f"as {domain.alias_of}"
    match domain.deliver:
        case config.Maildir():
            return f"Maildir {domain.deliver.path}"
        case config.Lmtp():
            return f"LMTP {domain.deliver.host}:{domain.deliver.port}"
        case config.SmtpHost():
            return f"SMTP {domain.deliver.host}:{domain.deliver.port}"
        case None:
            return "by send connector"


def _expected(resource: TransportCertificate, pkcs10: str) -> dict[str, Any]:
    """Return what a certificate that comes from elsewhere says, whether it has come or not."""
    fields = {"request": pkcs10[:_TEXT]} if pkcs10 else {}
    return fields | ({"secretName": issued_name(resource.metadata.name)} if resource.spec.issuer_ref else {})


def _certificate(part: config.Certificate, resource: TransportCertificate, chain: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "thumbprint": part.thumbprint,
        "dnsNames": [name[:_SHORT] for name in part.dns_names[:100]],
        "services": list(part.services[:3]),
        "notBefore": timestamp(part.not_before),
        "notAfter": timestamp(part.not_after),
    }
    request = from_resource(resource)
    if request.key_source is not KeySource.IMPORTED:
        fields["renewalTime"] = timestamp(renewal_time(part.not_before, part.not_after, request.renew_before))
    try:
        leaf: x509.Certificate = load_chain(chain)[0]
    except CertificateError:
        return fields
    fields["serialNumber"] = f"{leaf.serial_number:x}"
    fields["issuer"] = leaf.issuer.rfc4514_string()[:_TEXT]
    return fields


def _receive(resource: Any) -> dict[str, Any]:
    return _given(ports=", ".join(str(binding.port) for binding in resource.spec.bindings))


def _send(resource: Any) -> dict[str, Any]:
    return _given(domains=", ".join(space.domain for space in resource.spec.address_spaces))


_DISABLED: dict[type[Resource], Callable[[Any], dict[str, Any]]] = {
    ReceiveConnector: _receive,
    SendConnector: _send,
    AcceptedDomain: lambda _resource: {},
}
