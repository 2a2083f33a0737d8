"""Permission groups and usage types: tables 1.3, 1.4 and 1.5 of spec.md, which nothing can edit.

Finer grants than a group's are explicit :class:`~postroad_transport.config.Grant` entries (spec.md 1.6).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from postroad_transport.config import AuthMechanism, Grant, Permission, Principal, Role, Usage


class PermissionGroup(StrEnum):
    """The permission groups (spec.md 1.3)."""

    ANONYMOUS_USERS = "AnonymousUsers"
    EXCHANGE_USERS = "ExchangeUsers"
    EXCHANGE_SERVERS = "ExchangeServers"
    EXCHANGE_LEGACY_SERVERS = "ExchangeLegacyServers"
    PARTNERS = "Partners"


class UsageDefaults(NamedTuple):
    """What ``spec.usage`` of a receive connector fills in where the resource says nothing (spec.md 1.4)."""

    permission_groups: tuple[PermissionGroup, ...]
    auth_mechanisms: tuple[AuthMechanism, ...]


RECEIVE_PERMISSIONS = (
    Permission.SUBMIT,
    Permission.ACCEPT_ANY_RECIPIENT,
    Permission.ACCEPT_ANY_SENDER,
    Permission.ACCEPT_AUTHORITATIVE_DOMAIN_SENDER,
    Permission.ACCEPT_AUTHENTICATION_FLAG,
    Permission.ACCEPT_HEADERS_ROUTING,
    Permission.ACCEPT_HEADERS_ORGANIZATION,
    Permission.ACCEPT_HEADERS_FOREST,
    Permission.ACCEPT_EXCH50,
    Permission.BYPASS_MESSAGE_SIZE_LIMIT,
    Permission.BYPASS_ANTI_SPAM,
)
"""Spec.md 1.1, in its order."""

SEND_PERMISSIONS = (
    Permission.SEND_HEADERS_ROUTING,
    Permission.SEND_HEADERS_ORGANIZATION,
    Permission.SEND_HEADERS_FOREST,
    Permission.SEND_EXCH50,
)
"""Spec.md 1.2, in its order."""

# ExternallySecuredServers gets what ExchangeServers grants. Document 001 defines that principal as the
# organisation's trusted third-party servers (its table 3), counts every connection of an externally secured
# connector as one from "another authenticated server" (tables 1 and 2), and lists it beside the hub and edge
# servers wherever a table spells out the group's members (table 8): a group of its own it does not have.
_MEMBERS: dict[PermissionGroup, tuple[Principal, ...]] = {
    PermissionGroup.ANONYMOUS_USERS: (Principal.ANONYMOUS,),
    PermissionGroup.EXCHANGE_USERS: (Principal.AUTHENTICATED_USERS,),
    PermissionGroup.EXCHANGE_SERVERS: (
        Principal.HUB_TRANSPORT_SERVERS,
        Principal.EDGE_TRANSPORT_SERVERS,
        Principal.EXTERNALLY_SECURED_SERVERS,
    ),
    PermissionGroup.EXCHANGE_LEGACY_SERVERS: (Principal.LEGACY_EXCHANGE_SERVERS,),
    PermissionGroup.PARTNERS: (Principal.PARTNER_SERVERS,),
}

_HUB: dict[PermissionGroup, tuple[Permission, ...]] = {
    PermissionGroup.ANONYMOUS_USERS: (
        Permission.SUBMIT,
        Permission.ACCEPT_ANY_SENDER,
        Permission.ACCEPT_HEADERS_ROUTING,
    ),
    PermissionGroup.EXCHANGE_USERS: (
        Permission.SUBMIT,
        Permission.ACCEPT_ANY_RECIPIENT,
        Permission.BYPASS_ANTI_SPAM,
    ),
    PermissionGroup.EXCHANGE_SERVERS: RECEIVE_PERMISSIONS,
    PermissionGroup.EXCHANGE_LEGACY_SERVERS: (
        Permission.SUBMIT,
        Permission.ACCEPT_ANY_RECIPIENT,
        Permission.ACCEPT_ANY_SENDER,
        Permission.ACCEPT_AUTHORITATIVE_DOMAIN_SENDER,
        Permission.ACCEPT_AUTHENTICATION_FLAG,
        Permission.ACCEPT_HEADERS_ROUTING,
        Permission.ACCEPT_EXCH50,
        Permission.BYPASS_MESSAGE_SIZE_LIMIT,
        Permission.BYPASS_ANTI_SPAM,
    ),
    PermissionGroup.PARTNERS: (Permission.SUBMIT, Permission.ACCEPT_HEADERS_ROUTING),
}

_HUB_ONLY = frozenset({PermissionGroup.EXCHANGE_USERS, PermissionGroup.EXCHANGE_LEGACY_SERVERS})

_USAGE: dict[Usage, UsageDefaults] = {
    Usage.CLIENT: UsageDefaults(
        (PermissionGroup.EXCHANGE_USERS,), (AuthMechanism.TLS, AuthMechanism.BASIC_AUTH_REQUIRE_TLS)
    ),
    Usage.INTERNAL: UsageDefaults(
        (PermissionGroup.EXCHANGE_SERVERS, PermissionGroup.EXCHANGE_LEGACY_SERVERS),
        (AuthMechanism.EXCHANGE_SERVER,),
    ),
    Usage.INTERNET: UsageDefaults((PermissionGroup.ANONYMOUS_USERS, PermissionGroup.PARTNERS), (AuthMechanism.NONE,)),
    Usage.PARTNER: UsageDefaults((PermissionGroup.PARTNERS,), (AuthMechanism.TLS,)),
    Usage.CUSTOM: UsageDefaults((), ()),
}

_SEND: dict[Usage, tuple[tuple[Principal, ...], tuple[Permission, ...]]] = {
    Usage.INTERNAL: (
        (
            Principal.HUB_TRANSPORT_SERVERS,
            Principal.EDGE_TRANSPORT_SERVERS,
            Principal.EXTERNALLY_SECURED_SERVERS,
            Principal.LEGACY_EXCHANGE_SERVERS,
        ),
        SEND_PERMISSIONS,
    ),
    Usage.INTERNET: ((Principal.ANONYMOUS,), (Permission.SEND_HEADERS_ROUTING,)),
    Usage.PARTNER: ((Principal.PARTNER_SERVERS,), (Permission.SEND_HEADERS_ROUTING,)),
}

_SEND_AUTH: dict[Usage, AuthMechanism] = {
    Usage.INTERNAL: AuthMechanism.EXCHANGE_SERVER,
}


def is_available(group: PermissionGroup, role: Role) -> bool:
    """Tell whether tiers of `role` have `group` at all (spec.md 1.3)."""
    return role is Role.HUB or group not in _HUB_ONLY


def receive_grants(group: PermissionGroup | str, role: Role, *, origin: str = "") -> tuple[Grant, ...]:
    """Flatten a permission group to grants (spec.md 1.3); empty where `role` does not have the group.

    Parameters
    ----------
    group
        A :class:`PermissionGroup` or its name.
    role
        The role of the tier that the connector belongs to.
    origin
        What goes into every grant's ``origin``, such as ``spec.permissionGroups[0]: AnonymousUsers``.

    Raises
    ------
    ValueError
        There is no group of that name.
    """
    group = PermissionGroup(group)
    if not is_available(group, role):
        return ()
    return tuple(
        Grant(principal=str(principal), permission=permission, origin=origin)
        for principal in _MEMBERS[group]
        for permission in _HUB[group]
    )


def usage_defaults(usage: Usage) -> UsageDefaults:
    """Return the groups and mechanisms that a receive connector's usage type stands for (spec.md 1.4)."""
    return _USAGE[usage]


def send_grants(usage: Usage, *, origin: str = "") -> tuple[Grant, ...]:
    """Return the grants that a send connector's usage type stands for (spec.md 1.5)."""
    principals, permissions = _SEND.get(usage, ((), ()))
    return tuple(
        Grant(principal=str(principal), permission=permission, origin=origin)
        for principal in principals
        for permission in permissions
    )


def send_auth_mechanism(usage: Usage) -> AuthMechanism:
    """Return the smart host authentication that a send connector's usage type stands for (spec.md 1.5)."""
    return _SEND_AUTH.get(usage, AuthMechanism.NONE)
