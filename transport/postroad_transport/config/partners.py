"""What TLS with the outside has to prove: authorities, revocation, and the domains of partners (spec.md 4)."""

from __future__ import annotations

from enum import StrEnum

from postroad_transport.config.part import Part


class RevocationMode(StrEnum):
    """Which certificates must be shown not to be revoked."""

    REQUIRED = "Required"
    """All: one that no list is to be had for is not taken."""
    WHERE_PUBLISHED = "WherePublished"
    """Those whose authority publishes a list: it is named in the certificate, or given here."""
    OFF = "Off"


class Revocation(Part, frozen=True, kw_only=True):
    """How certificate revocation lists (RFC 5280 section 5) are had."""

    mode: RevocationMode = RevocationMode.WHERE_PUBLISHED
    crls: str = ""
    """PEM of lists that are given."""
    fetch: bool = True
    """Fetch lists from the distribution points in certificates."""
    hosts: tuple[str, ...] = ()
    """Hosts that lists may be fetched from; empty: any."""


class TlsTrust(Part, frozen=True, kw_only=True):
    """Whom TLS believes. The tier's own trust bundle is believed besides."""

    authorities: str = ""
    """PEM of authorities."""
    system: bool = True
    """Believe the system's authorities, too."""
    revocation: Revocation = Revocation()


class SecureDomain(Part, frozen=True, kw_only=True):
    """A partner's domain that mail goes to, or comes from, over mutual TLS only."""

    domain: str
    names: tuple[str, ...]
    """Names of which the partner's certificate must hold one; never empty."""
