"""Receive connectors: usage defaults filled in, groups flattened, ranges normalised, relay proven closed."""

from __future__ import annotations

from postroad_operator.compile import integrated, unsupported
from postroad_operator.compile.authentication import compile_authentication
from postroad_operator.compile.cidrs import cidrs
from postroad_operator.compile.exposure import Hiding, hiding
from postroad_operator.compile.names import part_name
from postroad_operator.compile.partners import secure_domains, tls_trust
from postroad_operator.compile.references import References
from postroad_operator.compile.snapshot import TierSettings
from postroad_operator.compile.verdict import Compiled, Reason, RefusedError
from postroad_operator.resources import ReceiveConnector
from postroad_operator.resources.receive_connector import Extensions, ReceiveConnectorSpec
from postroad_operator.resources.scalars import ascii_domain, octets, seconds
from postroad_transport import config
from postroad_transport.config import AuthMechanism, Grant, Permission, TlsMode, TlsPolicy, Usage
from postroad_transport.policy import groups
from postroad_transport.policy.relay import open_relay_grants

_KEYWORDS = {
    "pipelining": "PIPELINING",
    "size": "SIZE",
    "eight_bit_mime": "8BITMIME",
    "smtp_utf8": "SMTPUTF8",
    "enhanced_status_codes": "ENHANCEDSTATUSCODES",
    "chunking": "CHUNKING",
    "binary_mime": "BINARYMIME",
    "dsn": "DSN",
}
_BASIC = frozenset({AuthMechanism.BASIC_AUTH, AuthMechanism.BASIC_AUTH_REQUIRE_TLS})


def compile_receive_connector(
    resource: ReceiveConnector, settings: TierSettings, references: References
) -> Compiled[config.ReceiveConnector]:
    """Compile one receive connector by itself.

    Raises
    ------
    RefusedError
        A reference is missing, a permission group is not available, or it would be an open relay.
    """
    spec = resource.spec
    warnings = unsupported.warnings(resource)
    chosen = mechanisms(spec)
    grants = _grants(spec, settings, warnings)
    files: dict[str, bytes] = {}
    hidden = hiding(spec, settings)
    authentication = compile_authentication(resource, references, files, warnings, hidden=hidden)
    part = config.ReceiveConnector(
        name=part_name(resource, settings),
        source=resource.source,
        usage=Usage(spec.usage),
        bindings=tuple(
            config.Binding(
                port=binding.port,
                tls=TlsMode(binding.tls),
                proxy_protocol=config.ProxyProtocol(trusted_ranges=cidrs(binding.proxy_protocol.trusted_ranges))
                if binding.proxy_protocol
                else None,
            )
            for binding in spec.bindings
        ),
        remote_ip_ranges=cidrs(spec.remote_ip_ranges),
        fqdn=ascii_domain(spec.fqdn) if spec.fqdn else settings.hostname,
        banner=spec.banner,
        auth_mechanisms=chosen,
        grants=grants,
        require_tls=spec.require_tls,
        secure_domains=secure_domains(resource, warnings),
        tls_policy=TlsPolicy(spec.tls_policy),
        tls_trust=tls_trust(resource, references),
        authentication=authentication,
        limits=_limits(spec),
        extensions=_extensions(spec.extensions),
        protocol_logging=spec.protocol_logging,
    )
    warnings += _surprises(part)
    _prove_no_open_relay(part, spec, settings, hidden, warnings)
    return Compiled(part, files, warnings)


def mechanisms(spec: ReceiveConnectorSpec) -> tuple[AuthMechanism, ...]:
    """Return a connector's mechanisms, the usage's where it gives none (spec.md 1.4)."""
    chosen = (
        groups.usage_defaults(Usage(spec.usage)).auth_mechanisms
        if spec.auth_mechanisms is None
        else map(AuthMechanism, spec.auth_mechanisms)
    )
    return tuple(mechanism for mechanism in dict.fromkeys(chosen) if mechanism is not AuthMechanism.NONE)


def _grants(spec: ReceiveConnectorSpec, settings: TierSettings, warnings: list[str]) -> tuple[Grant, ...]:
    grants: list[Grant] = []
    if spec.permission_groups is None:
        for group in groups.usage_defaults(Usage(spec.usage)).permission_groups:
            if not groups.is_available(group, settings.role):
                warnings.append(
                    f"spec.usage: {spec.usage} stands for the permission group {group}, which an {settings.role} tier"
                    " does not have: give permissionGroups or grants"
                )
            grants += groups.receive_grants(group, settings.role, origin=f"spec.usage: {spec.usage} ({group})")
    else:
        for index, name in enumerate(spec.permission_groups):
            field = f"spec.permissionGroups[{index}]"
            if not groups.is_available(groups.PermissionGroup(name), settings.role):
                raise RefusedError(
                    Reason.NOT_AVAILABLE,
                    f"{field}: an {settings.role} tier has no group {name}: remove it, or use grants",
                )
            grants += groups.receive_grants(name, settings.role, origin=f"{field}: {name}")
    for index, entry in enumerate(spec.grants):
        grants += (
            Grant(
                principal=entry.principal,
                permission=Permission(permission),
                deny=entry.effect == "Deny",
                origin=f"spec.grants[{index}]",
            )
            for permission in entry.permissions
        )
    return tuple(grants)


def _limits(spec: ReceiveConnectorSpec) -> config.ReceiveLimits:
    limits = spec.limits
    return config.ReceiveLimits(
        message_size=octets(limits.message_size),
        header_size=octets(limits.header_size),
        recipients=limits.recipients,
        connections=limits.connections,
        connections_per_source=limits.connections_per_source,
        messages_per_connection=limits.messages_per_connection,
        errors=limits.errors,
        hop_count=limits.hop_count,
        idle_timeout=seconds(limits.idle_timeout),
        total_timeout=seconds(limits.total_timeout),
        tarpit=seconds(limits.tarpit),
    )


def _extensions(extensions: Extensions) -> tuple[str, ...]:
    return tuple(keyword for name, keyword in _KEYWORDS.items() if getattr(extensions, name))


def _surprises(part: config.ReceiveConnector) -> list[str]:
    """Return what will work as written but not as its author may expect."""
    warnings = []
    offered = set(part.auth_mechanisms)
    if offered & _BASIC and not (part.authentication.has_passwords or part.authentication.has_tokens):
        warnings.append("spec.authentication: nobody can log in: give htpasswdSecretRef, ldap or oauth2")
    if (part.authentication.has_passwords or part.authentication.has_tokens) and not offered & _BASIC:
        warnings.append("spec.authentication: AUTH is not offered: add BasicAuthRequireTLS to authMechanisms")
    warnings += integrated.surprises(part)
    tls_ports = any(binding.tls is not TlsMode.OFF for binding in part.bindings)
    if part.authentication.has_tokens and not (tls_ports and AuthMechanism.TLS in offered):
        warnings.append("spec.authentication: tokens are taken after TLS only: add TLS to authMechanisms")
    in_clear = any(binding.tls is not TlsMode.IMPLICIT for binding in part.bindings) and not part.require_tls
    if AuthMechanism.BASIC_AUTH in offered and in_clear:
        warnings.append(
            "spec.authMechanisms: BasicAuth takes passwords in clear: BasicAuthRequireTLS takes them after TLS only"
        )
    for index, binding in enumerate(part.bindings):
        if binding.tls is TlsMode.OFF and part.require_tls:
            warnings.append(f"spec.bindings[{index}].tls: Off, but requireTLS refuses all mail without TLS")
        elif binding.tls is TlsMode.OFF and AuthMechanism.BASIC_AUTH_REQUIRE_TLS in offered:
            warnings.append(f"spec.bindings[{index}].tls: Off, so that nobody can log in on port {binding.port}")
    submits = {grant.principal for grant in part.grants if grant.permission is Permission.SUBMIT and not grant.deny}
    if not submits:
        warnings.append("spec.permissionGroups: nobody may submit mail here: give permissionGroups or grants")
    return warnings


def _prove_no_open_relay(
    part: config.ReceiveConnector,
    spec: ReceiveConnectorSpec,
    settings: TierSettings,
    hidden: Hiding | None,
    warnings: list[str],
) -> None:
    findings = open_relay_grants(part, settings.networks, client_addresses_visible=hidden is None)
    if not findings:
        if spec.allow_open_relay:
            warnings.append("spec.allowOpenRelay: not needed: this connector does not relay for anyone: remove it")
        return
    ranges: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for finding in findings:
        ranges.setdefault((finding.principal, finding.origins), []).append(finding.range)
    why = (
        "which is wider than the tier's own networks,"
        if hidden is None
        else f"which keeps nobody out because {hidden.why},"
    )
    causes = "; ".join(
        f"{principal} from {' and '.join(found)}, {why} may relay anywhere: {', '.join(origins)}"
        for (principal, origins), found in ranges.items()
    )
    if not spec.allow_open_relay:
        raise RefusedError(
            Reason.OPEN_RELAY if hidden is None else Reason.CLIENT_ADDRESSES_HIDDEN,
            f"{part.source} would be an open relay: {causes}."
            f" {hidden.remedy if hidden else 'Narrow spec.remoteIPRanges'}, remove a grant, or set"
            " spec.allowOpenRelay if that is what you want",
        )
    warnings.append(f"spec.allowOpenRelay: this connector is an open relay: {causes}")
