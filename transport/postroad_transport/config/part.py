"""The base of everything in a TierConfig."""

from __future__ import annotations

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of every part of the configuration."""
