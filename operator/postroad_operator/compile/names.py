"""How parts of the configuration are called."""

from __future__ import annotations

from postroad_operator.compile.snapshot import TierSettings
from postroad_operator.resources import Resource


def part_name(resource: Resource, settings: TierSettings) -> str:
    """Return the resource's name, with its namespace in front where that is not the tier's own.

    The slash cannot occur in an object's name, hence two resources never share a name.
    """
    metadata = resource.metadata
    return metadata.name if metadata.namespace == settings.namespace else f"{metadata.namespace}/{metadata.name}"
