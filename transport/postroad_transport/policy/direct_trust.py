"""Direct trust between servers (spec.md 2.1, 3 and 4): who is offered X-ANONYMOUSTLS, and who is who."""

from __future__ import annotations

from collections.abc import Iterable

from postroad_transport.config import AuthMechanism, Principal, ReceiveConnector, Role, TierConfig, TlsMode
from postroad_transport.config.model import TrustedServer
from postroad_transport.policy.reply import Reply
from postroad_transport.policy.verdict import Allow, Refuse, Verdict

VERB = "X-ANONYMOUSTLS"
"""The command, the EHLO keyword, and what a session's mechanism is called in its stamps."""

NOT_OFFERED = Reply(502, "5.5.1", "X-ANONYMOUSTLS is not offered")
NOT_AVAILABLE = Reply(454, "4.7.0", "TLS not available due to temporary reason")

#: What a server of a tier is to its peers, by the role of its tier.
PRINCIPALS: dict[Role, Principal] = {
    Role.HUB: Principal.HUB_TRANSPORT_SERVERS,
    Role.EDGE: Principal.EDGE_TRANSPORT_SERVERS,
}


def names_the_server(name: str, hostname: str) -> bool:
    """Tell whether a connector's name is the server's own full name, its short name, or empty (spec.md 3)."""
    return name.lower() in ("", hostname.lower(), hostname.lower().partition(".")[0])


def check_anonymous_tls(
    connector: ReceiveConnector, tier: TierConfig, mode: TlsMode, *, tls: bool, issued: bool = True
) -> Verdict:
    """Decide whether X-ANONYMOUSTLS is offered.

    Parameters
    ----------
    mode
        How the port that the session came to speaks TLS.
    tls
        Whether the session speaks it already.
    issued
        Whether the configuration holds its certificates, as a served one does; else one is taken for granted.
    """
    source = connector.source
    if AuthMechanism.EXCHANGE_SERVER not in connector.auth_mechanisms:
        field = f"{source} spec.authMechanisms holds no {AuthMechanism.EXCHANGE_SERVER}"
        return Refuse("authMechanisms", NOT_OFFERED, field)
    if not names_the_server(connector.fqdn, tier.hostname):
        field = f"{source} spec.fqdn: {connector.fqdn} is not the server's own name, {tier.hostname}"
        return Refuse("fqdn", NOT_OFFERED, field)
    if mode is not TlsMode.STARTTLS:
        return Refuse("bindings", NOT_OFFERED, f"{source} spec.bindings: this port has tls: {mode}")
    if tls:
        return Refuse("tls", NOT_OFFERED, f"{source} the session speaks TLS already")
    if issued and tier.direct_trust.identity is None:
        return Refuse("certificate", NOT_AVAILABLE, f"{source} the tier has no certificate to present to servers yet")
    return Allow("authMechanisms", f"{source} spec.authMechanisms holds {AuthMechanism.EXCHANGE_SERVER}")


def principals_by_thumbprint(servers: Iterable[TrustedServer]) -> dict[str, str]:
    """Return who each certificate of the trusted store is; of two entries for one certificate the first counts."""
    found: dict[str, str] = {}
    for server in servers:
        found.setdefault(server.thumbprint, str(server.principal))
    return found
