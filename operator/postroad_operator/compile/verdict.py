"""What the compiler says about each resource, and what it makes of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from postroad_transport.config import TierConfig

Part = TypeVar("Part")


class Reason(StrEnum):
    """Why a resource has its verdict: the ``reason`` of its ``Accepted`` condition."""

    ACCEPTED = "Accepted"
    DISABLED = "Disabled"
    PENDING = "Pending"
    INVALID = "Invalid"
    CONFLICT = "Conflict"
    REF_NOT_FOUND = "RefNotFound"
    INVALID_REF = "InvalidRef"
    OPEN_RELAY = "OpenRelay"
    CLIENT_ADDRESSES_HIDDEN = "ClientAddressesHidden"
    NO_ROUTE = "NoRoute"
    NOT_AVAILABLE = "NotAvailable"
    CERTIFICATE_UNUSABLE = "CertificateUnusable"
    BLOCKED = "Blocked"
    """The API server does not let the operator look at it or publish it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one resource. Each warning begins with the field that it is about."""

    source: str
    accepted: bool
    reason: Reason
    message: str
    warnings: tuple[str, ...] = ()
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Compilation:
    """A snapshot, compiled. ``secret_files`` are the Secret's keys and what they hold."""

    config: TierConfig
    secret_files: dict[str, bytes] = field(repr=False)
    verdicts: tuple[Verdict, ...]


class RefusedError(Exception):
    """A resource cannot be served; it is left out, with this as its verdict."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(slots=True)
class Compiled(Generic[Part]):
    """One accepted resource: its part of the configuration, the secret files it needs, its warnings."""

    part: Part
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    warnings: list[str] = field(default_factory=list)
    reason: Reason = Reason.ACCEPTED
    message: str = ""
