"""What a certificate's status says, how cert-manager is followed, and what of the store is dropped."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from certificate_kit import DAY, NOW, MemoryStore
from compile_kit import rconn, resource, secret, tcert

from postroad_operator.certificates import certified
from postroad_operator.compile import Reason, TierSettings, compile_tier
from postroad_operator.handlers.ask import answer_of
from postroad_operator.handlers.cluster import Watched
from postroad_operator.handlers.issuers import Issuers
from postroad_operator.publish import ApiError, Identity, SecretBundles
from postroad_operator.resources import Invalid, Resource, TransportCertificate
from postroad_operator.status import Answer, Serving, details

SETTINGS = TierSettings(hostname="mx.example")
SOURCE = "TransportCertificate/default/c"
HAND = {"request": {}, "dnsNames": ["mx.example"]}


def by_hand(name: str = "c", **spec: Any) -> Resource | Invalid:
    return resource("TransportCertificate", name, HAND | spec)


def look(*objects: Resource | Invalid, store: MemoryStore | None = None, now: float = NOW, **more: Any):
    """Return the compilation and the status fields by source."""
    has = certified(objects, SETTINGS, store or MemoryStore(), now, **more)
    compilation = compile_tier(has.snapshot)
    known = {item.source: item for item in objects if isinstance(item, Resource)}
    return compilation, details(compilation, known, has.pkcs10, now)


def test_the_status_of_a_served_certificate_and_of_the_connector_that_presents_it() -> None:
    compilation, fields = look(tcert(services=["SMTP", "POP"]), rconn(fqdn="mx.example", authMechanisms=["TLS"]))
    status = fields[SOURCE]
    assert status["thumbprint"] == compilation.config.certificates[0].thumbprint
    assert status["services"] == ["SMTP", "POP"]
    assert status["issuer"] == "CN=Postroad private CA"
    assert status["renewalTime"] < status["notAfter"]
    connector = fields["ReceiveConnector/default/r"]
    assert connector["certificate"] == "c"
    assert connector["certificateReason"] == "the only one that holds mx.example; CA-issued"


def test_a_refused_connector_says_nothing_of_ports() -> None:
    compilation, fields = look(rconn("a", created="1"), rconn("b", created="2"))
    assert not next(item for item in compilation.verdicts if item.source.endswith("/b")).accepted
    assert "ReceiveConnector/default/b" not in fields


def test_a_request_is_shown_while_pending_and_never_with_its_key() -> None:
    compilation, fields = look(by_hand())
    (verdict,) = compilation.verdicts
    assert (verdict.accepted, verdict.reason) == (True, Reason.PENDING)
    assert "status.request" in verdict.message
    assert fields[SOURCE]["request"].startswith("-----BEGIN CERTIFICATE REQUEST-----")
    assert "PRIVATE" not in str(fields) + str(compilation.verdicts)


def test_a_refused_answer_leaves_request_status_and_service() -> None:
    store = MemoryStore()
    look(tcert(), store=store)
    kept = store.bundles["TransportCertificate.default.c"]
    compilation, fields = look(by_hand(request={"signedCertificate": "rubbish"}), store=store)
    (verdict,) = compilation.verdicts
    assert (verdict.accepted, verdict.reason) == (False, Reason.CERTIFICATE_UNUSABLE)
    assert "goes on being served" in verdict.message
    (served,) = compilation.config.certificates
    assert fields[SOURCE]["thumbprint"] == served.thumbprint
    assert fields[SOURCE]["request"]
    assert compilation.secret_files[served.key_file] in kept
    assert SOURCE not in compilation.config.generations


def test_a_certificate_by_cert_manager_names_its_secret_before_it_is_there() -> None:
    wanted = resource("TransportCertificate", "c", {"issuerRef": {"name": "i"}, "dnsNames": ["mx.example"]})
    assert look(wanted)[1][SOURCE] == {"secretName": "transport-c"}


def test_an_imported_certificate_has_no_time_of_renewal_for_somebody_else_renews_it() -> None:
    store = MemoryStore()
    compilation, _ = look(tcert(), store=store)
    (part,) = compilation.config.certificates
    files = compilation.secret_files
    pair = {"tls.crt": files[part.chain_file].decode(), "tls.key": files[part.key_file].decode()}
    _, fields = look(tcert(secretRef={"name": "tls"}), secret("tls", **pair))
    assert "renewalTime" not in fields[SOURCE]
    assert fields[SOURCE]["thumbprint"] == part.thumbprint


@pytest.mark.parametrize(("thumbprints", "shown"), [(("a", "a"), "2/2"), (("a", "b"), "1/2"), (("", ""), "0/2")])
def test_served_by_counts_the_pods_that_hold_the_thumbprint(thumbprints: tuple[str, ...], shown: str) -> None:
    answers = tuple(Answer(f"p{n}", thumbprints=frozenset({text})) for n, text in enumerate(thumbprints))
    assert Serving("h", answers).shown({"thumbprint": "a"}) == {"thumbprint": "a", "servedBy": shown}


def test_without_pods_or_certificate_nothing_is_counted() -> None:
    assert Serving("h").shown({"thumbprint": "a"}) == {"thumbprint": "a"}
    assert Serving("h", (Answer("p"),)).shown({"ports": "25"}) == {"ports": "25"}


def test_thumbprints_of_a_pod_count_only_when_its_workers_agree() -> None:
    assert answer_of("p", {"hash": "h", "thumbprints": ["a"]}).thumbprints == {"a"}
    assert answer_of("p", {"hash": None, "thumbprints": ["a"]}).thumbprints == frozenset()
    assert answer_of("p", {"hash": "h", "thumbprints": "a"}).thumbprints == frozenset()


# Dropping


def test_the_key_of_a_request_survives_what_cannot_be_read() -> None:
    store = MemoryStore()
    look(by_hand(), store=store)
    kept = dict(store.bundles)
    unreadable = by_hand(dnsNames=["*.*"])
    assert isinstance(unreadable, Invalid)
    look(unreadable, store=store)
    assert store.bundles == kept
    look(store=store, complete=False)
    assert store.bundles == kept
    look(store=store)
    assert store.bundles == {}


def test_bundles_in_a_secret_are_dropped_with_the_next_write() -> None:
    bundles = SecretBundles("default", "mail", {"metadata": {}, "data": {"a.pem": "YQ==", "b.pem": "Yg=="}})
    assert set(bundles.names()) == {"a", "b"}
    bundles.remove("a")
    bundles.remove("nothing")
    assert bundles.names() == ("b",)
    assert bundles.load("a") is None


# Following cert-manager


class FakeApi:
    """Keeps Certificates; refuses with ``code`` when it is set."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.code = 0
        self.applied = 0

    def _check(self) -> None:
        if self.code:
            raise ApiError(self.code, f"PATCH /certificates: {self.code}")

    async def get(self, _kind: str, _namespace: str, name: str) -> dict[str, Any] | None:
        if self.code not in (0, 404):
            self._check()
        return copy.deepcopy(self.kept.get(name))

    async def apply(self, document: dict[str, Any]) -> dict[str, Any]:
        self._check()
        self.applied += 1
        name = document["metadata"]["name"]
        self.kept[name] = self.kept.get(name, {}) | copy.deepcopy(document)
        self.kept[name]["metadata"] |= {"uid": "made", "generation": self.applied}
        return copy.deepcopy(self.kept[name])

    async def delete(self, _kind: str, _namespace: str, name: str, uid: str) -> None:
        assert self.kept.pop(name)["metadata"]["uid"] == uid


def watched(spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None) -> Watched:
    spec = {"issuerRef": {"name": "i"}, "dnsNames": ["mx.example"]} if spec is None else spec
    item = resource("TransportCertificate", "c", spec, uid="u")
    assert isinstance(item, TransportCertificate)
    return Watched(Identity("default", "c", "u"), "1", item, status=status or {})


async def test_a_certificate_is_made_once_and_not_looked_at_before_its_time() -> None:
    api: Any = FakeApi()
    issuers = Issuers(api)
    for _ in range(3):
        states = await issuers.follow([watched()])
    assert states[SOURCE].message == "cert-manager has not looked at it yet"
    assert api.applied == 1
    assert 0 < issuers.wait() <= 1.0
    issuers.forget([])
    assert issuers.wait() == float("inf")
    await issuers.follow([watched()])
    assert api.applied == 1


@pytest.mark.parametrize(
    ("code", "said", "refused"),
    [
        (404, "cert-manager is not installed", True),
        (403, "may not manage", True),
        (422, "is refused", True),
        (500, "trying again", False),
        (0, "", False),
    ],
)
async def test_what_the_api_server_answers_holds_up_nothing_else(code: int, said: str, refused: bool) -> None:
    api: Any = FakeApi()
    api.code = code
    state = (await Issuers(api).follow([watched()]))[SOURCE]
    assert said in (state.refusal if refused else state.message)
    assert bool(state.refusal) is refused


async def test_a_certificate_that_somebody_changed_is_put_right() -> None:
    api: Any = FakeApi()
    await Issuers(api).follow([watched()])
    api.kept["transport-c"]["spec"]["dnsNames"] = ["stranger.example"]
    await Issuers(api).follow([watched()])
    assert api.kept["transport-c"]["spec"]["dnsNames"] == ["mx.example"]


async def test_a_certificate_of_somebody_else_is_neither_changed_nor_deleted() -> None:
    api: Any = FakeApi()
    foreign = {"metadata": {"uid": "x", "ownerReferences": [{"uid": "other"}]}, "spec": {}}
    api.kept["transport-c"] = copy.deepcopy(foreign)
    states = await Issuers(api).follow([watched()])
    assert "somebody else" in states[SOURCE].refusal
    ca = watched({"ca": {}, "dnsNames": ["mx.example"]}, {"secretName": "transport-c"})
    assert await Issuers(api).follow([ca]) == {}
    assert api.kept["transport-c"] == foreign


async def test_without_issuer_ref_the_certificate_is_taken_back() -> None:
    api: Any = FakeApi()
    issuers = Issuers(api)
    await issuers.follow([watched()])
    spec: dict[str, Any] = {"ca": {}, "dnsNames": ["mx.example"]}
    await issuers.follow([watched(spec)])
    assert "transport-c" in api.kept
    # What was asked for stands in the status, so that a restart forgets nothing.
    await Issuers(api).follow([watched(spec, {"secretName": "transport-c"})])
    assert api.kept == {}


async def test_a_state_that_changes_is_an_input_and_one_that_does_not_is_none() -> None:
    api: Any = FakeApi()
    one = await Issuers(api).follow([watched()])
    two = await Issuers(api).follow([watched()])
    assert one == two
    assert hash(one[SOURCE]) == hash(two[SOURCE])
    assert replace(one[SOURCE], ready=True) != one[SOURCE]


def test_the_clock_decides_alone() -> None:
    """No jitter: the same store at the same time gives the same configuration."""
    store = MemoryStore()
    look(tcert(), store=store)
    for day in (0, 59, 60, 61, 119, 121):
        now = NOW + day * DAY
        before = look(tcert(), store=store, now=now)[0].config
        assert look(tcert(), store=store, now=now)[0].config == before
