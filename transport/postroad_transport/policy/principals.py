"""Who a session is, before and after it authenticates (spec.md 1), and what that lets it do."""

from __future__ import annotations

from collections.abc import Iterable

from postroad_transport.config import (
    AuthMechanism,
    Grant,
    Permission,
    Principal,
    ReceiveConnector,
    SendConnector,
    Usage,
)
from postroad_transport.policy.session import ANONYMOUS

LEGACY_SERVERS = frozenset({str(Principal.LEGACY_EXCHANGE_SERVERS)})
EXTERNALLY_SECURED = frozenset({str(Principal.EXTERNALLY_SECURED_SERVERS)})


def initial_principals(connector: ReceiveConnector) -> frozenset[str]:
    """Return the principals of a session that has not authenticated.

    ``ExternalAuthoritative`` makes every connection an externally secured server's (spec.md 2.1); on any
    other connector a session starts anonymous.
    """
    return EXTERNALLY_SECURED if AuthMechanism.EXTERNAL_AUTHORITATIVE in connector.auth_mechanisms else ANONYMOUS


def authenticated_principals(account: str) -> frozenset[str]:
    """Return the principals of a session that logged in as `account`; they replace what it was before."""
    return frozenset({str(Principal.AUTHENTICATED_USERS), f"user:{account}"})


def destination_principals(
    connector: SendConnector, server: str = Principal.HUB_TRANSPORT_SERVERS, *, domain: str = ""
) -> frozenset[str]:
    """Return what the other side of a send connector's sessions is to us: who its grants are looked up for.

    An externally secured or Exchange-authenticated smart host is a server of the organisation, a
    domain-secured destination is a partner, and everyone else is anonymous: that we log in *there* proves
    who we are, not who they are. `server` is what an Exchange-authenticated host has proved to be, or is taken for
    until it has; `domain` is the recipients'.
    """
    if connector.auth_mechanism is AuthMechanism.EXTERNAL_AUTHORITATIVE:
        return EXTERNALLY_SECURED
    if connector.auth_mechanism is AuthMechanism.EXCHANGE_SERVER:
        return frozenset({str(server)})
    if connector.usage is Usage.PARTNER or any(domain == secured.domain for secured in connector.secure_domains):
        return frozenset({str(Principal.PARTNER_SERVERS)})
    return ANONYMOUS


def effective_permissions(grants: Iterable[Grant], principals: frozenset[str]) -> frozenset[Permission]:
    """Return what `grants` let `principals` do together: the union, with every deny beating every allow."""
    allowed: set[Permission] = set()
    denied: set[Permission] = set()
    for grant in grants:
        if grant.principal in principals:
            (denied if grant.deny else allowed).add(grant.permission)
    return frozenset(allowed - denied)


def send_permissions(
    connector: SendConnector, server: str = Principal.HUB_TRANSPORT_SERVERS, *, domain: str = ""
) -> frozenset[Permission]:
    """Return the send permissions (spec.md 1.2) for what leaves through `connector`; see `destination_principals`."""
    return effective_permissions(connector.grants, destination_principals(connector, server, domain=domain))
