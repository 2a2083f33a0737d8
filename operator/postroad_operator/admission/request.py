"""What the API server asks: the request of an AdmissionReview (admission.k8s.io/v1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from postroad_operator.resources import GROUP, KINDS

ADMISSION_VERSION = "admission.k8s.io/v1"


class Operation(StrEnum):
    """What is done to the object."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"


class RequestError(Exception):
    """The body is no AdmissionReview for one of our kinds. The message holds nothing of its content."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the API server asks. ``before`` and ``after`` are documents; None where there is none."""

    uid: str
    kind: str
    operation: Operation
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


def request_of(body: object) -> Request:
    """Read the body of a request. Raises RequestError."""
    request = body.get("request") if isinstance(body, Mapping) else None
    if (
        not isinstance(body, Mapping)
        or not isinstance(request, Mapping)
        or body.get("apiVersion") != ADMISSION_VERSION
    ):
        raise RequestError(f"not an AdmissionReview of {ADMISSION_VERSION}")
    kind, uid = request.get("kind"), request.get("uid")
    if not isinstance(kind, Mapping) or kind.get("group") != GROUP or kind.get("kind") not in KINDS:
        raise RequestError("not about one of our kinds")
    try:
        operation = Operation(str(request.get("operation")))
    except ValueError as error:
        raise RequestError("not an operation that is reviewed") from error
    before, after = request.get("oldObject"), request.get("object")
    if not isinstance(uid, str) or not uid:
        raise RequestError("the request has no uid")
    return Request(
        uid=uid,
        kind=str(kind["kind"]),
        operation=operation,
        before=before if isinstance(before, Mapping) else None,
        after=after if isinstance(after, Mapping) else None,
    )
