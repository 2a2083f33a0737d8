"""Transport certificates: what has been issued goes into the configuration, the rest is pending or refused."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from postroad_operator.compile import unsupported
from postroad_operator.compile.references import References
from postroad_operator.compile.snapshot import Snapshot
from postroad_operator.compile.verdict import Compiled, Reason, RefusedError
from postroad_operator.resources import TransportCertificate
from postroad_operator.resources.scalars import ascii_domain
from postroad_transport.config import AuthMechanism, Certificate, ReceiveConnector, TlsMode
from postroad_transport.policy.certificate import covers


def compile_certificate(
    resource: TransportCertificate, snapshot: Snapshot, references: References
) -> Compiled[Certificate | None]:
    """Compile one certificate; the part is None while it is still to be issued.

    Raises
    ------
    RefusedError
        Its Secret is missing, or it could not be issued.
    """
    warnings = unsupported.warnings(resource)
    spec, namespace = resource.spec, resource.metadata.namespace
    for field, reference in (
        ("spec.secretRef", spec.secret_ref),
        ("spec.ca.secretRef", spec.ca.secret_ref if spec.ca else None),
    ):
        if reference is not None:
            for key in ("tls.crt", "tls.key"):
                references.secret(namespace, reference.name, key, field)
    if problems := snapshot.certificate_problems.get(resource.source):
        raise RefusedError(Reason.CERTIFICATE_UNUSABLE, "; ".join(problems))
    served = served_before(resource, snapshot)
    if served is None:
        waiting = snapshot.certificates_pending.get(resource.source, "the certificate is still to be issued")
        return Compiled(None, {}, warnings, Reason.PENDING, f"valid; {waiting}")
    return Compiled(served.part, served.files, [*warnings, *served.warnings])


def served_before(resource: TransportCertificate, snapshot: Snapshot) -> Compiled[Certificate] | None:
    """Return what there is to serve, even where the resource as it is now is refused."""
    issued = snapshot.certificates.get(resource.source)
    if issued is None:
        return None
    services = tuple(resource.spec.services)
    certificate = msgspec.structs.replace(issued.certificate, source=resource.source, services=services)
    return Compiled(certificate, dict(issued.files), list(issued.warnings))


def names(resource: TransportCertificate, part: Certificate | None) -> tuple[str, ...]:
    """Return the names that the certificate holds, or will hold, for the SMTP service."""
    if "SMTP" not in resource.spec.services:
        return ()
    if part is not None:
        return (*part.dns_names, part.common_name)
    return tuple(
        ("*." if name.startswith("*.") else "") + ascii_domain(name.removeprefix("*."))
        for name in resource.spec.dns_names
    )


def uncovered(connector: ReceiveConnector, certified: Iterable[str]) -> str:
    """Return a warning when no certificate holds the connector's name although it is to speak TLS; else nothing."""
    wants_tls = AuthMechanism.TLS in connector.auth_mechanisms and any(
        binding.tls is not TlsMode.OFF for binding in connector.bindings
    )
    if not wants_tls or any(covers(pattern, connector.fqdn) for pattern in certified):
        return ""
    return (
        f"spec.fqdn: no TransportCertificate holds the name {connector.fqdn}: TLS is not offered (event 12014):"
        " add it to the dnsNames of one"
    )
