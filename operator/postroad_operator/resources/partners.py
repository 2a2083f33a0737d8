"""Partners: whose certificates are believed, and the domains that mutual TLS is enforced for (spec.md 4)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from postroad_operator.resources.base import KeyReference, Model
from postroad_operator.resources.scalars import DomainName, Host, StrictBool


class SecureDomain(Model):
    """A partner's domain."""

    domain: DomainName
    """The part of addresses behind the @. Subdomains are listed by themselves."""
    certificate_names: list[DomainName] = Field(default=[], max_length=16)
    """Names of which the partner's certificate must hold one. Not given: the domain."""


class DomainSecurity(Model):
    """Domains of partners. Mail with them goes over mutual TLS, or waits."""

    domains: list[SecureDomain] = Field(min_length=1, max_length=1000)
    """Partners' domains."""


class Revocation(Model):
    """How it is found out that a certificate was revoked: by its authority's CRL (RFC 5280 section 5)."""

    mode: Literal["Required", "WherePublished", "Off"] = "WherePublished"
    """Required: each certificate needs a CRL. WherePublished: those that name or are given one. "Off": none."""
    crl_config_map_ref: KeyReference | None = None
    """ConfigMap key with CRLs (PEM), for authorities whose CRLs cannot be fetched."""
    fetch: StrictBool = True
    """Fetch CRLs from the distribution points that trusted certificates name."""
    hosts: list[Host] = Field(default=[], max_length=64)
    """Hosts that CRLs may be fetched from. None: any."""


class TlsTrust(Model):
    """Whose certificates are believed. The tier's own authority always is."""

    ca_bundle_config_map_ref: KeyReference | None = None
    """ConfigMap key with the CA certificates (PEM) of partners."""
    system_authorities: StrictBool = True
    """Believe the system's authorities as well."""
    revocation: Revocation = Revocation()
    """Revocation of certificates."""
