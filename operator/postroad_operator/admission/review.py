"""The review of one change: the compiler's verdict on the snapshot as it would be. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from postroad_operator.admission.overlap import overlaps
from postroad_operator.admission.request import ADMISSION_VERSION, Operation, Request
from postroad_operator.certificates import check_request, from_resource
from postroad_operator.compile import (
    Compilation,
    IssuedCertificate,
    Neighbourhood,
    Reason,
    Snapshot,
    TierSettings,
    Verdict,
    compile_tier,
)
from postroad_operator.resources import (
    API_VERSION,
    Invalid,
    ReceiveConnector,
    Resource,
    TransportCertificate,
    parse,
)

#: Verdicts that refuse a change. Others wait for something that may come a moment later (a Secret, a domain, a
#: connector, in whatever order a directory is applied): those are told as warnings.
REFUSED = frozenset(
    {
        Reason.INVALID,
        Reason.CONFLICT,
        Reason.OPEN_RELAY,
        Reason.CLIENT_ADDRESSES_HIDDEN,
        Reason.NOT_AVAILABLE,
        # Of a Secret's content nothing is known here, so this is about what the resource itself carries.
        Reason.CERTIFICATE_UNUSABLE,
    }
)
#: Other resources that one answer names.
_NAMED = 5
_LATEST = "9999-12-31T23:59:59Z"
_INVALID = 422
_FORBIDDEN = 403
_CONFLICT = 409


@dataclass(frozen=True, slots=True)
class World:
    """What is known at one moment. ``certificates`` are those that exist, by source."""

    settings: TierSettings
    neighbours: Neighbourhood
    certificates: Mapping[str, IssuedCertificate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Review:
    """The answer. ``rivals`` are the sources that a conflict is with: what is known of them decides it."""

    allowed: bool = True
    warnings: tuple[str, ...] = ()
    message: str = ""
    reason: str = ""
    code: int = 0
    rivals: tuple[str, ...] = ()

    def answer(self, uid: str) -> dict[str, Any]:
        """Return the AdmissionReview that answers the request `uid`."""
        response: dict[str, Any] = {"uid": uid, "allowed": self.allowed}
        if not self.allowed:
            response["status"] = {"code": self.code, "reason": self.reason, "message": self.message}
        if self.warnings:
            response["warnings"] = list(self.warnings)
        return {"apiVersion": ADMISSION_VERSION, "kind": "AdmissionReview", "response": response}


def review(world: World, request: Request, *, fresh: Mapping[str, Resource | None] | None = None) -> Review:
    """Judge a change.

    Parameters
    ----------
    world
        What is known.
    request
        The change. One that leaves ``spec`` as it is passes, whatever the verdict: labels and finalizers of a bad
        resource must be free to go. A deletion is never refused, for it may be part of a greater one.
    fresh
        Resources, by source, that are known better than in `world`; None: that one is gone.
    """
    before = _read(request.kind, request.before)
    if request.operation is Operation.DELETE:
        return _deletion(world, before) if isinstance(before, Resource) else Review()
    if request.operation is Operation.UPDATE and _same_spec(request):
        return Review()
    after = _read(request.kind, request.after)
    if isinstance(after, Invalid):
        return _refusal(after.source, Reason.INVALID, "; ".join(map(str, after.problems)))
    if after is None:
        return Review()
    return _change(world, before if isinstance(before, Resource) else None, after, fresh or {})


def _change(world: World, before: Resource | None, after: Resource, fresh: Mapping[str, Resource | None]) -> Review:
    if isinstance(after, TransportCertificate) and (problems := _impossible(after)):
        return _refusal(after.source, Reason.CERTIFICATE_UNUSABLE, "; ".join(problems))
    if before is None:
        # It may be given the same second as what it conflicts with; it is the newer one all the same.
        after = after.model_copy(
            update={"metadata": after.metadata.model_copy(update={"creation_timestamp": _LATEST})}
        )
    versions = (after,) if before is None else (before, after)
    others = _others(world, versions, fresh)
    then = _compile(world, after, (*others, after), changed=True)
    verdict = next(item for item in then.verdicts if item.source == after.source)
    if not verdict.accepted and verdict.reason in REFUSED:
        return _refusal(after.source, verdict.reason, verdict.message, others)
    broken = _broken(world, before or after, (*others, *((before,) if before else ())), then, after.source)
    taken = [item for item in broken if item.reason is Reason.CONFLICT]
    if taken:
        # It is older than what it takes from, and would win.
        words = "; ".join(f"{item.source} would be refused: {item.message}" for item in taken[:_NAMED])
        return _refusal(after.source, Reason.CONFLICT, words, others)
    warnings = list(verdict.warnings)
    if not verdict.accepted:
        warnings.insert(0, f"left out until this is put right ({verdict.reason}): {verdict.message}")
    if isinstance(after, ReceiveConnector) and verdict.reason is not Reason.DISABLED:
        rivals = [fresh.get(item.source, item) for item in world.neighbours.on_ports(after)]
        known = before if isinstance(before, ReceiveConnector) else None
        warnings += overlaps(after, known, [item for item in rivals if isinstance(item, ReceiveConnector)])
    return Review(warnings=(*warnings, *_told(broken)))


def _impossible(resource: TransportCertificate) -> tuple[str, ...]:
    """Return why a certificate that is made here can never be made."""
    made = resource.spec.ca is not None or resource.spec.self_signed is not None
    return check_request(from_resource(resource)) if made else ()


def _deletion(world: World, before: Resource) -> Review:
    others = _others(world, (before,), {})
    then = _compile(world, before, others, changed=True)
    return Review(warnings=tuple(_told(_broken(world, before, (*others, before), then, before.source))))


def _others(
    world: World, versions: tuple[Resource, ...], fresh: Mapping[str, Resource | None]
) -> list[Resource | Invalid]:
    names: list[str] = []
    for version in versions:
        if isinstance(version, TransportCertificate):
            names += from_resource(version).dns_names
            if issued := world.certificates.get(version.source):
                names += (*issued.certificate.dns_names, issued.certificate.common_name)
    known = world.neighbours.around(*versions, names=names)
    current = [fresh.get(item.source, item) for item in known]
    return [item for item in current if item is not None]


def _compile(world: World, subject: Resource, objects: Iterable[Resource | Invalid], *, changed: bool) -> Compilation:
    """Compile the subject's tier. Its own certificate, when it is changed, is still to be issued."""
    present = tuple(objects)
    issued = {item.source: world.certificates[item.source] for item in present if item.source in world.certificates}
    if changed and isinstance(subject, TransportCertificate) and subject.spec.secret_ref is None:
        issued.pop(subject.source, None)
    tier: str = getattr(subject, "spec").tier  # noqa: B009 (every kind here has a spec; the base class does not)
    return compile_tier(Snapshot(replace(world.settings, tier=tier), present, issued))


def _broken(
    world: World, subject: Resource, objects: Iterable[Resource | Invalid], then: Compilation, own: str
) -> list[Verdict]:
    """Return the verdicts on others that the change makes worse: refused, or with warnings they did not have."""
    worse = [item for item in then.verdicts if item.source != own and (not item.accepted or item.warnings)]
    if not worse:
        return []
    now = {item.source: item for item in _compile(world, subject, objects, changed=False).verdicts}
    broken: list[Verdict] = []
    for item in worse:
        known = now.get(item.source)
        if known is None or not known.accepted:
            continue
        new = tuple(warning for warning in item.warnings if warning not in known.warnings)
        if not item.accepted or new:
            broken.append(replace(item, warnings=new))
    return broken


def _told(broken: list[Verdict]) -> list[str]:
    """Return what is said about the others that suffer."""
    lines = [
        f"{item.source}: {'; '.join(item.warnings)}"
        if item.accepted
        else f"{item.source} will be left out ({item.reason}): {item.message}"
        for item in broken[:_NAMED]
    ]
    return [*lines, *([f"and at least {len(broken) - _NAMED} more"] if len(broken) > _NAMED else [])]


def _refusal(source: str, reason: Reason, message: str, others: Iterable[Resource | Invalid] = ()) -> Review:
    return Review(
        allowed=False,
        message=f"{source} is refused ({reason}): {message}",
        reason=str(reason),
        code={Reason.INVALID: _INVALID, Reason.CONFLICT: _CONFLICT}.get(reason, _FORBIDDEN),
        rivals=tuple(item.source for item in others if reason is Reason.CONFLICT and item.source in message),
    )


def _read(kind: str, document: Mapping[str, Any] | None) -> Resource | Invalid | None:
    if document is None:
        return None
    parsed = parse({**document, "apiVersion": API_VERSION, "kind": kind})
    return parsed if isinstance(parsed, Resource | Invalid) else None


def _same_spec(request: Request) -> bool:
    before, after = request.before or {}, request.after or {}
    return before.get("spec") == after.get("spec")
