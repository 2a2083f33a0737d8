"""Directories and issuers that know accounts: LDAP, OAuth 2, Kubernetes service accounts."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, Strict

from postroad_operator.resources.base import KeyReference, Model
from postroad_operator.resources.rules import Checked, Rule, matching
from postroad_operator.resources.scalars import Duration, ShortText, StrictBool, Unique, host

_ADDRESS = r"^(\*|[^@\s,:*<>\"]+)@[^@\s,:*<>\"]+$"
_TEMPLATE = r"^[^@\s,:*<>\"]*(\{account\}[^@\s,:*<>\"]*@[^@\s,:*<>\"]+|@[^@\s,:*<>\"]*\{account\}[^@\s,:*<>\"]*)$"
_SAFE_URL = r"^(https://[^\s/?#@]+|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?)(/[^\s?#]*)?$"
_LDAP_URL = r"^ldaps?://[^\s/?#@]+/?$"


def split_url(text: str) -> SplitResult | None:
    """Return the parts of a URL with a usable host and port and no user name, None where it has not."""
    try:
        parts = urlsplit(text)
        if parts.username is not None or not parts.hostname or parts.port == 0:
            return None
        host(parts.hostname)
    except (ValueError, UnicodeError):
        return None
    return parts


def filter_fault(text: str) -> str:
    """Return what is wrong with a filter template (RFC 4515), empty where nothing is."""
    if "{user}" not in text and "{local}" not in text:
        return "must ask for {user} or {local}: otherwise everybody would find the same entry"
    unknown = set(re.findall(r"\{([^{}]*)\}", text)) - {"user", "local", "domain"}
    if unknown:
        return f"{{{min(unknown)}}} stands for nothing: write {{user}}, {{local}} or {{domain}}"
    rest = re.sub(r"\\[0-9A-Fa-f]{2}", "x", text)
    if "\\" in rest or "\0" in rest:
        return "a backslash begins an escape of two hexadecimal digits"
    # Innermost parts first: an assertion, then what and, or and not make of those that are left.
    rest = re.sub(r"\([^()=&|!]+[~<>]?=[^()]*\)", "\0", rest)
    before = ""
    while rest != before:
        before = rest
        rest = re.sub(r"\([&|]\0+\)|\(!\0\)", "\0", rest)
    return "" if rest == "\0" else "is no search filter (RFC 4515): mind the parentheses"


HttpsURL = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    matching(_SAFE_URL, "write an https URL (http goes to this machine only)", lambda v: split_url(v) is not None),
]
LdapURL = Annotated[
    str,
    Field(min_length=1, max_length=255),
    matching(
        _LDAP_URL,
        "write ldap://host or ldaps://host, with :port where it is not 389 or 636",
        lambda v: split_url(v) is not None,
    ),
]
Address = Annotated[
    str,
    Field(min_length=1, max_length=320),
    matching(_ADDRESS, "write an address, or *@example.com for a whole domain"),
]
AddressTemplate = Annotated[
    str,
    Field(max_length=320),
    matching(_TEMPLATE, "write an address with {account} in it, such as {account}@example.com"),
]
Attribute = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9-]*$")]
Claim = Annotated[str, Field(min_length=1, max_length=255)]
Filter = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Checked(
        (
            Rule(
                "must ask for {user} or {local}: otherwise everybody would find the same entry",
                "self.contains('{user}') || self.contains('{local}')",
                lambda v: "{user}" in v or "{local}" in v,
            ),
        ),
    ),
]
#: Signatures by a key pair (RFC 7518 section 3.1, RFC 8037): with a shared key, whoever can verify can forge.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class Ldap(Model):
    """A directory. The user's entry is searched for, then bound to with the password (RFC 4513)."""

    RULES: ClassVar = (
        Rule(
            "bindDN and bindPasswordSecretRef go together",
            "has(self.bindDN) == has(self.bindPasswordSecretRef)",
            lambda s: (s.bind_dn is None) == (s.bind_password_secret_ref is None),
            "bindDN",
        ),
    )

    urls: list[LdapURL] = Field(min_length=1, max_length=8)
    """Servers, tried in order: ldap://host takes up StartTLS, ldaps://host begins with TLS."""
    allow_cleartext: StrictBool = False
    """Passwords go to ldap:// servers without TLS, for anybody on the way to read."""
    ca_bundle_config_map_ref: KeyReference | None = None
    """ConfigMap key with the CA certificates (PEM) that the servers' must chain to. Not given: the system's."""
    bind_dn: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(default=None, alias="bindDN")
    """Whom to search as. Not given: anonymously."""
    bind_password_secret_ref: KeyReference | None = None
    """Secret key with the password to search with."""
    base_dn: str = Field(min_length=1, max_length=1024, alias="baseDN")
    """Where the search begins."""
    scope: Literal["Base", "OneLevel", "Subtree"] = "Subtree"
    """How deep it goes."""
    filter: Filter = "(&(objectClass=person)(|(uid={user})(mail={user})))"
    """Finds the one entry that a user may log in as. {user} is the name given; {local} and {domain} are its parts."""
    account_attribute: Attribute = "uid"
    """Its only value becomes the account's name. Active Directory: sAMAccountName."""
    address_attributes: Annotated[list[Attribute], Field(max_length=16), Unique] = [
        "mail",
        "mailAlternateAddress",
        "proxyAddresses",
    ]
    """Their values are what the user may send as (smtp: is taken off). Users must not be able to write them."""
    connect_timeout: Duration = "3s"
    """For a connection to one server."""
    operation_timeout: Duration = "5s"
    """For each answer of a server."""
    timeout: Duration = "10s"
    """For a whole login, however many servers are tried; then the client is asked to come back (454)."""
    connections: Annotated[int, Strict(), Field(ge=1, le=64)] = 4
    """Logins checked at one time, for each worker process; each takes two connections."""


class OAuth2(Model):
    """An issuer of access tokens that are signed JWTs: clients log in with OAUTHBEARER or XOAUTH2, after TLS."""

    RULES: ClassVar = (
        Rule(
            "give addressesClaim or addressTemplate: otherwise nobody may send as anything",
            "self.addressesClaim != '' || has(self.addressTemplate)",
            lambda s: s.addresses_claim != "" or s.address_template is not None,
            "addressesClaim",
        ),
    )

    issuer: HttpsURL
    """What the claim iss must be, to the letter. Its keys are found through .well-known/openid-configuration."""
    jwks_url: HttpsURL | None = Field(default=None, alias="jwksURL")
    """Where its keys are, if it does not say so itself."""
    ca_bundle_config_map_ref: KeyReference | None = None
    """ConfigMap key with the CA certificates (PEM) that the issuer's must chain to. Not given: the system's."""
    audiences: Annotated[list[Claim], Field(min_length=1, max_length=16), Unique]
    """A token must have been issued for one of these (claim aud)."""
    algorithms: Annotated[list[Algorithm], Field(min_length=1, max_length=10), Unique] = [
        "RS256",
        "PS256",
        "ES256",
        "EdDSA",
    ]
    """Signature algorithms that are believed."""
    account_claim: Claim = "sub"
    """The claim that becomes the account's name."""
    addresses_claim: ShortText = "email"
    """The claim (a string or a list) that says what the user may send as; email only if it is verified."""
    address_template: AddressTemplate | None = None
    """An address made of the account's name, such as {account}@example.com."""
    required_scopes: Annotated[list[Claim], Field(max_length=16), Unique] = []
    """Scopes that a token must have (claim scope or scp)."""
    leeway: Duration = "30s"
    """How far the issuer's clock may be off."""
    timeout: Duration = "5s"
    """For the issuer's answer; then the client is asked to come back (454)."""


class ServiceAccountEntry(Model):
    """Service accounts that may log in, and what they may send as."""

    namespace: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Namespace of the service account."""
    name: Annotated[str, Field(max_length=253, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")] = ""
    """Name of the service account. Not given: every one of the namespace."""
    addresses: list[Address] = Field(min_length=1, max_length=64)
    """Addresses that it may send as; *@example.com is a whole domain."""


class ServiceAccounts(Model):
    """Kubernetes service accounts: pods log in with a projected token, as bearer token or in place of a password."""

    audience: Claim
    """What the tokens must be issued for (serviceAccountToken.audience of the projected volume)."""
    allow: list[ServiceAccountEntry] = Field(min_length=1, max_length=256)
    """Who may log in. Entries about the same service account add up."""
