"""Statuses: from verdicts and what the pods serve to what each resource says about itself. Pure."""

from postroad_operator.status.conditions import conditions
from postroad_operator.status.details import details
from postroad_operator.status.pods import Answer, Pod, Serving, pod_of
from postroad_operator.status.status import status_of
from postroad_operator.status.transitions import Transition, transitions

__all__ = [
    "Answer",
    "Pod",
    "Serving",
    "Transition",
    "conditions",
    "details",
    "pod_of",
    "status_of",
    "transitions",
]
