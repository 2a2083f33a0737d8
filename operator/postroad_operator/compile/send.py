"""Send connectors: routing chosen, usage defaults filled in, credentials taken from Secrets."""

from __future__ import annotations

from postroad_operator.compile import unsupported
from postroad_operator.compile.credentials import credentials, token_endpoint
from postroad_operator.compile.names import part_name
from postroad_operator.compile.partners import secure_domains, tls_trust
from postroad_operator.compile.references import References
from postroad_operator.compile.snapshot import TierSettings
from postroad_operator.compile.verdict import Compiled
from postroad_operator.resources import SendConnector
from postroad_operator.resources.scalars import ascii_domain, host, octets, seconds
from postroad_operator.resources.send_connector import BASIC, SendConnectorSpec
from postroad_transport import config
from postroad_transport.config import AuthMechanism, Grant, Permission, TlsAuthLevel, TlsPolicy, Usage
from postroad_transport.config.files import secret_name
from postroad_transport.policy import groups

_PERIODS = {"s": 1, "m": 60, "h": 3600}


def compile_send_connector(
    resource: SendConnector, settings: TierSettings, references: References
) -> Compiled[config.SendConnector]:
    """Compile one send connector.

    Raises
    ------
    RefusedError
        A reference is missing or cannot be used.
    """
    spec = resource.spec
    files: dict[str, bytes] = {}
    credentials_file = ""
    chosen = mechanism(spec)
    if chosen in BASIC and spec.auth_secret_ref:
        content = credentials(spec, resource.metadata.namespace, spec.auth_secret_ref.name, references)
        credentials_file = secret_name("credentials", resource.metadata.name, content, "json")
        files[credentials_file] = content
    warnings = unsupported.warnings(resource)
    if chosen is AuthMechanism.BASIC_AUTH and not (spec.require_tls or spec.tls_auth_level):
        warnings.append("spec.smartHostAuthMechanism: BasicAuth may send the password in clear: set requireTLS")
    if spec.suspend:
        warnings.append("spec.suspend: mail waits in the queue until this is false")
    part = config.SendConnector(
        name=part_name(resource, settings),
        source=resource.source,
        usage=Usage(spec.usage),
        address_spaces=tuple(
            config.AddressSpace(domain=_pattern(space.domain), cost=space.cost) for space in spec.address_spaces
        ),
        routing=_routing(spec),
        auth_mechanism=chosen,
        credentials_file=credentials_file,
        tokens=token_endpoint(spec.oauth2, resource.metadata.namespace, references)
        if credentials_file and spec.oauth2
        else None,
        require_tls=spec.require_tls
        or spec.tls_auth_level is not None
        or chosen is AuthMechanism.BASIC_AUTH_REQUIRE_TLS,
        ignore_starttls=spec.ignore_starttls,
        tls_auth_level=TlsAuthLevel(spec.tls_auth_level) if spec.tls_auth_level else None,
        tls_domain=ascii_domain(spec.tls_domain) if spec.tls_domain else "",
        tls_policy=TlsPolicy(spec.tls_policy) if spec.tls_policy else None,
        secure_domains=secure_domains(resource, warnings),
        tls_trust=tls_trust(resource, references),
        fqdn=ascii_domain(spec.fqdn) if spec.fqdn else settings.hostname,
        limits=_limits(spec),
        retry=config.RetryPolicy(
            schedule=tuple(max(1, round(seconds(step))) for step in spec.retry.schedule),
            expiration=round(seconds(spec.retry.expiration)),
            delay_notification=round(seconds(spec.retry.delay_notification)),
        ),
        grants=_grants(spec),
        suspend=spec.suspend,
    )
    return Compiled(part, files, warnings)


def mechanism(spec: SendConnectorSpec) -> AuthMechanism:
    """Return how a connector authenticates to smart hosts, as the usage says where it does not (spec.md 1.5)."""
    if spec.smart_host_auth_mechanism is not None:
        return AuthMechanism(spec.smart_host_auth_mechanism)
    return groups.send_auth_mechanism(Usage(spec.usage)) if spec.smart_hosts else AuthMechanism.NONE


def _pattern(domain: str) -> str:
    if domain == "*":
        return domain
    prefix = "*." if domain.startswith("*.") else ""
    return prefix + ascii_domain(domain.removeprefix("*."))


def _routing(
    spec: SendConnectorSpec,
) -> config.DnsRouting | config.SmartHostRouting | config.Lmtp | config.Drop:
    def port(given: int | None) -> int:
        return spec.port if given is None else given

    if spec.dns is not None:
        return config.DnsRouting(resolvers=tuple(spec.dns.resolvers), port=port(spec.dns.port))
    if spec.smart_hosts is not None:
        return config.SmartHostRouting(
            hosts=tuple(config.Host(host=host(item.host), port=port(item.port)) for item in spec.smart_hosts)
        )
    if spec.lmtp is not None:
        return config.Lmtp(host=host(spec.lmtp.host), port=spec.lmtp.port)
    return config.Drop()


def _limits(spec: SendConnectorSpec) -> config.SendLimits:
    limits = spec.limits
    count, _, period = limits.rate.partition("/")
    return config.SendLimits(
        message_size=octets(limits.message_size),
        connections=limits.connections,
        messages_per_connection=limits.messages_per_connection,
        rate=int(count) / _PERIODS[period or "s"],
        connect_timeout=seconds(limits.connect_timeout),
        command_timeout=seconds(limits.command_timeout),
        data_timeout=seconds(limits.data_timeout),
    )


def _grants(spec: SendConnectorSpec) -> tuple[Grant, ...]:
    explicit = (
        Grant(
            principal=entry.principal,
            permission=Permission(permission),
            deny=entry.effect == "Deny",
            origin=f"spec.grants[{index}]",
        )
        for index, entry in enumerate(spec.grants)
        for permission in entry.permissions
    )
    return (*groups.send_grants(Usage(spec.usage), origin=f"spec.usage: {spec.usage}"), *explicit)
