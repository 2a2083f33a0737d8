"""What the compiler looks at: everything that may influence the configuration, at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from postroad_operator.resources import Invalid, Resource
from postroad_transport.config import Certificate, Role, TrustedServer
from postroad_transport.policy.relay import OWN_RANGES


@dataclass(frozen=True, slots=True)
class TierSettings:
    """What a tier is, apart from its resources.

    ``namespace`` is the tier's own: connectors of other namespaces carry theirs in their name. ``networks`` are
    the tier's own networks as CIDRs: relay granted to all of them is not an open relay.
    ``client_addresses_visible`` is false where every session seems to come from a load balancer or a node: then no
    range keeps anybody out, and relay that only a range narrows is open relay. ``hidden_ports`` are the ports on
    which that is so because of Services, with their names.
    """

    tier: str = "default"
    role: Role = Role.HUB
    hostname: str = "localhost"
    namespace: str = "default"
    networks: tuple[str, ...] = OWN_RANGES
    client_addresses_visible: bool = True
    hidden_ports: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    trust_bundle: str = ""
    postmaster: str = ""


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """Certificate material that exists for a TransportCertificate.

    ``files`` holds the contents of ``certificate.chain_file`` and ``certificate.key_file`` by name.
    """

    certificate: Certificate
    files: Mapping[str, bytes] = field(repr=False)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What the tier's servers present to the organisation's other servers (direct trust).

    ``servers`` are the tier's own entries of the trusted store: what is presented now, what follows it,
    and for a while what went before.
    """

    issued: IssuedCertificate
    servers: tuple[TrustedServer, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The compiler's input.

    ``objects`` are resources, Secrets and ConfigMaps, and documents that could not be read, in any order; those
    of other tiers are passed over. ``certificates``, ``certificate_problems`` (one sentence each) and
    ``certificates_pending`` (what is waited for) are keyed by the source of their TransportCertificate; one that is
    in none is pending. One with a certificate and problems is refused, and what it has goes on being served.
    """

    settings: TierSettings
    objects: tuple[Resource | Invalid, ...] = ()
    certificates: Mapping[str, IssuedCertificate] = field(default_factory=dict)
    certificate_problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    server_identity: ServerIdentity | None = None
    server_identity_problem: str = ""
    """Why there is no ``server_identity``; empty where none is needed, or none has been asked for."""
    certificates_pending: Mapping[str, str] = field(default_factory=dict)
    ticket_secret: bytes = field(default=b"", repr=False)
    """What the keys of session tickets are derived from; empty: each worker has keys of its own."""
