"""TLS for ``explain``: what a client's certificate would prove, and what a session with a next hop would have to."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from postroad_transport.config import DnsRouting, Lmtp, SmartHostRouting, SmtpHost, TierConfig
from postroad_transport.config.files import ConfigError
from postroad_transport.delivery.outbound_tls import TlsDemand, tls_demand
from postroad_transport.policy.connectors import ConnectorTable
from postroad_transport.policy.proof import PeerProof
from postroad_transport.routing.table import Route
from postroad_transport.tls.crl_store import CrlStore


def client_proof(
    config: TierConfig, port: int, remote_ip: str, chain: bytes, lists: Path | None = None
) -> PeerProof | None:
    """Return what a client that presents `chain` proves to the connector that takes it; None where none does.

    Verified as a worker would: revocation lists are fetched where they have to be.

    Parameters
    ----------
    chain
        PEM: the client's certificate, then intermediates.
    lists
        Directory with the lists that a running tier has.

    Raises
    ------
    ConfigError
        `chain` is not PEM certificates.
    """
    policy = ConnectorTable(config).select(port, remote_ip)
    if policy is None:
        return None
    try:
        presented = [item.public_bytes(Encoding.DER) for item in x509.load_pem_x509_certificates(chain)]
    except ValueError as error:
        raise ConfigError("not PEM certificates") from error

    async def prove() -> PeerProof:
        from postroad_transport.tls.peer import verify_peer  # here, since it takes OpenSSL's bindings

        crls = CrlStore(lists)
        try:
            return await verify_peer(presented, policy.config.tls_trust, config.trust_bundle, crls)
        finally:
            await crls.close()

    return asyncio.run(prove())


def hop_tls(route: Route) -> str:
    """Say in words what TLS the route's sessions need; empty where there are none."""
    match route.target:
        case SmartHostRouting(hosts=(first, *_)):
            host = first.host
        case SmtpHost(host=host) | Lmtp(host=host):
            pass
        case DnsRouting():
            host = route.destination.removeprefix("dns:")
        case _:
            return ""
    demand = tls_demand(route, host)
    if demand.secured is not None:
        return f"mutual TLS with a certificate for {' or '.join(demand.secured.names)}{_revocation(route, demand)}"
    if not demand.wanted:
        return "no TLS"
    if not demand.required:
        return "TLS where it is offered, unverified"
    if not demand.verified:
        return "TLS required, unverified"
    names = f" for {' or '.join(demand.names)}" if demand.names else ""
    return f"TLS required, with a valid certificate{names}{_revocation(route, demand)}"


def _revocation(route: Route, demand: TlsDemand) -> str:
    connector = route.send_connector
    mode = connector.tls_trust.revocation.mode if connector is not None and demand.verified else ""
    return f" (revocation: {mode}); else mail waits" if mode else ""
