"""Partners of a connector: the domains that are secured, and whom TLS believes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from cryptography import x509

from postroad_operator.compile.references import References
from postroad_operator.compile.verdict import Reason, RefusedError
from postroad_operator.resources import ReceiveConnector, SendConnector
from postroad_operator.resources.base import KeyReference
from postroad_operator.resources.partners import Revocation
from postroad_operator.resources.scalars import ascii_domain, host
from postroad_transport import config

_CRLS = re.compile(r"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


def secure_domains(
    resource: ReceiveConnector | SendConnector, warnings: list[str]
) -> tuple[config.SecureDomain, ...]:
    """Return the domains to secure: those listed, where the connector is domain-secured; add what is odd."""
    spec = resource.spec
    if spec.domain_security is None:
        if spec.domain_secure:
            warnings.append("spec.domainSecure: no domain is secured: list some in domainSecurity.domains")
        return ()
    if not spec.domain_secure:
        warnings.append("spec.domainSecurity: nothing is enforced: set domainSecure: true")
        return ()
    found = {
        ascii_domain(entry.domain): tuple(map(ascii_domain, entry.certificate_names or [entry.domain]))
        for entry in spec.domain_security.domains
    }
    return tuple(config.SecureDomain(domain=domain, names=names) for domain, names in sorted(found.items()))


def tls_trust(resource: ReceiveConnector | SendConnector, references: References) -> config.TlsTrust:
    """Return whom the connector's TLS believes.

    Raises
    ------
    RefusedError
        A ConfigMap is missing, or does not hold what it should.
    """
    namespace, spec = resource.metadata.namespace, resource.spec.tls_trust
    reference = spec.ca_bundle_config_map_ref
    return config.TlsTrust(
        authorities=authorities(reference, namespace, "spec.tlsTrust.caBundleConfigMapRef", references)
        if reference
        else "",
        system=spec.system_authorities,
        revocation=revocation(spec.revocation, namespace, "spec.tlsTrust.revocation", references),
    )


def authorities(reference: KeyReference, namespace: str, field: str, references: References) -> str:
    """Return the PEM certificates that the reference at `field` names. Raises RefusedError."""
    found = references.config_map(namespace, reference.name, reference.key, field)
    _check(found, x509.load_pem_x509_certificates, field, "PEM certificates")
    return found


def revocation(spec: Revocation, namespace: str, field: str, references: References) -> config.Revocation:
    """Return how revocation is found out, as `field` says. Raises RefusedError."""
    crls = ""
    if reference := spec.crl_config_map_ref:
        field = f"{field}.crlConfigMapRef"
        crls = references.config_map(namespace, reference.name, reference.key, field)
        blocks = _CRLS.findall(crls)
        _check(crls, lambda _: [x509.load_pem_x509_crl(block.encode()) for block in blocks], field, "PEM CRLs")
    return config.Revocation(
        mode=config.RevocationMode(spec.mode),
        crls=crls,
        fetch=spec.fetch,
        hosts=tuple(map(host, spec.hosts)),
    )


def _check(text: str, load: Callable[[bytes], Sequence[object]], field: str, what: str) -> None:
    try:
        found = load(text.encode())
    except ValueError:
        found = ()
    if not found:
        raise RefusedError(Reason.INVALID_REF, f"{field}: holds no {what}, or a damaged one")
