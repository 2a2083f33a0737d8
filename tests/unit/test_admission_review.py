"""The review of a change: what is refused, what is told, and that looking at few resources says what all would."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
from certificate_kit import NOW, request
from compile_kit import adom, rconn, resource, sconn, secret, tcert
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad_operator.admission import Operation, Request, RequestError, Review, World, request_of, review
from postroad_operator.certificates import KeySource, self_signed
from postroad_operator.compile import Neighbourhood, Snapshot, TierSettings, compile_tier
from postroad_operator.resources import Invalid, Resource

SETTINGS = TierSettings(hostname="mx.example")
OLD, NEW = "2024-01-01T00:00:00Z", "2024-06-01T00:00:00Z"


def world(*objects: Resource | Invalid) -> World:
    neighbours = Neighbourhood(SETTINGS.hostname)
    for item in objects:
        neighbours.put(item)
    return World(SETTINGS, neighbours)


def document(item: Resource | Invalid | None) -> dict[str, Any] | None:
    if item is None:
        return None
    assert isinstance(item, Resource)
    return item.model_dump(by_alias=True, mode="json", exclude_unset=True)


def asked(known: World, before: Any, after: Any, **more: Any) -> Review:
    operation = Operation.CREATE if before is None else Operation.DELETE if after is None else Operation.UPDATE
    subject = after if before is None else before
    return review(known, Request("u", subject.kind, operation, document(before), document(after)), **more)


def test_a_sound_resource_passes_without_a_word() -> None:
    assert asked(world(), None, adom("a.example")) == Review()


def test_a_conflict_names_both_resources_and_the_field() -> None:
    first, second = adom("a.example", OLD, name="first"), adom("a.example", NEW, name="second")
    found = asked(world(first), None, second)
    assert (found.allowed, found.code, found.reason) == (False, 409, "Conflict")
    assert "AcceptedDomain/default/second" in found.message
    assert "AcceptedDomain/default/first" in found.message
    assert "spec.domain" in found.message
    assert found.rivals == ("AcceptedDomain/default/first",)


def test_an_older_resource_may_not_take_from_a_newer_one_either() -> None:
    older, newer = adom("a.example", OLD, name="older"), adom("b.example", NEW, name="newer")
    found = asked(world(older, newer), older, adom("b.example", OLD, name="older"))
    assert found.reason == "Conflict"
    assert "AcceptedDomain/default/newer would be refused" in found.message


def test_what_is_created_in_the_same_second_is_the_newer_one() -> None:
    first, second = adom("a.example", OLD, name="z-first"), adom("a.example", OLD, name="a-second")
    assert "belongs to AcceptedDomain/default/z-first, which is older" in asked(world(first), None, second).message


def test_a_rival_that_is_gone_or_changed_is_none() -> None:
    first, second = adom("a.example", OLD, name="first"), adom("a.example", NEW, name="second")
    known = world(first)
    assert asked(known, None, second, fresh={first.source: None}).allowed
    changed = adom("c.example", OLD, name="first")
    assert isinstance(changed, Resource)
    assert asked(known, None, second, fresh={first.source: changed}).allowed


def test_an_open_relay_is_refused_with_its_field() -> None:
    grants = [{"principal": "Anonymous", "permissions": ["SMTP-Accept-Any-Recipient"]}]
    found = asked(world(), None, rconn("open", grants=grants))
    assert (found.code, found.reason) == (403, "OpenRelay")
    assert "spec.allowOpenRelay" in found.message


def test_a_certificate_from_elsewhere_needs_no_names() -> None:
    assert asked(world(), None, tcert("imported", secretRef={"name": "tls"})).allowed


def test_a_subscription_that_is_no_certificate_is_refused_and_so_is_another_role() -> None:
    found = asked(world(), None, subscription("t-0", "Hub", ["garbage"]))
    assert (found.allowed, found.reason) == (False, "CertificateUnusable")
    known = world(subscription("t-0", "Hub", pems()))
    assert "TransportCertificate/default/t-0" in asked(known, None, subscription("t-1", "Edge", pems()[:1])).message
    assert asked(known, None, subscription("t-1", "Hub", pems()[:1])).allowed


def test_a_document_that_cannot_be_read_is_refused_with_its_fields() -> None:
    body = {"metadata": {"name": "x", "namespace": "mail"}, "spec": {"bindings": [{"port": "25"}], "fqnd": "a"}}
    found = review(world(), Request("u", "ReceiveConnector", Operation.CREATE, None, body))
    assert (found.code, found.reason) == (422, "Invalid")
    assert "ReceiveConnector/mail/x" in found.message
    assert "spec.bindings[0].port" in found.message
    assert "did you mean fqdn?" in found.message


def test_what_waits_for_something_else_is_told_and_allowed() -> None:
    alias = adom("b.example", aliasOf="a.example")
    (warning,) = asked(world(), None, alias).warnings
    assert "left out until" in warning
    assert "a.example" in warning
    assert asked(world(adom("a.example")), None, alias) == Review()


def test_the_compilers_warnings_are_told() -> None:
    item = rconn("mx", fqdn="other.example", authMechanisms=["TLS"])
    (warning,) = asked(world(), None, item).warnings
    assert "event 12014" in warning
    assert asked(world(tcert(dnsNames=["other.example"], ca={})), None, item).warnings == ()


def test_an_open_relay_that_is_asked_for_is_told() -> None:
    grants = [{"principal": "Anonymous", "permissions": ["SMTP-Accept-Any-Recipient"]}]
    found = asked(world(), None, rconn("open", grants=grants, allowOpenRelay=True))
    assert found.allowed
    assert "this connector is an open relay" in found.warnings[0]


def test_overlapping_ranges_are_told_when_they_come_about() -> None:
    wide, narrow = rconn("wide"), rconn("narrow", remoteIPRanges=["10.1.0.0/16"])
    (warning,) = asked(world(wide), None, narrow).warnings
    assert "10.1.0.0/16 lies within 0.0.0.0/0 of ReceiveConnector/default/wide" in warning
    (warning,) = asked(world(narrow), None, wide).warnings
    assert "lies within 0.0.0.0/0: its clients get that connector" in warning
    again = rconn("narrow", remoteIPRanges=["10.1.0.0/16"], banner="hello")
    assert asked(world(wide, narrow), narrow, again).warnings == ()
    assert asked(world(wide), None, rconn("other", bindings=[{"port": 26}])).warnings == ()


def test_a_change_that_leaves_the_specification_passes_whatever_the_verdict() -> None:
    body = {"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"nonsense": 1}}
    request = Request("u", "AcceptedDomain", Operation.UPDATE, body | {"metadata": {"name": "x"}}, body)
    assert review(world(), request) == Review()


def test_a_deletion_is_never_refused_and_tells_who_suffers() -> None:
    main, alias = adom("a.example"), adom("b.example", aliasOf="a.example")
    found = asked(world(main, alias), main, None)
    assert found.allowed
    assert "AcceptedDomain/default/b-example will be left out" in found.warnings[0]
    sender, routed = sconn("s", "c.example"), adom("c.example", type="Authoritative")
    assert "NoRoute" in asked(world(sender, routed), sender, None).warnings[0]
    certificate, mx = tcert("c", ca={}, dnsNames=["mx.example"]), rconn("mx", authMechanisms=["TLS"])
    assert "event 12014" in asked(world(certificate, mx), certificate, None).warnings[0]


def test_few_are_named_where_many_suffer() -> None:
    aliases = [adom(f"b{n}.example", aliasOf="a.example") for n in range(100)]
    warnings = asked(world(adom("a.example"), *aliases), adom("a.example"), None).warnings
    assert len(warnings) == 6
    assert "more" in warnings[-1]


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"apiVersion": "admission.k8s.io/v1", "request": []},
        {"apiVersion": "admission.k8s.io/v1", "request": {"uid": "u", "kind": {"group": "apps", "kind": "X"}}},
        {
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": "u",
                "operation": "CONNECT",
                "kind": {"group": "postroad.dev", "kind": "SendConnector"},
            },
        },
    ],
)
def test_a_body_that_is_no_review_is_an_error(body: Any) -> None:
    with pytest.raises(RequestError):
        request_of(body)


DOMAINS = ("a.example", "b.a.example", "c.example")
RANGES = (["10.0.0.0/8"], ["0.0.0.0/0", "::/0"], ["10.0.0.0/8", "192.0.2.1"])
BINDINGS = (
    [{"port": 25}],
    [{"port": 25}, {"port": 587}],
    [{"port": 587, "tls": "Implicit"}],
    [{"port": 25, "proxyProtocol": {"trustedRanges": ["10.0.0.1"]}}],
)
SHAPES: tuple[dict[str, Any], ...] = (
    *({"aliasOf": domain} for domain in DOMAINS),
    {"type": "Authoritative"},
    {"type": "InternalRelay"},
    {"default": True, "deliver": {"maildir": {"path": "m"}}},
    {"default": True, "deliver": {"maildir": {"path": "n"}}},
    {"recipients": {"configMapRef": {"name": "none", "key": "k"}}, "type": "InternalRelay"},
)
TIMES = (OLD, NEW, "2024-07-01T00:00:00Z")


@cache
def pems() -> tuple[str, ...]:
    """Certificates of two servers of another tier."""
    wanted = (request(f"{name}.example", source=KeySource.SELF_SIGNED, name=name) for name in "ab")
    return tuple(self_signed(item, NOW).chain_pem.decode() for item in wanted)


def subscription(name: str, role: str, certificates: Iterable[str]) -> Resource | Invalid:
    spec = {"subscription": {"role": role, "certificates": "".join(certificates)}}
    return resource("TransportCertificate", name, spec, creationTimestamp=TIMES[sum(map(ord, name)) % len(TIMES)])


@cache
def variants(name: str) -> list[Resource]:
    """Every form that one resource takes here; its age hangs on its name, for a change does not touch it."""
    created = TIMES[sum(map(ord, name)) % len(TIMES)]
    made: list[Resource | Invalid] = []
    match name[0]:
        case "r":
            made = [
                rconn(name, created, bindings=bindings, remoteIPRanges=ranges, authMechanisms=["TLS"], **more)
                for bindings in BINDINGS
                for ranges in RANGES
                for more in (
                    {"fqdn": "b.a.example"},
                    {"enabled": False},
                    {"authentication": {"htpasswdSecretRef": {"name": "accounts", "key": "k"}}},
                )
            ]
        case "s":
            spaces = (*DOMAINS, "*", "*.example", "*.a.example")
            made = [sconn(name, domain, enabled=enabled) for domain in spaces for enabled in (True, False)]
        case "d":
            made = [adom(domain, created, name, **shape) for domain in DOMAINS for shape in SHAPES]
        case "t":
            made = [tcert(name, ca={}, dnsNames=[domain]) for domain in (*DOMAINS, "*.example", "*.a.example")]
            made += [subscription(name, role, pems()[:count]) for role in ("Hub", "Edge") for count in (1, 2)]
    return [item for item in made if isinstance(item, Resource)]


@st.composite
def changes(draw: st.DrawFn) -> tuple[list[Resource], Resource | None, Resource | None]:
    names = [
        f"{kind}-{number}" for kind, count in (("r", 4), ("s", 2), ("d", 4), ("t", 2)) for number in range(count)
    ]
    name = draw(st.sampled_from(names))
    present = draw(st.sets(st.sampled_from([other for other in names if other != name]), min_size=3))
    others = [draw(st.sampled_from(variants(other))) for other in sorted(present)]
    before, after = draw(st.sampled_from(variants(name))), draw(st.sampled_from(variants(name)))
    return others, *draw(st.sampled_from([(before, after), (before, None), (None, after)]))


@settings(max_examples=200, deadline=None)
@given(changes(), st.booleans())
def test_the_neighbours_alone_give_the_verdict_that_all_resources_give(
    change: tuple[list[Resource], Resource | None, Resource | None], with_secret: bool
) -> None:
    others, before, after = change
    references = [secret("accounts", k="a:nonsense")] if with_secret else []
    known = world(*others, *references, *([before] if before else []))
    versions = [item for item in (before, after) if item is not None]
    names = [name for item in versions for name in getattr(item.spec, "dns_names", ())]
    near = known.neighbours.around(*versions, names=names)
    assert versions[0].source not in {item.source for item in near}

    def verdicts(objects: list[Any]) -> dict[str, Any]:
        return {item.source: item for item in compile_tier(Snapshot(SETTINGS, tuple(objects))).verdicts}

    everything = {state: verdicts([*others, *references, *([item] if item else [])])
                  for state, item in (("before", before), ("after", after))}  # fmt: skip
    nearby = {state: verdicts([*near, *([item] if item else [])]) for state, item in
              (("before", before), ("after", after))}  # fmt: skip
    source = versions[0].source
    for state in ("before", "after"):
        assert nearby[state].get(source) == everything[state].get(source)

    def suffer(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return {
            name: item
            for name, item in found["after"].items()
            if name != source and name in found["before"] and found["before"][name].accepted
            and (not item.accepted or set(item.warnings) - set(found["before"][name].warnings))
        }  # fmt: skip

    near_by, everywhere = suffer(nearby), suffer(everything)
    taken = {name for name, item in everywhere.items() if item.reason == "Conflict"}
    assert taken == {name for name, item in near_by.items() if item.reason == "Conflict"}
    # With a conflict the change is refused; what else would follow from it is not looked for.
    assert taken or near_by == everywhere


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("rsdt").flatmap(lambda kind: st.sampled_from(variants(f"{kind}-1"))), max_size=8))
def test_an_index_that_was_emptied_holds_nothing(items: list[Resource]) -> None:
    neighbours = Neighbourhood("mx.example")
    for item in items:
        neighbours.put(item)
    for item in items:
        neighbours.drop(item.source)
    assert not neighbours._holders
    assert not any(neighbours._listeners.values())
    assert not neighbours._resources
