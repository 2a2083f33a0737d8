"""TierConfig and its parts: immutable, JSON-encodable, complete.

The compiler (``postroad_operator.compile``) is the only writer. Everything here is already resolved: usage
defaults are filled in, permission groups are flattened to grants, ranges are normalised to CIDRs, names
are lower-case A-labels (RFC 5890). ``source`` fields name the resource a part came from, as
``Kind/namespace/name``, so that logs, metrics and ``explain`` can point back at it.

Secret material is never in here. Fields called ``*_file`` hold the name of a file in the secrets directory;
the name contains a digest of the content, so that a configuration and its secrets can never be mixed up.
"""

from __future__ import annotations

from enum import StrEnum

from postroad_transport.config.authentication import Authentication
from postroad_transport.config.part import Part
from postroad_transport.config.partners import SecureDomain, TlsTrust


class Role(StrEnum):
    """What the tier is to the organisation; it decides which permission groups exist (spec.md 1.3)."""

    HUB = "hub"
    EDGE = "edge"


class Usage(StrEnum):
    """Connector usage types (spec.md 1.4, 1.5)."""

    CLIENT = "Client"
    INTERNAL = "Internal"
    INTERNET = "Internet"
    PARTNER = "Partner"
    CUSTOM = "Custom"


class TlsMode(StrEnum):
    """How a bound port speaks TLS."""

    STARTTLS = "STARTTLS"
    IMPLICIT = "Implicit"
    OFF = "Off"


class AuthMechanism(StrEnum):
    """Authentication mechanisms of connectors (spec.md 2.1, 2.2)."""

    NONE = "None"
    TLS = "TLS"
    INTEGRATED = "Integrated"
    BASIC_AUTH = "BasicAuth"
    BASIC_AUTH_REQUIRE_TLS = "BasicAuthRequireTLS"
    EXCHANGE_SERVER = "ExchangeServer"
    EXTERNAL_AUTHORITATIVE = "ExternalAuthoritative"


class TlsPolicy(StrEnum):
    """Which versions and suites of TLS are spoken (``postroad_transport.tls.policy`` says which)."""

    MODERN = "Modern"
    INTERMEDIATE = "Intermediate"
    LEGACY = "Legacy"


class TlsAuthLevel(StrEnum):
    """What an outbound TLS session must prove (Exchange's TlsAuthLevel)."""

    ENCRYPTION_ONLY = "EncryptionOnly"
    CERTIFICATE_VALIDATION = "CertificateValidation"
    DOMAIN_VALIDATION = "DomainValidation"


class DomainType(StrEnum):
    """Accepted domain types."""

    AUTHORITATIVE = "Authoritative"
    INTERNAL_RELAY = "InternalRelay"
    EXTERNAL_RELAY = "ExternalRelay"


class Principal(StrEnum):
    """Well-known principals (spec.md 1). A single user is written ``user:NAME``."""

    ANONYMOUS = "Anonymous"
    AUTHENTICATED_USERS = "AuthenticatedUsers"
    HUB_TRANSPORT_SERVERS = "HubTransportServers"
    EDGE_TRANSPORT_SERVERS = "EdgeTransportServers"
    EXTERNALLY_SECURED_SERVERS = "ExternallySecuredServers"
    PARTNER_SERVERS = "PartnerServers"
    LEGACY_EXCHANGE_SERVERS = "LegacyExchangeServers"


class Permission(StrEnum):
    """Receive (spec.md 1.1) and send (1.2) permissions."""

    SUBMIT = "SMTP-Submit"
    ACCEPT_ANY_RECIPIENT = "SMTP-Accept-Any-Recipient"
    ACCEPT_ANY_SENDER = "SMTP-Accept-Any-Sender"
    ACCEPT_AUTHORITATIVE_DOMAIN_SENDER = "SMTP-Accept-Authoritative-Domain-Sender"
    ACCEPT_AUTHENTICATION_FLAG = "SMTP-Accept-Authentication-Flag"
    ACCEPT_HEADERS_ROUTING = "Accept-Headers-Routing"
    ACCEPT_HEADERS_ORGANIZATION = "Accept-Headers-Organization"
    ACCEPT_HEADERS_FOREST = "Accept-Headers-Forest"
    ACCEPT_EXCH50 = "Accept-Exch50"
    BYPASS_MESSAGE_SIZE_LIMIT = "Bypass-Message-Size-Limit"
    BYPASS_ANTI_SPAM = "Bypass-Anti-Spam"
    SEND_HEADERS_ROUTING = "Send-Headers-Routing"
    SEND_HEADERS_ORGANIZATION = "Send-Headers-Organization"
    SEND_HEADERS_FOREST = "Send-Headers-Forest"
    SEND_EXCH50 = "Send-Exch50"


class Grant(Part, frozen=True, kw_only=True):
    """One permission allowed or denied to one principal on one connector (spec.md 1.3, 1.6).

    ``principal`` is a :class:`Principal` value or ``user:NAME``. ``origin`` is the field that caused it,
    such as ``spec.permissionGroups[0]: AnonymousUsers`` or ``spec.usage: Client``.
    """

    principal: str
    permission: Permission
    deny: bool = False
    origin: str = ""


class ProxyProtocol(Part, frozen=True, kw_only=True):
    """Take the client's address from a PROXY header (v1 or v2) when the peer is in ``trusted_ranges``."""

    trusted_ranges: tuple[str, ...]


class Binding(Part, frozen=True, kw_only=True):
    """A bound TCP port. ``port`` 0 lets the kernel choose (tests)."""

    port: int
    tls: TlsMode = TlsMode.STARTTLS
    proxy_protocol: ProxyProtocol | None = None


class ReceiveLimits(Part, frozen=True, kw_only=True):
    """Receive limits. Sizes in bytes, times in seconds; 0 means no limit. Connection caps count per worker."""

    message_size: int = 37_748_736
    header_size: int = 262_144
    recipients: int = 1000
    connections: int = 5000
    connections_per_source: int = 500
    messages_per_connection: int = 0
    errors: int = 10
    hop_count: int = 60
    idle_timeout: float = 300.0
    total_timeout: float = 3600.0
    tarpit: float = 5.0


#: ESMTP keywords a connector offers unless it turns them off.
ALL_EXTENSIONS = (
    "PIPELINING",
    "SIZE",
    "8BITMIME",
    "SMTPUTF8",
    "ENHANCEDSTATUSCODES",
    "CHUNKING",
    "BINARYMIME",
    "DSN",
)


class ReceiveConnector(Part, frozen=True, kw_only=True):
    """An enabled receive connector. ``created`` orders conflicting connectors (older first)."""

    name: str
    source: str
    usage: Usage = Usage.CUSTOM
    bindings: tuple[Binding, ...]
    remote_ip_ranges: tuple[str, ...]
    """CIDRs, both families."""
    fqdn: str
    """Name served in the banner and EHLO, and looked up in certificates; never empty."""
    banner: str = ""
    """Text after the name in the 220 greeting; empty: ``ESMTP Postroad``."""
    auth_mechanisms: tuple[AuthMechanism, ...] = ()
    grants: tuple[Grant, ...] = ()
    require_tls: bool = False
    secure_domains: tuple[SecureDomain, ...] = ()
    """Domains that mail is taken from over mutual TLS only (spec.md 4); empty: no client certificate is asked for."""
    tls_policy: TlsPolicy = TlsPolicy.MODERN
    tls_trust: TlsTrust = TlsTrust()
    """Whom client certificates must come from."""
    authentication: Authentication = Authentication()
    limits: ReceiveLimits = ReceiveLimits()
    extensions: tuple[str, ...] = ALL_EXTENSIONS
    protocol_logging: bool = False


class AddressSpace(Part, frozen=True, kw_only=True):
    """``domain`` is ``*``, ``example.com`` or ``*.example.com``. The best match wins, then the lowest cost."""

    domain: str
    cost: int = 1


class Host(Part, frozen=True, kw_only=True):
    """A next hop as configured: a name or an IP address, and a port."""

    host: str
    port: int = 25


class DnsRouting(Part, frozen=True, kw_only=True, tag="dns"):
    """Route by MX (RFC 5321 section 5.1). ``resolvers`` are ``address`` or ``address:port``; empty: the system's."""

    resolvers: tuple[str, ...] = ()
    port: int = 25


class SmartHostRouting(Part, frozen=True, kw_only=True, tag="smartHosts"):
    """Hand everything to these hosts, tried in order."""

    hosts: tuple[Host, ...]


class Lmtp(Part, frozen=True, kw_only=True, tag="lmtp"):
    """Deliver by LMTP (RFC 2033)."""

    host: str
    port: int = 24


class SmtpHost(Part, frozen=True, kw_only=True, tag="smtp"):
    """Deliver to one SMTP host (an internal mailbox server)."""

    host: str
    port: int = 25


class Drop(Part, frozen=True, kw_only=True, tag="drop"):
    """Accept and discard."""


class Maildir(Part, frozen=True, kw_only=True, tag="maildir"):
    """Deliver to a Maildir; ``path`` may hold ``{local}`` and ``{domain}``; relative to the state directory."""

    path: str


class SendLimits(Part, frozen=True, kw_only=True):
    """Send limits. Sizes in bytes, times in seconds, rate in messages per second; 0 means no limit."""

    message_size: int = 0
    connections: int = 20
    """Concurrent connections to one destination, per worker."""
    messages_per_connection: int = 0
    rate: float = 0.0
    connect_timeout: float = 30.0
    command_timeout: float = 300.0
    data_timeout: float = 600.0


class RetryPolicy(Part, frozen=True, kw_only=True):
    """When a deferred recipient is tried again. All in seconds; the last step of ``schedule`` repeats."""

    schedule: tuple[int, ...] = (60, 300, 900, 1800, 3600)
    expiration: int = 172_800
    delay_notification: int = 14_400
    """0: no delay notices."""


class TokenEndpoint(Part, frozen=True, kw_only=True):
    """Where access tokens for smart hosts are had (RFC 6749 section 3.2)."""

    url: str
    scopes: tuple[str, ...] = ()
    ca_bundle: str = ""
    """PEM of the CAs that its certificate must chain to; empty: the system's."""


class SendConnector(Part, frozen=True, kw_only=True):
    """An enabled send connector."""

    name: str
    source: str
    usage: Usage = Usage.CUSTOM
    address_spaces: tuple[AddressSpace, ...]
    routing: DnsRouting | SmartHostRouting | Lmtp | Drop
    auth_mechanism: AuthMechanism = AuthMechanism.NONE
    credentials_file: str = ""
    """Secret file holding JSON: ``username`` and ``password`` or ``accessToken``; with `tokens` ``username``,
    ``clientId``, ``clientSecret`` and perhaps ``refreshToken``."""
    tokens: TokenEndpoint | None = None
    """Log in with access tokens from there."""
    require_tls: bool = False
    ignore_starttls: bool = False
    tls_auth_level: TlsAuthLevel | None = None
    tls_domain: str = ""
    tls_policy: TlsPolicy | None = None
    """None: as the proof asks for, the most that a peer can do where nothing is verified."""
    secure_domains: tuple[SecureDomain, ...] = ()
    """Domains that mail goes to over mutual TLS only (spec.md 4)."""
    tls_trust: TlsTrust = TlsTrust()
    fqdn: str
    """Name given in EHLO; never empty."""
    limits: SendLimits = SendLimits()
    retry: RetryPolicy = RetryPolicy()
    grants: tuple[Grant, ...] = ()
    suspend: bool = False
    """Mail for it waits in the queue."""


class AcceptedDomain(Part, frozen=True, kw_only=True):
    """A domain the tier takes mail for."""

    domain: str
    source: str
    match_subdomains: bool = False
    type: DomainType = DomainType.AUTHORITATIVE
    default: bool = False
    alias_of: str = ""
    """Recipients ``id@domain`` become ``id@alias_of`` (spec.md 8)."""
    deliver: Maildir | Lmtp | SmtpHost | None = None
    """None: by send connector."""
    recipients: tuple[str, ...] | None = None
    """Local parts that exist, lower-case; None: every recipient is taken."""


class Certificate(Part, frozen=True, kw_only=True):
    """What certificate selection needs to know (spec.md 3), and where the PEM files are."""

    name: str
    source: str
    thumbprint: str
    """SHA-256 of the DER, lower-case hex."""
    dns_names: tuple[str, ...]
    """Subject alternative DNS names, lower-case; may hold one leading ``*.`` label."""
    common_name: str = ""
    services: tuple[str, ...] = ("SMTP",)
    self_signed: bool
    key_algorithm: str = ""
    """``RSA``, ``ECDSA``, ``Ed25519``; empty: not known, and then it is presented alone."""
    version: int = 3
    not_before: float
    not_after: float
    """Seconds since the epoch."""
    chain_file: str
    key_file: str = ""
    """Empty: no private key, hence never eligible."""


class TrustedServer(Part, frozen=True, kw_only=True):
    """A certificate that makes who presents it a server of the organisation (direct trust, spec.md 4).

    It is valid because it is in here: who issued it, which names it holds and when it ends make no difference.
    """

    thumbprint: str
    """SHA-256 of the DER, lower-case hex."""
    principal: Principal
    """What a session becomes: ``HubTransportServers`` or ``EdgeTransportServers``."""
    source: str
    """The TransportCertificate that carries it; empty: the tier's own."""
    certificate: str
    """PEM; no secret."""
    not_after: float
    """Seconds since the epoch; told to people, never checked."""

    @property
    def own(self) -> bool:
        """Whether the tier itself presents it, now or next."""
        return not self.source


class DirectTrust(Part, frozen=True, kw_only=True):
    """Direct trust between the organisation's servers: mutual TLS by thumbprint (``X-ANONYMOUSTLS``).

    ``identity`` is what this tier's servers present, to clients and to servers alike; None: nothing yet, and then
    X-ANONYMOUSTLS is neither offered nor spoken. ``servers`` is the trusted store. The tier's own entries, the one
    presented now and the one that follows it, are what an edge subscription carries to another tier.
    """

    identity: Certificate | None = None
    servers: tuple[TrustedServer, ...] = ()


class TierConfig(Part, frozen=True, kw_only=True):
    """Everything one tier serves."""

    format_version: int = 1
    tier: str
    role: Role = Role.HUB
    hostname: str
    """The server's own fully qualified name."""
    receive_connectors: tuple[ReceiveConnector, ...] = ()
    send_connectors: tuple[SendConnector, ...] = ()
    accepted_domains: tuple[AcceptedDomain, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    postmaster: str = ""
    """Address that delivery notices come from and double bounces would go to; empty: ``postmaster@hostname``."""
    trust_bundle: str = ""
    """PEM of the tier's own CA certificates: not secret."""
    direct_trust: DirectTrust = DirectTrust()
    generations: dict[str, int] = {}
    """``metadata.generation`` of every resource that is in here, by source."""
