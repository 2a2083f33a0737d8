"""SendConnector: where mail for other domains goes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from postroad_operator.resources.base import KeyReference, LocalReference, Model, Resource, Status
from postroad_operator.resources.directories import Claim, HttpsURL
from postroad_operator.resources.grants import SendGrant
from postroad_operator.resources.partners import DomainSecurity, TlsTrust
from postroad_operator.resources.receive_connector import TlsPolicy, Usage
from postroad_operator.resources.rules import Rule, matching
from postroad_operator.resources.scalars import (
    Count,
    DomainName,
    DomainPattern,
    Duration,
    Host,
    ObjectName,
    Port,
    Resolver,
    ShortText,
    Size,
    StrictBool,
    Unique,
    address,
)
from postroad_operator.resources.tier import TIER_IS_IMMUTABLE

SmartHostAuth = Literal["None", "BasicAuth", "BasicAuthRequireTLS", "ExchangeServer", "ExternalAuthoritative"]
BASIC = frozenset({"BasicAuth", "BasicAuthRequireTLS"})
_ROUTES = ("dns", "smart_hosts", "lmtp", "drop")
_CEL_BASIC = "self.smartHostAuthMechanism in ['BasicAuth', 'BasicAuthRequireTLS']"


_RATE = r"^(0|[1-9][0-9]{0,8}/[smh])$"
Rate = Annotated[
    str,
    Field(max_length=16),
    matching(_RATE, "write a rate such as 10/s, 100/m or 5000/h; 0 for no limit"),
]


class AddressSpace(Model):
    """Recipient domains that a connector takes."""

    domain: DomainPattern
    """*, example.com or *.example.com. The most specific match wins."""
    cost: int = Field(default=1, ge=1, le=100, strict=True)
    """Among equal matches the lowest cost wins."""


class Dns(Model):
    """Route by the recipient domain's MX records."""

    resolvers: list[Resolver] = Field(default=[], max_length=8)
    """DNS servers to ask, as address or address:port. None: the system's."""
    port: Port | None = None
    """Port of the mail exchangers. Not given: spec.port."""


class SmartHost(Model):
    """A host that takes all mail of the connector."""

    host: Host
    """Name or IP address."""
    port: Port | None = None
    """Not given: spec.port."""


class Lmtp(Model):
    """Hand over by LMTP (RFC 2033)."""

    host: Host
    """Name or IP address."""
    port: Port = 24
    """TCP port."""


class Drop(Model):
    """Accept and discard."""


class TokenEndpoint(Model):
    """An issuer that gives access tokens to this client (RFC 6749)."""

    token_url: HttpsURL = Field(alias="tokenURL")
    """Where tokens are had. Client credentials are used, or a refresh token where the Secret has one."""
    scopes: Annotated[list[Claim], Field(max_length=16), Unique] = []
    """What to ask for, such as https://outlook.office365.com/.default."""
    ca_bundle_config_map_ref: KeyReference | None = None
    """ConfigMap key with the CA certificates (PEM) that the issuer's must chain to. Not given: the system's."""


class Limits(Model):
    """Send limits. 0 means no limit."""

    message_size: Size = 0
    """Largest message that leaves here."""
    connections: Count = 20
    """Simultaneous connections to one destination, for each worker process."""
    messages_per_connection: Count = 0
    """Messages in one session."""
    rate: Rate = "0"
    """Messages over time to one destination, as 10/s, 100/m or 5000/h."""
    connect_timeout: Duration = "30s"
    """To connect and be greeted."""
    command_timeout: Duration = "5m"
    """For the reply to a command."""
    data_timeout: Duration = "10m"
    """For the reply to the end of a message."""


class Retry(Model):
    """When a message that could not be handed over is tried again, and when it is given up."""

    schedule: list[Duration] = Field(default=["1m", "5m", "15m", "30m", "1h"], min_length=1, max_length=32)
    """Waiting times between attempts; the last one repeats."""
    expiration: Duration = "2d"
    """Age at which a message is returned to its sender."""
    delay_notification: Duration = "4h"
    """Age at which the sender is told of the delay. 0: never."""


class SendConnectorSpec(Model):
    """Which recipient domains go this way, where to, and how."""

    RULES: ClassVar = (
        TIER_IS_IMMUTABLE,
        Rule(
            "give exactly one of dns, smartHosts, lmtp and drop",
            "[has(self.dns), has(self.smartHosts), has(self.lmtp), has(self.drop)].filter(x, x).size() == 1",
            lambda s: sum(getattr(s, route) is not None for route in _ROUTES) == 1,
        ),
        Rule(
            "domainSecure needs DNS routing: give dns instead",
            "!self.domainSecure || has(self.dns)",
            lambda s: not s.domain_secure or s.dns is not None,
            "domainSecure",
        ),
        Rule(
            "with ExternalAuthoritative each smart host is given by its IP address",
            "!has(self.smartHostAuthMechanism) || self.smartHostAuthMechanism != 'ExternalAuthoritative'"
            " || (has(self.smartHosts) && self.smartHosts.all(h, isIP(h.host)))",
            lambda s: (
                s.smart_host_auth_mechanism != "ExternalAuthoritative"
                or (bool(s.smart_hosts) and all(address(h.host) for h in s.smart_hosts))
            ),
            "smartHosts",
        ),
        Rule(
            "BasicAuth and BasicAuthRequireTLS need authSecretRef, and authSecretRef needs one of them",
            f"(has(self.smartHostAuthMechanism) && {_CEL_BASIC}) == has(self.authSecretRef)",
            lambda s: (s.smart_host_auth_mechanism in BASIC) == (s.auth_secret_ref is not None),
            "authSecretRef",
        ),
        Rule(
            "oauth2 needs authSecretRef",
            "!has(self.oauth2) || has(self.authSecretRef)",
            lambda s: s.oauth2 is None or s.auth_secret_ref is not None,
            "oauth2",
        ),
        Rule(
            "smartHostAuthMechanism needs smartHosts",
            "!has(self.smartHostAuthMechanism) || self.smartHostAuthMechanism == 'None' || has(self.smartHosts)",
            lambda s: s.smart_host_auth_mechanism in (None, "None") or s.smart_hosts is not None,
            "smartHostAuthMechanism",
        ),
        Rule(
            "ignoreSTARTTLS excludes everything that needs TLS: requireTLS, tlsAuthLevel, domainSecure and"
            " BasicAuthRequireTLS",
            "!self.ignoreSTARTTLS || (!self.requireTLS && !has(self.tlsAuthLevel) && !self.domainSecure"
            " && !(has(self.smartHostAuthMechanism) && self.smartHostAuthMechanism == 'BasicAuthRequireTLS'))",
            lambda s: (
                not s.ignore_starttls
                or not (
                    s.require_tls
                    or s.tls_auth_level
                    or s.domain_secure
                    or s.smart_host_auth_mechanism == "BasicAuthRequireTLS"
                )
            ),
            "ignoreSTARTTLS",
        ),
        Rule(
            "tlsDomain needs tlsAuthLevel: DomainValidation",
            "!has(self.tlsDomain) || (has(self.tlsAuthLevel) && self.tlsAuthLevel == 'DomainValidation')",
            lambda s: s.tls_domain is None or s.tls_auth_level == "DomainValidation",
            "tlsDomain",
        ),
    )

    tier: ObjectName = "default"
    """Name of the tier that serves this connector."""
    usage: Usage = "Custom"
    """What the connector is for; says which headers may leave, and how to authenticate to smart hosts."""
    enabled: StrictBool = True
    """False: not used."""
    suspend: StrictBool = False
    """True: mail that goes this way waits in the queue, and nothing is tried."""
    address_spaces: list[AddressSpace] = Field(min_length=1, max_length=256)
    """Recipient domains that go this way."""
    dns: Dns | None = None
    """Route by MX records."""
    smart_hosts: list[SmartHost] | None = Field(default=None, min_length=1, max_length=32)
    """Hand everything to these hosts, tried in order."""
    lmtp: Lmtp | None = None
    """Hand everything over by LMTP."""
    drop: Drop | None = None
    """Discard everything."""
    port: Port = 25
    """Port of mail exchangers and smart hosts that give none."""
    smart_host_auth_mechanism: SmartHostAuth | None = None
    """How to authenticate to smart hosts. Not given: as the usage says."""
    auth_secret_ref: LocalReference | None = None
    """Secret with the keys username and password, or accessToken in place of password. See oauth2."""
    oauth2: TokenEndpoint | None = Field(default=None, alias="oauth2")
    """Log in with access tokens (OAUTHBEARER, XOAUTH2). The Secret has clientID, and clientSecret or refreshToken."""
    require_tls: StrictBool = Field(default=False, alias="requireTLS")
    """Send nothing in clear."""
    ignore_starttls: StrictBool = Field(default=False, alias="ignoreSTARTTLS")
    """Never use STARTTLS, even when it is offered."""
    tls_auth_level: Literal["EncryptionOnly", "CertificateValidation", "DomainValidation"] | None = None
    """What TLS must prove: encryption, a valid certificate, or one for the right name. Implies requireTLS."""
    tls_domain: DomainName | None = None
    """Name that the certificate must hold under DomainValidation. Not given: the host's."""
    tls_policy: TlsPolicy | None = None
    """Versions and cipher suites, as for receive connectors. Not given: Modern and CBC suites with ECDHE where a
    certificate is verified, any suite of TLS 1.2 on where none is."""
    domain_secure: StrictBool = False
    """Send to the domains in domainSecurity over mutual TLS only. Needs DNS routing."""
    domain_security: DomainSecurity | None = None
    """Recipients' domains that mail waits for where TLS does not prove the host to be theirs."""
    tls_trust: TlsTrust = TlsTrust()
    """Whose server certificates are believed, wherever one has to be valid."""
    fqdn: DomainName | None = None
    """Name given in EHLO. Not given: the server's own."""
    limits: Limits = Limits()
    """Limits on messages, connections and time."""
    retry: Retry = Retry()
    """Retries and expiry."""
    grants: list[SendGrant] = Field(default=[], max_length=64)
    """Permissions allowed or denied beyond the usage's."""


class SendConnector(Resource):
    """A SendConnector says where mail for some recipient domains goes, and how."""

    kind: Literal["SendConnector"] = "SendConnector"
    spec: SendConnectorSpec


class SendConnectorStatus(Status):
    """What the operator has observed of a send connector."""

    domains: ShortText = ""
    """Address spaces, for the table."""
    route: ShortText = ""
    """Where mail goes, for the table."""
