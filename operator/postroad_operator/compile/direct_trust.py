"""Direct trust: the certificates that make a peer a server of the organisation (spec.md 4)."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from postroad_operator.compile.receive import mechanisms
from postroad_operator.compile.send import mechanism
from postroad_operator.compile.snapshot import ServerIdentity
from postroad_operator.compile.verdict import Compiled, Reason, RefusedError
from postroad_operator.resources import Invalid, ReceiveConnector, Resource, SendConnector, TransportCertificate
from postroad_operator.resources.transport_certificate import Subscription
from postroad_transport import config
from postroad_transport.config import AuthMechanism, DirectTrust, Role, TrustedServer
from postroad_transport.policy.direct_trust import PRINCIPALS, names_the_server


def speaks_direct_trust(objects: Iterable[Resource | Invalid], tier: str) -> bool:
    """Tell whether an enabled connector of `tier` authenticates servers, so that the tier needs a certificate."""
    return any(
        isinstance(item, ReceiveConnector | SendConnector)
        and item.spec.tier == tier
        and item.spec.enabled
        and AuthMechanism.EXCHANGE_SERVER in _mechanisms(item)
        for item in objects
    )


def _mechanisms(connector: ReceiveConnector | SendConnector) -> tuple[AuthMechanism, ...]:
    return mechanisms(connector.spec) if isinstance(connector, ReceiveConnector) else (mechanism(connector.spec),)


def trusted_servers(certificates: Iterable[x509.Certificate], role: Role, source: str) -> tuple[TrustedServer, ...]:
    """Return the entries of the trusted store for the certificates of a tier's servers."""
    return tuple(
        TrustedServer(
            thumbprint=item.fingerprint(hashes.SHA256()).hex(),
            principal=PRINCIPALS[role],
            source=source,
            certificate=item.public_bytes(serialization.Encoding.PEM).decode(),
            not_after=item.not_valid_after_utc.timestamp(),
        )
        for item in certificates
    )


class TrustedStore:
    """Collects a tier's trusted store: its own certificates, then each subscription's, the oldest first."""

    def __init__(self, identity: ServerIdentity | None) -> None:
        self._identity = identity
        self._servers = {server.thumbprint: server for server in identity.servers} if identity else {}

    def subscribe(self, resource: TransportCertificate, subscription: Subscription) -> Compiled[None]:
        """Add what a subscription carries.

        Raises
        ------
        RefusedError
            It cannot be read, or gives a certificate another role than an older resource does.
        """
        field = "spec.subscription.certificates"
        try:
            certificates = x509.load_pem_x509_certificates(subscription.certificates.encode())
        except (ValueError, x509.InvalidVersion) as error:
            raise RefusedError(
                Reason.CERTIFICATE_UNUSABLE,
                f"{field}: not PEM certificates: paste what postroad subscription export prints",
            ) from error
        servers = trusted_servers(certificates, Role(subscription.role.lower()), resource.source)
        for server in servers:
            known = self._servers.get(server.thumbprint)
            if known is not None and known.principal is not server.principal:
                raise RefusedError(
                    Reason.CONFLICT,
                    f"{field}: certificate {server.thumbprint} belongs to {known.principal} already, by"
                    f" {known.source or 'the tier itself'}: give it the same role, or remove it",
                )
        for server in servers:
            self._servers.setdefault(server.thumbprint, server)
        return Compiled(None)

    def part(self) -> tuple[DirectTrust, dict[str, bytes]]:
        """Return the configuration's part and its secret files."""
        identity = self._identity
        own = identity.servers if identity else ()
        peers = sorted((s for s in self._servers.values() if not s.own), key=lambda s: (s.source, s.thumbprint))
        trust = DirectTrust(identity=identity.issued.certificate if identity else None, servers=(*own, *peers))
        return trust, dict(identity.issued.files) if identity else {}


def not_offered(connector: config.ReceiveConnector, hostname: str, problem: str) -> list[str]:
    """Return a warning where the organisation's servers cannot authenticate although they are meant to."""
    if AuthMechanism.EXCHANGE_SERVER not in connector.auth_mechanisms:
        return []
    if not names_the_server(connector.fqdn, hostname):
        return [
            f"spec.fqdn: X-ANONYMOUSTLS is not offered, for {connector.fqdn} is neither the server's own name"
            f" {hostname} nor its short form: take fqdn out, or ExchangeServer"
        ]
    return [f"spec.authMechanisms: X-ANONYMOUSTLS is not offered: {problem}"] if problem else []
