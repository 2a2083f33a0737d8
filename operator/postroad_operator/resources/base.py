"""What all resources share: the model base, object metadata, references, status conditions."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from postroad_operator.resources.rules import Rule, check, schema_of
from postroad_operator.resources.scalars import DataKey, ObjectName, ShortText, Text

GROUP = "postroad.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class Model(BaseModel):
    """Base of everything in a resource: camelCase on the outside, unknown fields refused, ``RULES`` checked."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _check_rules(self) -> Model:
        check(self.RULES, self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        node = handler.resolve_ref_schema(handler(schema))
        if rules := schema_of(cls.RULES):
            node["x-kubernetes-validations"] = rules
        return node


class ObjectMeta(Model):
    """Standard object metadata, as far as the compiler reads it; the rest is tolerated."""

    model_config = ConfigDict(extra="ignore")

    name: ObjectName
    namespace: ObjectName = "default"
    generation: int = 0
    creation_timestamp: str = ""
    """RFC 3339, UTC; empty for manifests that never were on a cluster."""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Resource(Model):
    """A document with metadata. ``source`` is how configuration, logs and verdicts name it."""

    kind: str
    metadata: ObjectMeta

    @property
    def source(self) -> str:
        """Return ``Kind/namespace/name``."""
        return f"{self.kind}/{self.metadata.namespace}/{self.metadata.name}"


class LocalReference(Model):
    """The name of an object in the same namespace."""

    name: ObjectName
    """Name of the object."""


class KeyReference(Model):
    """One key of a Secret or ConfigMap in the same namespace."""

    name: ObjectName
    """Name of the object."""
    key: DataKey
    """Key within its data."""


class Condition(Model):
    """One aspect of the resource's state, as in all Kubernetes APIs."""

    type: ShortText
    """Accepted, Programmed, Ready, Reconciling or Stalled."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    observed_generation: int = Field(default=0, ge=0, json_schema_extra={"format": "int64"})
    """Generation of the resource that this is about."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """When the status changed last."""
    reason: ShortText
    """One CamelCase word for programs."""
    message: Text
    """A sentence for people."""


class Status(Model):
    """What the operator has observed. Only the operator writes it."""

    observed_generation: int = Field(default=-1, ge=-1, json_schema_extra={"format": "int64"})
    """Generation of the resource that this status is about. -1: the operator has not seen it yet."""
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Accepted: valid and part of the configuration. Programmed: served by every pod. Ready: both."""


__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "Condition",
    "KeyReference",
    "LocalReference",
    "Model",
    "ObjectMeta",
    "Resource",
    "Status",
]
