"""What every kind says about the tier it belongs to."""

from __future__ import annotations

from postroad_operator.resources.rules import Rule

TIER_IS_IMMUTABLE = Rule(
    "tier cannot be changed: create the resource anew for the other tier", "self.tier == oldSelf.tier", None, "tier"
)
