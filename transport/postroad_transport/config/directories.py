"""Directories and issuers that know the accounts of a receive connector (spec.md 2.1)."""

from __future__ import annotations

from enum import StrEnum

from postroad_transport.config.part import Part


class LdapTls(StrEnum):
    """How a connection to a directory is protected."""

    STARTTLS = "StartTLS"
    LDAPS = "LDAPS"
    CLEAR = "Clear"


class LdapScope(StrEnum):
    """How deep a search goes (RFC 4511 section 4.5.1.2)."""

    BASE = "Base"
    ONE_LEVEL = "OneLevel"
    SUBTREE = "Subtree"


class LdapServer(Part, frozen=True, kw_only=True):
    """One server of a directory."""

    host: str
    port: int
    tls: LdapTls


class Ldap(Part, frozen=True, kw_only=True):
    """A directory: the entry is searched for, then bound to with the password. Times in seconds."""

    servers: tuple[LdapServer, ...]
    """Tried in order; those that fail are left alone for a while."""
    base_dn: str
    scope: LdapScope = LdapScope.SUBTREE
    filter: str
    """RFC 4515, with ``{user}``, ``{local}`` and ``{domain}`` in place of values."""
    account_attribute: str
    """Its only value becomes the name of the account."""
    address_attributes: tuple[str, ...] = ()
    """Their values are the addresses of the account; a prefix ``smtp:`` is taken off."""
    credentials_file: str = ""
    """Secret file holding JSON ``{"username": DN, "password": ...}`` to search as; empty: anonymously."""
    ca_bundle: str = ""
    """PEM of the CAs that the servers' certificates must chain to; empty: the system's."""
    connect_timeout: float = 3.0
    operation_timeout: float = 5.0
    timeout: float = 10.0
    """For a whole check, however many servers are tried."""
    connections: int = 4
    """Checks at one time, per worker."""


class OAuth2(Part, frozen=True, kw_only=True):
    """An issuer of access tokens that are JWTs (RFC 7519, RFC 9068). Times in seconds."""

    issuer: str
    """What the claim ``iss`` must be."""
    jwks_url: str = ""
    """Where the keys are; empty: as ``issuer/.well-known/openid-configuration`` says."""
    audiences: tuple[str, ...]
    """One of them must be in the claim ``aud``."""
    algorithms: tuple[str, ...]
    """Signature algorithms that are believed (RFC 7518 section 3.1): none that uses a shared key."""
    account_claim: str
    addresses_claim: str = ""
    """A string or a list of strings."""
    address_template: str = ""
    """An address with ``{account}`` in it, beside those of the claim."""
    required_scopes: tuple[str, ...] = ()
    leeway: float = 30.0
    ca_bundle: str = ""
    """PEM of the CAs that the issuer's certificate must chain to; empty: the system's."""
    timeout: float = 5.0

    @property
    def configuration_url(self) -> str:
        """Where the issuer describes itself (OpenID Connect Discovery 1.0 section 4); empty: not used."""
        return "" if self.jwks_url else self.issuer.rstrip("/") + "/.well-known/openid-configuration"


class ServiceAccount(Part, frozen=True, kw_only=True):
    """What one service account, or with ``name`` empty every one of a namespace, may send as."""

    namespace: str
    name: str = ""
    addresses: tuple[str, ...] = ()


class ServiceAccounts(Part, frozen=True, kw_only=True):
    """Service accounts of the cluster that the tier runs in, by their tokens."""

    audience: str
    """What the tokens must have been issued for."""
    allow: tuple[ServiceAccount, ...]
