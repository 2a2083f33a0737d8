"""The compiler as a whole: total, deterministic, linear; a bad resource takes nothing from the others."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from compile_kit import HASH, adom, compiled, config_map, rconn, read, reasons, sconn, secret, tcert, verdict, warned
from hypothesis import given
from hypothesis import strategies as st
from resource_cases import BROKEN, SEND, SOUND, document

from postroad_operator.compile import Compilation, Reason, Snapshot, TierSettings, compile_tier, tiers
from postroad_operator.resources import Ignored, Invalid, Resource, parse
from postroad_transport.config import TierConfig
from postroad_transport.config.files import encode

ACCOUNTS = {"htpasswdSecretRef": {"name": "accounts", "key": "htpasswd"}}
MIXED: list[Resource | Invalid] = [
    rconn("a", "2026-01-02T00:00:00Z"),
    rconn("b", "2026-01-01T00:00:00Z"),
    rconn("c", usage="Client", bindings=[{"port": 587}], authentication=ACCOUNTS, permissionGroups=None),
    rconn("d", grants=[{"principal": "Anonymous", "permissions": ["SMTP-Accept-Any-Recipient"]}]),
    sconn("s", smartHosts=[{"host": "relay.example"}]),
    sconn(
        "t", smartHosts=[{"host": "relay.example"}], smartHostAuthMechanism="BasicAuth", authSecretRef={"name": "x"}
    ),
    adom("a.example", default=True),
    adom("b.example", default=True),
    adom("c.example", aliasOf="b.example"),
    adom("d.example", aliasOf="a.example"),
    adom("A.example", name="again"),
    adom("A.example", name="again", matchSubdomains=True),
    adom("e.example", recipients={"configMapRef": {"name": "users", "key": "e"}}),
    tcert(),
    secret("accounts", htpasswd=f"alice:{HASH}"),
    config_map("users", e="alice\n"),
    *(read(document(kind, spec, name=f"broken-{index}")) for index, (kind, spec, _) in enumerate(BROKEN[:6])),
]


def outcome(compilation: Compilation) -> tuple[Any, ...]:
    return encode(compilation.config), compilation.secret_files, compilation.verdicts


@given(st.permutations(MIXED))
def test_the_order_of_the_input_does_not_matter(objects: list[Resource | Invalid]) -> None:
    assert outcome(compiled(*objects)) == outcome(compiled(*MIXED))


def test_each_resource_gets_a_verdict_and_a_bad_one_takes_nothing_from_the_others() -> None:
    good = [rconn("good"), sconn("good"), adom("good.example"), tcert("good")]
    bad = [
        read(document(kind, spec, name=f"bad-{index}", generation=2)) for index, (kind, spec, _) in enumerate(BROKEN)
    ]
    alone, together = compiled(*good), compiled(*good, *bad)
    assert together.config == alone.config
    assert len(together.verdicts) == len(good) + len(bad)
    assert {item.reason for item in together.verdicts if not item.accepted} == {Reason.INVALID}
    assert {item.generation for item in together.verdicts if not item.accepted} == {2}


def test_generations_of_what_is_accepted_are_in_the_configuration() -> None:
    accepted = read(document("SendConnector", SEND, name="s", generation=7))
    refused = read(document("AcceptedDomain", {"domain": "a.example"}, name="d", generation=3))
    assert compiled(accepted, refused).config.generations == {"SendConnector/default/s": 7}


def test_resources_of_other_tiers_are_passed_over() -> None:
    other = adom("a.example", tier="other")
    assert compiled(other).verdicts == ()
    assert reasons(compiled(other, settings=TierSettings(tier="other"))) == {"a-example": Reason.ACCEPTED}
    assert tiers([other, adom("b.example"), secret("s")]) == ("default", "other")


def test_a_resource_defined_twice_is_served_once() -> None:
    twice = [adom("a.example", name="a"), adom("b.example", name="a")]
    result = compiled(*twice)
    assert [item.accepted for item in result.verdicts] == [True, False]
    assert result.verdicts[1].reason is Reason.CONFLICT
    assert len(result.config.accepted_domains) == 1


def test_the_same_name_in_two_namespaces_gives_two_names() -> None:
    there = read(
        document("SendConnector", {"addressSpaces": [{"domain": "a.example"}], "drop": {}}, namespace="team")
    )
    here = read(document("SendConnector", {"addressSpaces": [{"domain": "b.example"}], "drop": {}}))
    assert {part.name for part in compiled(there, here).config.send_connectors} == {"x", "team/x"}


def test_references_do_not_leave_the_namespace() -> None:
    spec = {"bindings": [{"port": 25}], "authentication": ACCOUNTS}
    connector = read(document("ReceiveConnector", spec, namespace="team"))
    assert verdict(compiled(connector, secret("accounts", htpasswd=f"a:{HASH}")), "x").reason is Reason.REF_NOT_FOUND


def test_the_configuration_can_be_read_back() -> None:
    config = compiled(*MIXED).config
    assert msgspec.json.decode(encode(config), type=TierConfig) == config


SCALARS = st.none() | st.booleans() | st.integers(-1, 70_000) | st.text("ab.*:/-{}0", max_size=8)
JSON = st.recursive(
    SCALARS, lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text("ab", max_size=3), c), max_leaves=6
)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a specification with one field of a sound one replaced by anything."""
    kind, spec = draw(st.sampled_from([*SOUND, *((kind, spec) for kind, spec, _ in BROKEN)]))
    field = draw(st.sampled_from(sorted(spec) or ["tier"]))
    changed = {**spec, field: draw(JSON)} if draw(st.booleans()) else spec
    return document(
        kind, changed, name=draw(st.sampled_from(["a", "b", "c"])), creationTimestamp=draw(st.text("012-"))
    )


@given(st.lists(mutated() | st.dictionaries(st.text(max_size=5), JSON), max_size=8))
def test_compile_answers_whatever_the_documents_are(documents: list[dict[str, Any]]) -> None:
    objects = tuple(item for item in map(parse, documents) if not isinstance(item, Ignored))
    result = compile_tier(Snapshot(TierSettings(), objects))
    assert len(result.verdicts) == len(
        [item for item in objects if not isinstance(item, Resource) or hasattr(item, "spec")]
    )


def test_ten_thousand_domains_compile_in_linear_time() -> None:
    objects = tuple(adom(f"d{n}.example", recipients={"list": ["a", "b"]}) for n in range(10_000))

    def duration(count: int) -> float:
        begin = time.process_time()
        assert len(compiled(*objects[:count]).config.accepted_domains) == count
        return time.process_time() - begin

    small = min(duration(2000) for _ in range(2))
    assert duration(10_000) < max(5 * small * 2.5, 2.0)


def test_a_certificate_for_services_that_nothing_here_serves_draws_a_warning() -> None:
    compilation = compiled(
        tcert("mailboxes", dnsNames=["mail.example"], services=["IMAP", "POP"], selfSigned={}),
        tcert("both", dnsNames=["mail.example"], services=["SMTP", "IMAP"], selfSigned={}),
    )
    assert warned(compilation, "mailboxes", "spec.services", "nothing here serves IMAP or POP")
    assert not warned(compilation, "both", "spec.services")
