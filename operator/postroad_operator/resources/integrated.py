"""Accounts that prove themselves without a password on the wire: Kerberos, NTLM, client certificates."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from postroad_operator.resources.base import KeyReference, Model
from postroad_operator.resources.directories import Address, AddressTemplate
from postroad_operator.resources.partners import Revocation
from postroad_operator.resources.rules import Rule, matching
from postroad_operator.resources.scalars import Unique

_REALM = r"^[^@/\\\s]{1,255}$"
_PRINCIPAL = r"^[^@\\\x00-\x20\x7f]+@[^@/\\\x00-\x20\x7f]+$"
_THUMBPRINT = r"^[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}$"
_NAMES = ("email", "dns_name", "common_name", "thumbprint")

Realm = Annotated[
    str,
    Field(max_length=255),
    matching(_REALM, "write a realm such as EXAMPLE.COM"),
]
KerberosPrincipal = Annotated[
    str,
    Field(max_length=512),
    matching(_PRINCIPAL, "write a principal with its realm, such as host/legacy1.mail.example@EXAMPLE.COM"),
]
Thumbprint = Annotated[
    str,
    Field(max_length=95),
    matching(_THUMBPRINT, "write the SHA-256 of the certificate: 64 hexadecimal digits, with or without colons"),
]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
AccountName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x20\x7f]+$")]


class Kerberos(Model):
    """Kerberos realms: clients log in with a ticket (GSSAPI). Needs Integrated; legacy servers, ExchangeServer."""

    keytab_secret_ref: KeyReference
    """Secret key with a keytab: the keys of smtp/NAME for every name that clients dial."""
    realms: Annotated[list[Realm], Field(max_length=16), Unique] = []
    """Realms whose principals are accounts, named without the realm. Not given: the realm of the service's key."""
    address_template: AddressTemplate | None = None
    """An address made of the account's name, such as {account}@example.com. Not given: at the default domain."""
    legacy_servers: Annotated[list[KerberosPrincipal], Field(max_length=256), Unique] = []
    """Principals, of whatever realm, that are the organisation's legacy servers: LegacyExchangeServers. Their tickets
    are taken by X-EXPS GSSAPI."""


class CertificateAccount(Model):
    """The account of some client certificates."""

    RULES: ClassVar = (
        Rule(
            "give exactly one of email, dnsName, commonName and thumbprint",
            "[has(self.email), has(self.dnsName), has(self.commonName), has(self.thumbprint)]"
            ".filter(x, x).size() == 1",
            lambda s: sum(getattr(s, name) is not None for name in _NAMES) == 1,
        ),
    )

    email: Name | None = None
    """An e-mail address among the certificate's subject alternative names."""
    dns_name: Name | None = None
    """A DNS name among them."""
    common_name: Name | None = None
    """The subject's common name."""
    thumbprint: Thumbprint | None = None
    """The certificate itself: SHA-256 of its DER, as openssl x509 -fingerprint -sha256 shows it."""
    account: AccountName
    """Name of the account."""
    addresses: list[Address] = Field(default=[], max_length=64)
    """Addresses that it may send as; *@example.com is a whole domain. Not given: its name at the default domain."""


class ClientCertificates(Model):
    """Client certificates: clients that show one in the TLS handshake may log in with it (AUTH EXTERNAL)."""

    RULES: ClassVar = (
        Rule(
            "give accountFrom or accounts: otherwise no certificate has an account",
            "size(self.accountFrom) > 0 || size(self.accounts) > 0",
            lambda s: bool(s.account_from or s.accounts),
            "accountFrom",
        ),
    )

    ca_bundle_config_map_ref: KeyReference
    """ConfigMap key with the CA certificates (PEM) that a client's must chain to."""
    revocation: Revocation = Revocation()
    """Revocation of clients' certificates."""
    account_from: Annotated[list[Literal["Email", "DNSName", "CommonName"]], Field(max_length=3), Unique] = ["Email"]
    """For certificates that accounts says nothing of: the first of these that one has is its account's name."""
    accounts: list[CertificateAccount] = Field(default=[], max_length=1024)
    """Accounts of single certificates; the first entry that fits counts."""
