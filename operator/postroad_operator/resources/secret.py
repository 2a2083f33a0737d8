"""Secret: the ordinary Kubernetes document, as far as references read it."""

from __future__ import annotations

import base64
import binascii
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from postroad_operator.resources.base import Resource
from postroad_operator.resources.rules import Rule


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


class Secret(Resource):
    """A v1 Secret. Its values never appear in messages."""

    model_config = ConfigDict(extra="ignore")

    RULES: ClassVar = (
        Rule(
            "data holds base64; plain text goes to stringData",
            holds=lambda s: all(map(_is_base64, s.data.values())),
            field="data",
        ),
    )

    kind: Literal["Secret"] = "Secret"
    data: dict[str, str] = Field(default={}, repr=False)
    string_data: dict[str, str] = Field(default={}, repr=False)

    def value(self, key: str) -> bytes | None:
        """Return the content of a key; ``stringData`` wins, as on the API server."""
        if (text := self.string_data.get(key)) is not None:
            return text.encode("utf-8", "surrogatepass")
        encoded = self.data.get(key)
        return None if encoded is None else base64.b64decode("".join(encoded.split()))
