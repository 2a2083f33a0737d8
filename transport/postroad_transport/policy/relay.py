"""The proof that a connector is no open relay.

A connector relays for anyone where a principal that takes no proof to be holds both ``SMTP-Submit`` and
``SMTP-Accept-Any-Recipient``, and where sessions may come from outside the tier's own networks.
"""

from __future__ import annotations

from typing import NamedTuple

from postroad_transport.config import Permission, ReceiveConnector
from postroad_transport.policy.connectors import decisive_field
from postroad_transport.policy.networks import collapse, parse_network, within
from postroad_transport.policy.principals import effective_permissions, initial_principals

OWN_RANGES = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
)
"""Networks that count as everyone's own: private (RFC 1918, RFC 4193), loopback and link-local."""


class Finding(NamedTuple):
    """One way in which anyone may relay through a connector."""

    principal: str
    origins: tuple[str, ...]
    """The fields that grant the two permissions, each as ``field allows permission to principal``."""
    range: str
    message: str


def open_relay_grants(
    connector: ReceiveConnector, tier_ranges: tuple[str, ...], *, client_addresses_visible: bool = True
) -> tuple[Finding, ...]:
    """Return every way in which a principal that anyone can be may relay; empty is the proof that none may.

    Parameters
    ----------
    connector
        Compiled, so that usage and groups are grants already. What is looked at is whoever a session is
        before it authenticates: anonymous, or with ``ExternalAuthoritative`` an externally secured server.
    tier_ranges
        The tier's own networks as CIDRs. `OWN_RANGES` count as well.
    client_addresses_visible
        False where a load balancer hides who connects: then no range says anything about a client, and
        every range counts as wider than the tier's own networks.
    """
    principals = initial_principals(connector)
    needed = (Permission.SUBMIT, Permission.ACCEPT_ANY_RECIPIENT)
    if not effective_permissions(connector.grants, principals).issuperset(needed):
        return ()
    own = collapse(OWN_RANGES + tier_ranges) if client_addresses_visible else []
    principal = next(iter(principals))
    origins = tuple(dict.fromkeys(decisive_field(connector.grants, principals, permission) for permission in needed))
    return tuple(
        Finding(
            principal=principal,
            origins=origins,
            range=text,
            message=_message(connector, principal, text, origins, client_addresses_visible),
        )
        for text in connector.remote_ip_ranges
        if not within(parse_network(text), own)
    )


def _message(connector: ReceiveConnector, principal: str, text: str, origins: tuple[str, ...], visible: bool) -> str:
    where = f"{text} is wider than the tier's own networks"
    if not visible:
        where = f"the tier does not see real client addresses, so {text} keeps nobody out"
    return f"{connector.source} relays for anyone who is {principal}: {where}; {'; '.join(origins)}"
