"""Explicit grants (spec.md 1.6): what both kinds of connector share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from postroad_operator.resources.base import Model
from postroad_operator.resources.rules import matching
from postroad_transport.config import Permission, Principal

Effect = Literal["Allow", "Deny"]
_PRINCIPAL = rf"^({'|'.join(principal.value for principal in Principal)}|user:[^\s:]+(:[^\s:]+)*)$"
PrincipalName = Annotated[
    str,
    Field(max_length=256),
    matching(_PRINCIPAL, f"write one of {', '.join(principal.value for principal in Principal)}, or user:NAME"),
]

SendPermission = Literal[
    Permission.SEND_HEADERS_ROUTING,
    Permission.SEND_HEADERS_ORGANIZATION,
    Permission.SEND_HEADERS_FOREST,
    Permission.SEND_EXCH50,
]
ReceivePermission = Literal[
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
]


class _Grant(Model):
    principal: PrincipalName
    """Who: Anonymous, AuthenticatedUsers, a server group, or one user as user:NAME."""
    effect: Effect = "Allow"
    """Allow or Deny. A deny beats every allow."""


class ReceiveGrant(_Grant):
    """Receive permissions allowed or denied to one principal."""

    permissions: list[ReceivePermission] = Field(min_length=1, max_length=11)
    """Receive permissions, such as SMTP-Accept-Any-Recipient (may relay)."""


class SendGrant(_Grant):
    """Send permissions allowed or denied to one principal."""

    permissions: list[SendPermission] = Field(min_length=1, max_length=4)
    """Send permissions: which headers may leave through this connector."""
