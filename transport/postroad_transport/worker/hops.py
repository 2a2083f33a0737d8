"""Which hop serves which route."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from postroad_transport.config import AuthMechanism, Drop, Maildir, TierConfig, TlsPolicy
from postroad_transport.config.files import SECRETS_DIRECTORY, read_secret
from postroad_transport.delivery.drop import DropHop
from postroad_transport.delivery.firewall import HeaderFirewall
from postroad_transport.delivery.hop import Hop
from postroad_transport.delivery.hops import HopFactory
from postroad_transport.delivery.maildir import MaildirHop
from postroad_transport.delivery.smtp_hop import HopSettings, make_hop
from postroad_transport.policy.certificate import select
from postroad_transport.policy.principals import send_permissions
from postroad_transport.routing.resolver import DnsResolver, Resolver
from postroad_transport.routing.table import Route
from postroad_transport.telemetry.metrics import Metrics
from postroad_transport.tls.client import mutual_context
from postroad_transport.tls.crl_store import CrlStore
from postroad_transport.tls.direct_trust import TrustContexts


class Resolvers:
    """Resolvers by their servers, kept over reloads for the sake of their caches."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], Resolver] = {}

    def __call__(self, servers: tuple[str, ...]) -> Resolver:
        """Return the resolver that asks `servers` (empty: the system's)."""
        if servers not in self._made:
            self._made[servers] = DnsResolver(servers)
        return self._made[servers]


def hop_factory(
    config: TierConfig,
    secrets: Mapping[str, bytes],
    *,
    state_dir: Path,
    addresses: tuple[str, ...],
    resolvers: Resolvers,
    metrics: Metrics,
    server_trust: TrustContexts | None = None,
    crls: CrlStore | None = None,
    identities: Mapping[str, ssl.SSLContext] | None = None,
) -> HopFactory:
    """Return what makes the hop for a route of `config`; `secrets` are the secret files it names."""
    settings = HopSettings(
        hostname=config.hostname,
        resolver=resolvers,
        metrics=metrics,
        read_secret=secrets.__getitem__,
        trust_bundle=config.trust_bundle,
        server_trust=server_trust,
        crls=crls or CrlStore(),
        identities=identities or {},
        local_endpoints=frozenset(
            (address, binding.port)
            for connector in config.receive_connectors
            for binding in connector.bindings
            for address in addresses
        ),
        local_names=frozenset({config.hostname, *(connector.fqdn for connector in config.receive_connectors)}),
    )

    def make(route: Route) -> Hop:
        connector = route.send_connector
        if isinstance(route.target, Maildir):
            return MaildirHop(route.target.path, state_dir)
        if isinstance(route.target, Drop):
            return DropHop()
        hop = make_hop(route, settings)
        if connector is None or connector.auth_mechanism is AuthMechanism.EXCHANGE_SERVER:
            # A hop to servers of the organisation asks each session what may leave to it.
            return hop
        return HeaderFirewall(hop, send_permissions(connector, domain=route.destination.removeprefix("dns:")))

    return make


def client_identities(config: TierConfig, directory: Path, now: float) -> dict[str, ssl.SSLContext]:
    """Return the contexts that present this tier to secured domains, by send connector.

    The certificate is chosen as for a listener of the connector's name (spec.md 3).

    Raises
    ------
    ConfigError
        A certificate or a key cannot be used.
    """
    secrets = directory / SECRETS_DIRECTORY
    found = {}
    for connector in config.send_connectors:
        if connector.secure_domains:
            chosen = select(connector.fqdn, config.certificates, (AuthMechanism.TLS,), now=now).certificate
            if chosen is not None:
                found[connector.name] = mutual_context(
                    secrets / chosen.chain_file,
                    secrets / chosen.key_file,
                    connector.tls_policy or TlsPolicy.INTERMEDIATE,
                )
    return found


def read_credentials(config: TierConfig, directory: Path) -> dict[str, bytes]:
    """Read the secret files that send connectors log in with.

    Raises
    ------
    ConfigError
        One is missing.
    """
    names = {connector.credentials_file for connector in config.send_connectors if connector.credentials_file}
    return {name: read_secret(directory, name) for name in names}
