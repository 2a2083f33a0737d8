"""Certificates: made by the tier's own authority, self-signed, or taken from Secrets; checked, kept, renewed."""

from postroad_operator.certificates.adapter import from_resource, secret_data
from postroad_operator.certificates.authority import Authority, create_authority, issue, load_authority, self_signed
from postroad_operator.certificates.cert_manager import IssuerState, certificate_document
from postroad_operator.certificates.certified import Certified, certified
from postroad_operator.certificates.ensure import Ensured, certificate_files, ensure
from postroad_operator.certificates.material import CertificateError, Material, describe, from_secret
from postroad_operator.certificates.request import (
    CertificateRequest,
    KeyAlgorithm,
    KeyRotation,
    KeySource,
    Subject,
    check_request,
)
from postroad_operator.certificates.store import CertificateStore, DirectoryStore

__all__ = [
    "Authority",
    "CertificateError",
    "CertificateRequest",
    "CertificateStore",
    "Certified",
    "DirectoryStore",
    "Ensured",
    "IssuerState",
    "KeyAlgorithm",
    "KeyRotation",
    "KeySource",
    "Material",
    "Subject",
    "certificate_document",
    "certificate_files",
    "certified",
    "check_request",
    "create_authority",
    "describe",
    "ensure",
    "from_resource",
    "from_secret",
    "issue",
    "load_authority",
    "secret_data",
    "self_signed",
]
