"""The compiler: resources in, one tier configuration and a verdict per resource out."""

from postroad_operator.compile.compiler import compile_tier, tiers
from postroad_operator.compile.snapshot import IssuedCertificate, Snapshot, TierSettings
from postroad_operator.compile.verdict import Compilation, Reason, Verdict

__all__ = [
    "Compilation",
    "IssuedCertificate",
    "Reason",
    "Snapshot",
    "TierSettings",
    "Verdict",
    "compile_tier",
    "tiers",
]
