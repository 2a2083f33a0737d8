"""cert-manager's Certificate: what it should say for a TransportCertificate, and what its status means. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from postroad_operator.certificates.adapter import from_resource, issued_name
from postroad_operator.certificates.authority import subject_name
from postroad_operator.certificates.material import CertificateError, Material, from_secret
from postroad_operator.certificates.provided import Provided
from postroad_operator.certificates.request import CertificateRequest, KeyAlgorithm, check_request
from postroad_operator.resources import TransportCertificate
from postroad_operator.resources.base import API_VERSION
from postroad_operator.resources.labels import MANAGED_BY, TIER

API = "cert-manager.io/v1"
KIND, REQUEST_KIND = "Certificate", "CertificateRequest"
#: Seconds; cert-manager takes no shorter renewBefore.
_SHORTEST_RENEWAL = 300
#: Fields that may be absent: one that is there and not wanted is from before the resource changed.
_NAMING = ("commonName", "subject", "literalSubject")

NOT_INSTALLED = (
    "spec.issuerRef: cert-manager is not installed: the cluster knows no Certificate of cert-manager.io/v1: install"
    " cert-manager, or use ca"
)
NOT_ON_A_CLUSTER = "spec.issuerRef: needs cert-manager on a cluster: use ca, selfSigned, secretRef or request here"


@dataclass(frozen=True, slots=True)
class IssuerState:
    """How far cert-manager is with one certificate. ``refusal``: it will not come that far as things stand."""

    ready: bool = False
    message: str = ""
    refusal: str = ""


def certificate_document(resource: TransportCertificate) -> dict[str, Any]:
    """Return the cert-manager Certificate for a TransportCertificate with ``spec.issuerRef``.

    Raises
    ------
    CertificateError
        What is asked for is impossible.
    """
    issuer = resource.spec.issuer_ref
    if issuer is None:
        raise ValueError("the certificate does not come from cert-manager")
    request = from_resource(resource)
    if problems := check_request(request):
        raise CertificateError(*problems)
    metadata = resource.metadata
    name = issued_name(metadata.name)
    usages = ["digital signature", "server auth", "client auth"]
    if request.algorithm is KeyAlgorithm.RSA:
        usages.insert(1, "key encipherment")
    key: dict[str, Any] = {
        "algorithm": str(request.algorithm),
        "encoding": "PKCS8",
        "rotationPolicy": str(request.rotation),
    }
    if request.algorithm is not KeyAlgorithm.ED25519:
        key["size"] = request.key_size
    return {
        "apiVersion": API,
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": metadata.namespace,
            "labels": {**MANAGED_BY, TIER: resource.spec.tier},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": resource.kind,
                    "name": metadata.name,
                    "uid": metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "secretName": name,
            "dnsNames": list(request.dns_names),
            "usages": usages,
            "privateKey": key,
            "duration": go_duration(request.duration),
            "renewBefore": go_duration(max(request.renew_before, _SHORTEST_RENEWAL)),
            "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
            **_subject(request),
        },
    }


def _subject(request: CertificateRequest) -> dict[str, Any]:
    subject = request.subject
    name = subject_name(request)
    if subject.domain_components or len(subject.organizational_units) > 1:
        # cert-manager has no field for domain components, and makes one set of several units, without their order.
        # It takes the whole name as RFC 4514 text.
        return {"literalSubject": name.rfc4514_string()}
    parts = {
        "countries": subject.country,
        "provinces": subject.state,
        "localities": subject.locality,
        "organizations": subject.organization,
        "organizationalUnits": next(iter(subject.organizational_units), None),
    }
    given: dict[str, Any] = {field: [value] for field, value in parts.items() if value}
    common = subject.common_name or next(iter(request.dns_names), "")
    spec: dict[str, Any] = {"commonName": common} if 0 < len(common) <= 64 else {}
    return spec | ({"subject": given} if given else {})


def go_duration(seconds: float) -> str:
    """Write seconds as Go does (``2160h0m0s``), which is how the API server shows them again."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def belongs(observed: Mapping[str, Any], resource: TransportCertificate) -> bool:
    """Tell whether a Certificate was made for this TransportCertificate."""
    owners = observed.get("metadata", {}).get("ownerReferences") or ()
    return any(owner.get("uid") == resource.metadata.uid for owner in owners)


def differs(observed: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether a Certificate does not say what it should; what others added is theirs."""
    has, wants = observed.get("spec") or {}, wanted["spec"]
    if any(has.get(field) != wants.get(field) for field in _NAMING):
        return True
    return any(_without_defaults(has.get(field), value) != value for field, value in wants.items())


def _without_defaults(has: Any, wanted: Any) -> Any:
    """Leave out what the API server filled in within an object."""
    if isinstance(has, Mapping) and isinstance(wanted, Mapping):
        return {field: value for field, value in has.items() if field in wanted}
    return has


def request_name(observed: Mapping[str, Any]) -> str:
    """Return the name of the CertificateRequest that a Certificate waits for: one more than the last issued."""
    issued = (observed.get("status") or {}).get("revision")
    return f"{observed.get('metadata', {}).get('name', '')}-{(issued if isinstance(issued, int) else 0) + 1}"


def issuer_state(observed: Mapping[str, Any], request: Mapping[str, Any] | None = None) -> IssuerState:
    """Read a Certificate's conditions: ``Ready`` for its generation, and what ``Issuing`` says of a failure.

    The Certificate says that something is missing; why it does not come is said by its CertificateRequest `request`.
    """
    generation = observed.get("metadata", {}).get("generation", 0)
    conditions = _conditions(observed)
    ready = conditions.get("Ready")
    if ready is None or ready.get("observedGeneration", generation) != generation:
        return IssuerState(message="cert-manager has not looked at it yet")
    if ready.get("status") == "True":
        return IssuerState(ready=True)
    asked = _conditions(request or {})
    told = [ready, conditions.get("Issuing"), asked.get("Denied"), asked.get("InvalidRequest"), asked.get("Ready")]
    messages = [str(item["message"]) for item in told if item and item.get("message")]
    return IssuerState(message="; ".join(dict.fromkeys(messages)) or "not ready")


def _conditions(observed: Mapping[str, Any]) -> dict[Any, Mapping[str, Any]]:
    found = (observed.get("status") or {}).get("conditions") or ()
    return {item.get("type"): item for item in found if isinstance(item, Mapping)}


def from_issuer(
    request: CertificateRequest, secrets: Mapping[str, Mapping[str, bytes]], state: IssuerState | None, now: float
) -> Provided:
    """Return what cert-manager has issued. What it issued before is served while it is at work on another."""
    if state is None:
        return Provided(problems=(NOT_ON_A_CLUSTER,))
    material: Material | None = None
    problems: tuple[str, ...] = ()
    if (data := secrets.get(request.secret)) is not None:
        try:
            material = from_secret(data, request.dns_names, now)
        except CertificateError as error:
            problems = tuple(f"Secret {request.secret}: {problem}" for problem in error.problems)
    if state.refusal:
        return Provided(material, (state.refusal,))
    if material is not None:
        told = () if state.ready else (f"spec.issuerRef: cert-manager: {state.message}",)
        end = material.leaf.not_valid_after_utc.timestamp() + 1
        with_told = Material(material.chain_pem, material.key_pem, material.trust_pem, (*material.warnings, *told))
        return Provided(with_told, look_at=(end,) if end > now else ())
    if problems and state.ready:
        return Provided(problems=problems)
    waiting = state.message or f"waiting for Secret {request.secret}"
    return Provided(pending=f"spec.issuerRef: cert-manager: {waiting}")
