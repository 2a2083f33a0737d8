"""The resources: models of the four kinds, of the documents they refer to, and how they are read."""

from postroad_operator.resources.accepted_domain import AcceptedDomain
from postroad_operator.resources.base import API_VERSION, GROUP, VERSION, ObjectMeta, Resource
from postroad_operator.resources.config_map import ConfigMap
from postroad_operator.resources.manifests import Fault, Manifests, Origin, read
from postroad_operator.resources.parse import KINDS, Ignored, Invalid, parse
from postroad_operator.resources.problems import Problem
from postroad_operator.resources.receive_connector import ReceiveConnector
from postroad_operator.resources.secret import Secret
from postroad_operator.resources.send_connector import SendConnector
from postroad_operator.resources.transport_certificate import TransportCertificate

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "VERSION",
    "AcceptedDomain",
    "ConfigMap",
    "Fault",
    "Ignored",
    "Invalid",
    "Manifests",
    "ObjectMeta",
    "Origin",
    "Problem",
    "ReceiveConnector",
    "Resource",
    "Secret",
    "SendConnector",
    "TransportCertificate",
    "parse",
    "read",
]
