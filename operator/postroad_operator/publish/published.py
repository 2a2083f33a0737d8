"""What a published configuration says of its tier, as far as others than the pods need it."""

from __future__ import annotations

import base64
import binascii
import gzip
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from postroad_transport.config import Certificate, Role
from postroad_transport.config.files import CONFIG_FILE


class Published(msgspec.Struct, frozen=True, rename="camel"):
    """The part of a TierConfig that is read."""

    role: Role = Role.HUB
    hostname: str = ""
    certificates: tuple[Certificate, ...] = ()


def published(document: Mapping[str, Any]) -> Published | None:
    """Read a ConfigMap of ours; None where somebody has made something else of it."""
    try:
        content = gzip.decompress(base64.b64decode(document["binaryData"][CONFIG_FILE]))
        return msgspec.json.decode(content, type=Published)
    except (KeyError, TypeError, OSError, EOFError, zlib.error, binascii.Error, msgspec.MsgspecError):
        return None
