"""What an outbound session must prove before mail goes over it (spec.md 2.2 and 4). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from postroad_transport.config import (
    AuthMechanism,
    DnsRouting,
    SecureDomain,
    SmartHostRouting,
    TlsAuthLevel,
    TlsPolicy,
)
from postroad_transport.policy.domain_security import secured_domains
from postroad_transport.routing.table import Route

_VALIDATING = (TlsAuthLevel.CERTIFICATE_VALIDATION, TlsAuthLevel.DOMAIN_VALIDATION)


@dataclass(frozen=True, slots=True)
class TlsDemand:
    """How a session to one host uses STARTTLS.

    ``wanted``: try it when offered. ``required``: nothing is sent without it. ``level`` picks the context, ``policy``
    its versions and suites where somebody chose them. ``names``: the verified certificate must be for one of them;
    empty: any name will do. ``secured``: mutual TLS with this partner's domain.
    """

    wanted: bool = True
    required: bool = False
    level: TlsAuthLevel | None = None
    names: tuple[str, ...] = ()
    secured: SecureDomain | None = None
    policy: TlsPolicy | None = None

    @property
    def verified(self) -> bool:
        """Whether the peer's certificate has to be valid, and not revoked."""
        return self.secured is not None or self.level in _VALIDATING

    def in_clear(self) -> TlsDemand:
        """Return the demand of the second try, after an opportunistic handshake has failed."""
        return TlsDemand(wanted=False)


def tls_demand(route: Route, host: str) -> TlsDemand:
    """Return what `route` asks of a TLS session to `host`.

    A level above EncryptionOnly makes TLS required, since a check that clear text escapes checks nothing.
    DomainValidation compares with ``tlsDomain``; where that is empty, with the smart host dialled, or with the
    recipients' domain when routing by DNS (an MX answer proves nothing). BasicAuthRequireTLS asks for one of
    the configured smart host names (spec.md 2.2). ``requireTLS`` beats ``ignoreSTARTTLS``. A secured domain routed by
    DNS beats them all: mutual TLS, where the certificate is for the domain or for the names listed with it.
    """
    connector = route.send_connector
    if connector is None:
        return TlsDemand()
    if isinstance(route.target, DnsRouting):
        secured = secured_domains(connector).get(route.destination.removeprefix("dns:"))
        if secured is not None:
            return TlsDemand(required=True, secured=secured)
    level = connector.tls_auth_level
    names: tuple[str, ...] = ()
    if level is TlsAuthLevel.DOMAIN_VALIDATION:
        own = route.destination.removeprefix("dns:") if isinstance(route.target, DnsRouting) else host
        names = (connector.tls_domain or own,)
    elif connector.auth_mechanism is AuthMechanism.BASIC_AUTH_REQUIRE_TLS:
        level = TlsAuthLevel.CERTIFICATE_VALIDATION
        target = route.target
        names = tuple(h.host for h in target.hosts) if isinstance(target, SmartHostRouting) else (host,)
    required = connector.require_tls or level in _VALIDATING
    return TlsDemand(required or not connector.ignore_starttls, required, level, names, policy=connector.tls_policy)
