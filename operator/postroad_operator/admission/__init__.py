"""Admission: the compiler asked beforehand, so that a change is refused or commented on before it is stored."""

from postroad_operator.admission.request import Operation, Request, RequestError, request_of
from postroad_operator.admission.review import Review, World, review

__all__ = ["Operation", "Request", "RequestError", "Review", "World", "request_of", "review"]
