"""Accounts that prove themselves without a password: by Kerberos, NTLM, or a client certificate (spec.md 2.1)."""

from __future__ import annotations

from enum import StrEnum

from postroad_transport.config.part import Part
from postroad_transport.config.partners import TlsTrust


class Kerberos(Part, frozen=True, kw_only=True):
    """GSSAPI: principals of Kerberos realms are accounts (AUTH), or legacy servers (X-EXPS)."""

    keytab_file: str
    """Secret file: a keytab with the keys of ``smtp/HOST`` for every name that clients dial."""
    realms: tuple[str, ...] = ()
    """Realms whose principals are accounts, named without the realm; empty: the realm of the service's key."""
    address_template: str = ""
    """An address with ``{account}`` in it; empty: the account's name at the default domain."""
    legacy_servers: tuple[str, ...] = ()
    """Principals, each with its realm, that are legacy servers of the organisation. They need ``ExchangeServer``."""


class CertificateField(StrEnum):
    """What in a client certificate names an account."""

    EMAIL = "Email"
    DNS_NAME = "DNSName"
    COMMON_NAME = "CommonName"
    THUMBPRINT = "Thumbprint"


class CertificateAccount(Part, frozen=True, kw_only=True):
    """The account of certificates in which `field` is `value` (lower-case; a thumbprint is SHA-256 in hex)."""

    field: CertificateField
    value: str
    account: str
    addresses: tuple[str, ...] = ()


class ClientCertificates(Part, frozen=True, kw_only=True):
    """EXTERNAL: the client's TLS certificate names its account."""

    trust: TlsTrust
    """Authorities that a certificate must chain to, and how revocation is found out."""
    account_from: tuple[CertificateField, ...] = ()
    """Where `accounts` says nothing: the first of these that the certificate has is the account's name."""
    accounts: tuple[CertificateAccount, ...] = ()
