"""The compiler: resources in, one tier configuration and a verdict per resource out."""

from postroad_operator.compile.cidrs import cidrs
from postroad_operator.compile.compiler import compile_tier, tiers
from postroad_operator.compile.direct_trust import speaks_direct_trust
from postroad_operator.compile.exposure import Exposure, exposure_of, hidden_ports
from postroad_operator.compile.neighbours import Neighbourhood
from postroad_operator.compile.snapshot import IssuedCertificate, ServerIdentity, Snapshot, TierSettings
from postroad_operator.compile.verdict import Compilation, Reason, Verdict

__all__ = [
    "Compilation",
    "Exposure",
    "IssuedCertificate",
    "Neighbourhood",
    "Reason",
    "ServerIdentity",
    "Snapshot",
    "TierSettings",
    "Verdict",
    "cidrs",
    "compile_tier",
    "exposure_of",
    "hidden_ports",
    "speaks_direct_trust",
    "tiers",
]
