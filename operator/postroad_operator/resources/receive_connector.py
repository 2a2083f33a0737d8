"""ReceiveConnector: where the tier listens, for whom, and what they may do."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict

from postroad_operator.resources.base import KeyReference, Model, Resource, Status
from postroad_operator.resources.directories import Ldap, OAuth2, ServiceAccounts
from postroad_operator.resources.grants import ReceiveGrant
from postroad_operator.resources.integrated import ClientCertificates, Kerberos
from postroad_operator.resources.partners import DomainSecurity, TlsTrust
from postroad_operator.resources.rules import Rule
from postroad_operator.resources.scalars import (
    CIDR,
    Count,
    DomainName,
    Duration,
    IPRange,
    ObjectName,
    Port,
    ShortText,
    Size,
    StrictBool,
    Unique,
    seconds,
)
from postroad_operator.resources.tier import TIER_IS_IMMUTABLE

Mechanism = Literal[
    "None", "TLS", "Integrated", "BasicAuth", "BasicAuthRequireTLS", "ExchangeServer", "ExternalAuthoritative"
]
Group = Literal["AnonymousUsers", "ExchangeUsers", "ExchangeServers", "ExchangeLegacyServers", "Partners"]
Usage = Literal["Client", "Internal", "Internet", "Partner", "Custom"]

TlsPolicy = Literal["Modern", "Intermediate", "Legacy"]

USAGES_WITH_TLS = frozenset({"Client", "Partner"})
"""Usage types whose default mechanisms include TLS (spec.md 1.4)."""

_CEL_OFFERS_TLS = "(has(self.authMechanisms) ? 'TLS' in self.authMechanisms : self.usage in ['Client', 'Partner'])"
_NOT_NARROWED = frozenset({"0.0.0.0-255.255.255.255"})


def _offers_tls(spec: ReceiveConnectorSpec) -> bool:
    return spec.usage in USAGES_WITH_TLS if spec.auth_mechanisms is None else "TLS" in spec.auth_mechanisms


class ProxyProtocol(Model):
    """Take the client's address from a PROXY protocol header (version 1 or 2)."""

    trusted_ranges: list[CIDR] = Field(min_length=1, max_length=64)
    """Load balancers whose header is believed; nobody else's is."""


class Binding(Model):
    """A TCP port."""

    port: Port
    """Port number. 0 lets the kernel choose (for tests)."""
    tls: Literal["STARTTLS", "Implicit", "Off"] = "STARTTLS"
    """STARTTLS: offered after EHLO. Implicit: TLS from the first byte. "Off" (in quotes): never."""
    proxy_protocol: ProxyProtocol | None = None
    """Expect the PROXY protocol from these load balancers."""


class Bans(Model):
    """What repeated failed logins lead to: the address is banned, the account closed to addresses new to it."""

    RULES: ClassVar = (
        Rule(
            "window and duration must be longer than 0s: to turn bans off, set failures and accountFailures to 0",
            "!self.window.matches('^[0.a-z]+$') && !self.duration.matches('^[0.a-z]+$')",
            lambda b: seconds(b.window) > 0 and seconds(b.duration) > 0,
        ),
    )

    failures: Annotated[int, Strict(), Field(ge=0, le=1000)] = 10
    """Failed logins within the window that ban an address (of IPv6, its /64). 0: addresses are not banned."""
    account_failures: Annotated[int, Strict(), Field(ge=0, le=1000)] = 50
    """Failed logins within the window that close an account, except to the addresses it was used from in the last
    30 days. 0: accounts are not closed."""
    window: Duration = "10m"
    """How long a failed login counts."""
    duration: Duration = "1h"
    """How long a ban lasts."""
    allow_ranges: list[IPRange] = Field(default=[], max_length=256)
    """Clients whose failed logins never count."""


class Authentication(Model):
    """Where the accounts come from that may log in."""

    htpasswd_secret_ref: KeyReference | None = None
    """Secret key with one account a line: user:hash, or user:hash:address,address. Hashes: argon2, bcrypt,
    SCRAM-SHA-256 keys."""
    ldap: Ldap | None = None
    """A directory that checks passwords (PLAIN and LOGIN) of users that the htpasswd lines do not name."""
    oauth2: OAuth2 | None = None
    """An issuer whose access tokens are taken (OAUTHBEARER and XOAUTH2)."""
    service_accounts: ServiceAccounts | None = None
    """Kubernetes service accounts that log in with their token (OAUTHBEARER, XOAUTH2, PLAIN and LOGIN)."""
    kerberos: Kerberos | None = None
    """Kerberos realms whose users log in with a ticket (GSSAPI, with Integrated); legacy servers (ExchangeServer)."""
    ntlm_secret_ref: KeyReference | None = None
    """Secret key with one account a line: user:NTHASH, or user:NTHASH:address,address (NTLM, with Integrated)."""
    client_certificates: ClientCertificates | None = None
    """Client certificates that log in as their account (EXTERNAL, with TLS)."""
    bans: Bans = Bans()
    """When failed logins ban."""


class Limits(Model):
    """Receive limits. 0 means no limit."""

    message_size: Size = "36Mi"
    """Largest message; announced by SIZE."""
    header_size: Size = "256Ki"
    """Largest header section of a message."""
    recipients: Count = 1000
    """Recipients of one message."""
    connections: Count = 5000
    """Simultaneous connections, for each worker process."""
    connections_per_source: Count = 500
    """Simultaneous connections from one address, for each worker process."""
    messages_per_connection: Count = 0
    """Messages in one session."""
    errors: Count = 10
    """Protocol errors after which the session is closed."""
    hop_count: Count = 60
    """Received headers above which a message is taken to be in a loop."""
    idle_timeout: Duration = "5m"
    """Silence after which the session is closed (RFC 5321 section 4.5.3.2 asks for at least 5 minutes)."""
    total_timeout: Duration = "1h"
    """Longest session."""
    tarpit: Duration = "5s"
    """Delay before the reply to a failed login; who is turned away unheard waits three times as long and more."""


class Extensions(Model):
    """ESMTP extensions offered after EHLO. Each can be turned off."""

    RULES: ClassVar = (
        Rule(
            "binaryMIME needs chunking (RFC 3030): turn both off",
            "!self.binaryMIME || self.chunking",
            lambda e: not e.binary_mime or e.chunking,
            "binaryMIME",
        ),
    )

    pipelining: StrictBool = True
    """PIPELINING (RFC 2920)."""
    size: StrictBool = True
    """SIZE (RFC 1870)."""
    eight_bit_mime: StrictBool = Field(default=True, alias="eightBitMIME")
    """8BITMIME (RFC 6152)."""
    smtp_utf8: StrictBool = Field(default=True, alias="smtpUTF8")
    """SMTPUTF8 (RFC 6531)."""
    enhanced_status_codes: StrictBool = True
    """ENHANCEDSTATUSCODES (RFC 2034)."""
    chunking: StrictBool = True
    """CHUNKING: the BDAT command (RFC 3030)."""
    binary_mime: StrictBool = Field(default=True, alias="binaryMIME")
    """BINARYMIME (RFC 3030)."""
    dsn: StrictBool = True
    """DSN (RFC 3461)."""


class ReceiveConnectorSpec(Model):
    """What the connector listens on, whom it serves, and what they may do."""

    RULES: ClassVar = (
        TIER_IS_IMMUTABLE,
        Rule(
            "each port may be bound once",
            "self.bindings.all(b, b.port == 0 || self.bindings.exists_one(o, o.port == b.port))",
            lambda s: len(set(ports := [b.port for b in s.bindings if b.port])) == len(ports),
            "bindings",
        ),
        Rule(
            "None stands alone: remove it or the others",
            "!has(self.authMechanisms) || !('None' in self.authMechanisms) || size(self.authMechanisms) == 1",
            lambda s: "None" not in (s.auth_mechanisms or ()) or len(s.auth_mechanisms) == 1,
            "authMechanisms",
        ),
        Rule(
            "BasicAuthRequireTLS needs TLS: add TLS to authMechanisms",
            "!has(self.authMechanisms) || !('BasicAuthRequireTLS' in self.authMechanisms)"
            " || 'TLS' in self.authMechanisms",
            lambda s: "BasicAuthRequireTLS" not in (s.auth_mechanisms or ()) or "TLS" in s.auth_mechanisms,
            "authMechanisms",
        ),
        Rule(
            "a binding with tls: Implicit needs TLS: add TLS to authMechanisms",
            f"!self.bindings.exists(b, b.tls == 'Implicit') || {_CEL_OFFERS_TLS}",
            lambda s: all(b.tls != "Implicit" for b in s.bindings) or _offers_tls(s),
            "authMechanisms",
        ),
        Rule(
            "requireTLS needs TLS: add TLS to authMechanisms",
            f"!self.requireTLS || {_CEL_OFFERS_TLS}",
            lambda s: not s.require_tls or _offers_tls(s),
            "requireTLS",
        ),
        Rule(
            "domainSecure needs TLS: add TLS to authMechanisms",
            f"!self.domainSecure || {_CEL_OFFERS_TLS}",
            lambda s: not s.domain_secure or _offers_tls(s),
            "domainSecure",
        ),
        Rule(
            "ExternalAuthoritative trusts every connection: narrow remoteIPRanges to the servers that are meant",
            "!has(self.authMechanisms) || !('ExternalAuthoritative' in self.authMechanisms)"
            " || self.remoteIPRanges.all(r, !r.endsWith('/0') && r != '0.0.0.0-255.255.255.255')",
            lambda s: (
                "ExternalAuthoritative" not in (s.auth_mechanisms or ())
                or all(not r.endswith("/0") and r not in _NOT_NARROWED for r in s.remote_ip_ranges)
            ),
            "remoteIPRanges",
        ),
    )

    tier: ObjectName = "default"
    """Name of the tier that serves this connector."""
    usage: Usage = "Custom"
    """What the connector is for; fills in authMechanisms and permissionGroups where they are not given."""
    enabled: StrictBool = True
    """False: not served."""
    bindings: list[Binding] = Field(min_length=1, max_length=16)
    """Ports to listen on."""
    remote_ip_ranges: list[IPRange] = Field(
        default=["0.0.0.0/0", "::/0"], min_length=1, max_length=256, alias="remoteIPRanges"
    )
    """Clients that this connector serves: CIDRs, ranges (10.0.0.1-10.0.0.9), addresses. The most specific wins."""
    fqdn: DomainName | None = None
    """Name in the greeting and in EHLO, and the name looked for in certificates. Not given: the server's own."""
    banner: ShortText = Field(default="", pattern=r"^[ -~]*$")
    """Text after the name in the 220 greeting."""
    auth_mechanisms: Annotated[list[Mechanism], Field(max_length=7), Unique] | None = None
    """How clients may authenticate. Not given: as the usage says. An empty list: not at all."""
    permission_groups: Annotated[list[Group], Field(max_length=5), Unique] | None = None
    """Who may do what, by group. Not given: as the usage says. An empty list: nobody, save for grants."""
    grants: list[ReceiveGrant] = Field(default=[], max_length=64)
    """Permissions allowed or denied beyond the groups."""
    allow_open_relay: StrictBool = False
    """Acknowledges that this connector relays for anyone. Without it such a connector is refused."""
    require_tls: StrictBool = Field(default=False, alias="requireTLS")
    """Refuse MAIL before TLS."""
    domain_secure: StrictBool = False
    """Ask clients for certificates, and take mail from the domains in domainSecurity over mutual TLS only."""
    domain_security: DomainSecurity | None = None
    """Senders' domains that a valid client certificate is needed for. Without one: a temporary refusal."""
    tls_policy: TlsPolicy = "Modern"
    """Versions and cipher suites. Modern: TLS 1.2 with ECDHE and AEAD, and TLS 1.3. Intermediate: also CBC suites
    with ECDHE. Legacy: also TLS 1.0 and 1.1, and suites without forward secrecy."""
    tls_trust: TlsTrust = TlsTrust()
    """Whose client certificates domain security believes."""
    authentication: Authentication | None = None
    """Accounts that may log in here."""
    limits: Limits = Limits()
    """Limits on messages, sessions and time."""
    extensions: Extensions = Extensions()
    """ESMTP extensions to offer."""
    protocol_logging: StrictBool = False
    """Log each command and reply (never credentials or content)."""


class ReceiveConnector(Resource):
    """A ReceiveConnector listens on ports for clients from some networks and says what they may do."""

    kind: Literal["ReceiveConnector"] = "ReceiveConnector"
    spec: ReceiveConnectorSpec


class ReceiveConnectorStatus(Status):
    """What the operator has observed of a receive connector."""

    ports: ShortText = ""
    """Bound ports, for the table."""
    certificate: ShortText = ""
    """TransportCertificate chosen for the connector's name, and those with other kinds of keys beside it."""
    certificate_reason: ShortText = ""
    """Why that one, or why none."""
