"""The loop's promises, on an API server of a few dictionaries: no empty configuration, no write for nothing."""

from __future__ import annotations

import copy
import itertools
import time
from typing import Any

import pytest
from resource_cases import DOMAIN, RECEIVE, document

from postroad_operator.compile import TierSettings
from postroad_operator.handlers.admission import index_for
from postroad_operator.handlers.cluster import INPUTS, Cluster, Watched, watched_of
from postroad_operator.handlers.loop import Reconciler
from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.handlers.refusals import Refusals
from postroad_operator.handlers.service import Backoffs
from postroad_operator.handlers.tiers import Compiler
from postroad_operator.handlers.writer import NotLeadingError, Writer
from postroad_operator.publish import ApiError, Identity
from postroad_operator.resources import KINDS
from postroad_operator.status import Answer, Pod

NAMESPACE = "mail"


class FakeServer:
    """Objects by kind and name. Everything that is written is counted."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.writes: list[str] = []
        self.version = 0
        self.refuse: set[str] = set()

    def put(self, kind: str, body: dict[str, Any]) -> None:
        self.version += 1
        before = self.objects.get((kind, body["metadata"]["name"]), {}).get("metadata", {})
        stored = copy.deepcopy(body)
        generation = before.get("generation", 0) + (kind in KINDS)
        stored["metadata"] |= {"namespace": NAMESPACE, "resourceVersion": str(self.version), "generation": generation}
        stored["metadata"].setdefault("uid", before.get("uid", f"uid-{self.version}"))
        self.objects[kind, body["metadata"]["name"]] = stored

    async def get(self, kind: str, _namespace: str, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.objects.get((kind, name)))

    async def identities(self, kind: str, _namespace: str | None) -> set[Identity]:
        if kind in self.refuse:
            raise ApiError(403, f"GET {kind}: 403 Forbidden")
        return {
            Identity(NAMESPACE, name, body["metadata"]["uid"])
            for (of, name), body in self.objects.items()
            if of == kind
        }

    async def apply(self, body: dict[str, Any], *, subresource: str = "") -> dict[str, Any]:
        kind, name = body["kind"], body["metadata"]["name"]
        self.writes.append(f"{kind}/{name}/{subresource}")
        if subresource:
            self.objects[kind, name]["status"] = copy.deepcopy(body["status"])
            self.version += 1
            self.objects[kind, name]["metadata"]["resourceVersion"] = str(self.version)
        else:
            self.put(kind, body)
        return copy.deepcopy(self.objects[kind, name])


class FakeCluster(Cluster):
    """Shows what the fake server holds, except kinds whose watch has not delivered yet."""

    def __init__(self, server: FakeServer) -> None:
        super().__init__(NAMESPACE, "lease")
        self.server = server
        self.blind: set[str] = set()

    def _all(self, kind: str) -> list[Watched]:
        found = [watched_of(kind, copy.deepcopy(body)) for (of, _), body in self.server.objects.items() if of == kind]
        return [item for item in found if kind not in self.blind and item.identity.uid not in self._gone]


class FakePods:
    """Every pod serves what it was told."""

    def __init__(self) -> None:
        self.hash = ""

    async def ask(self, pods: Any) -> tuple[Answer, ...]:
        return tuple(Answer(pod.name, self.hash) for pod in pods)


class World:
    def __init__(self) -> None:
        self.server = FakeServer()
        self.cluster = FakeCluster(self.server)
        self.metrics = OperatorMetrics()
        self.leading = True
        self.loop = self.operator()

    def operator(self) -> Reconciler:
        api: Any = self.server
        settings = TierSettings(namespace=NAMESPACE, hostname="mx.example")
        pods: Any = FakePods()
        return Reconciler(
            api=api,
            cluster=self.cluster,
            compiler=Compiler(api, settings, self.metrics, ("default",)),
            writer=Writer(api, self.metrics, lambda: self.leading),
            pods=pods,
            metrics=self.metrics,
            settings=settings,
            watch_namespace=NAMESPACE,
        )

    def resources(self) -> str:
        published = self.server.objects["ConfigMap", "postroad-default"]
        return str(published["metadata"]["annotations"]["postroad.dev/resources"])

    def compilations(self) -> float:
        return (
            self.metrics.registry.get_sample_value("postroad_operator_compilations_total", {"tier": "default"}) or 0
        )


@pytest.fixture
def world() -> World:
    world = World()
    world.server.put("ReceiveConnector", document("ReceiveConnector", RECEIVE))
    world.server.put("AcceptedDomain", document("AcceptedDomain", DOMAIN))
    return world


async def settle(world: World) -> None:
    for _ in range(3):
        await world.loop.reconcile()


async def test_it_publishes_and_then_writes_nothing(world: World) -> None:
    await settle(world)
    assert world.resources() == "2"
    written = list(world.server.writes)
    assert len(written) == len(set(written)) == 4
    await settle(world)
    assert world.server.writes == written
    assert world.compilations() == 1


async def test_our_own_writes_cause_no_second_compilation(world: World) -> None:
    await settle(world)
    before = world.compilations()
    world.server.objects["ReceiveConnector", "x"]["status"] = {}
    await settle(world)
    assert world.compilations() == before
    assert world.server.objects["ReceiveConnector", "x"]["status"]["conditions"]


@pytest.mark.parametrize("kind", INPUTS)
async def test_a_kind_that_cannot_be_listed_keeps_the_full_configuration(world: World, kind: str) -> None:
    await settle(world)
    world.loop = world.operator()
    world.cluster.blind = {kind}
    world.server.refuse = {kind}
    with pytest.raises(ApiError, match="Forbidden"):
        await world.loop.reconcile()
    assert world.resources() == "2"


async def test_an_index_that_is_not_full_yet_keeps_the_full_configuration(world: World) -> None:
    await settle(world)
    world.loop = world.operator()
    world.cluster.blind = {"AcceptedDomain"}
    await settle(world)
    assert world.resources() == "2"
    world.cluster.blind = set()
    await settle(world)
    assert world.resources() == "2"


async def test_a_watch_that_shows_less_is_checked_by_a_list(world: World) -> None:
    await settle(world)
    world.loop._audited -= 60  # (the last list was a minute ago)
    world.cluster.blind = {"AcceptedDomain"}
    await settle(world)
    assert world.resources() == "2"


async def test_a_deletion_that_the_watch_missed_is_found_by_a_list(world: World) -> None:
    await settle(world)
    ghost = world.server.objects["AcceptedDomain", "x"]
    shown = world.cluster._all
    ghosts = [watched_of("AcceptedDomain", copy.deepcopy(ghost))]
    del world.server.objects["AcceptedDomain", "x"]

    def with_ghost(kind: str) -> list[Watched]:
        extra = ghosts if kind == "AcceptedDomain" else []
        return shown(kind) + [item for item in extra if item.identity.uid not in world.cluster._gone]

    world.cluster._all = with_ghost
    await settle(world)
    assert world.resources() == "2"
    world.loop._audited = float("-inf")
    await settle(world)
    assert world.resources() == "1"


async def test_the_last_resource_can_be_deleted(world: World) -> None:
    await settle(world)
    world.server.objects.pop(("ReceiveConnector", "x"))
    world.server.objects.pop(("AcceptedDomain", "x"))
    await settle(world)
    assert world.resources() == "0"


async def test_without_the_lease_nothing_is_written(world: World) -> None:
    world.leading = False
    with pytest.raises(NotLeadingError):
        await world.loop.reconcile()
    assert world.server.writes == []


async def test_a_refused_status_does_not_keep_others_from_theirs(world: World) -> None:
    real = world.server.apply

    async def apply(body: dict[str, Any], *, subresource: str = "") -> dict[str, Any]:
        if body["kind"] == "AcceptedDomain":
            raise ApiError(500, "PATCH: 500 InternalError")
        return await real(body, subresource=subresource)

    world.server.apply = apply
    for _ in range(5):
        await world.loop.reconcile()
    assert world.server.objects["ReceiveConnector", "x"]["status"]["conditions"]
    # It is tried again later, not at every look; a changed object at once.
    assert world.metrics.registry.get_sample_value("postroad_operator_apply_errors_total") == 1
    world.server.put("AcceptedDomain", document("AcceptedDomain", {**DOMAIN, "domain": "other.example"}))
    assert await world.loop.reconcile() <= 1.0
    assert world.metrics.registry.get_sample_value("postroad_operator_apply_errors_total") == 2
    world.server.apply = real
    world.loop.refusals = Refusals()
    await settle(world)
    assert world.server.objects["AcceptedDomain", "x"]["status"]["conditions"]


async def test_programmed_follows_the_pods(world: World) -> None:
    pod = Pod(NAMESPACE, "p", "u", "default", "10.0.0.1", 1, ready=True)
    view = world.cluster.view
    hashes: Any = world.loop.pods

    def with_pod() -> Any:
        found = view()
        found.pods = [pod]
        return found

    world.cluster.view = with_pod

    async def ignore(*_: Any) -> None:
        return None

    world.loop.writer.annotate = ignore
    await settle(world)

    def programmed() -> str:
        status = world.server.objects["ReceiveConnector", "x"]["status"]
        return next(str(item["status"]) for item in status["conditions"] if item["type"] == "Programmed")

    assert programmed() == "False"
    hashes.hash = world.loop.compiler.known["default"].hash
    await settle(world)
    assert programmed() == "True"
    assert world.metrics.registry.get_sample_value("postroad_operator_pods", {"tier": "default", "current": "true"})


def found_condition(world: World, kind: str, which: str) -> dict[str, Any]:
    conditions = world.server.objects[kind, "x"]["status"]["conditions"]
    return next(dict(item) for item in conditions if item["type"] == which)


async def test_a_publication_that_is_forbidden_is_told_and_heals(world: World) -> None:
    await settle(world)
    real = world.server.apply

    async def apply(body: dict[str, Any], *, subresource: str = "") -> dict[str, Any]:
        if body["kind"] == "ConfigMap":
            raise ApiError(403, "PATCH configmaps/postroad-default: 403 Forbidden")
        return await real(body, subresource=subresource)

    world.server.apply = apply
    world.server.put("AcceptedDomain", document("AcceptedDomain", {**DOMAIN, "domain": "other.example"}))
    with pytest.raises(ApiError, match="Forbidden"):
        await world.loop.reconcile()
    told = found_condition(world, "AcceptedDomain", "Programmed")
    assert (told["status"], told["reason"]) == ("False", "Blocked")
    assert "configmaps/postroad-default: 403" in told["message"]
    assert found_condition(world, "AcceptedDomain", "Reconciling")["status"] == "True"
    world.server.apply = real
    await settle(world)
    assert found_condition(world, "AcceptedDomain", "Programmed")["reason"] == "NoPods"


async def test_a_list_that_is_forbidden_is_told_by_what_has_changed_and_heals(world: World) -> None:
    await settle(world)
    world.loop._audited = float("-inf")
    world.server.refuse = {"Secret"}
    world.server.put("AcceptedDomain", document("AcceptedDomain", {**DOMAIN, "domain": "other.example"}))
    with pytest.raises(ApiError, match="Forbidden"):
        await world.loop.reconcile()
    told = found_condition(world, "AcceptedDomain", "Accepted")
    assert (told["status"], told["reason"]) == ("False", "Blocked")
    assert "GET Secret: 403" in told["message"]
    assert found_condition(world, "ReceiveConnector", "Accepted")["status"] == "True"
    assert world.resources() == "2"
    world.server.refuse = set()
    await settle(world)
    assert found_condition(world, "AcceptedDomain", "Accepted")["status"] == "True"


async def test_an_operator_that_never_could_list_says_so(world: World) -> None:
    world.server.refuse = {"Secret"}
    with pytest.raises(ApiError, match="Forbidden"):
        await world.loop.reconcile()
    assert found_condition(world, "ReceiveConnector", "Stalled")["reason"] == "Blocked"
    assert ("ConfigMap", "postroad-default") not in world.server.objects


@pytest.mark.parametrize(("jump", "times"), [(-10 * 365 * 86400.0, 2), (10 * 365 * 86400.0, 2), (1.0, 1)])
async def test_a_clock_that_jumps_has_certificates_looked_at_again(
    world: World, monkeypatch: pytest.MonkeyPatch, jump: float, times: int
) -> None:
    await settle(world)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    await settle(world)
    assert world.compilations() == times


def test_a_watch_is_never_given_up() -> None:
    waits = list(itertools.islice(Backoffs(), 1000))
    assert len(waits) == 1000
    assert max(waits) <= 10


@pytest.mark.parametrize("kind", INPUTS)
async def test_indexes_that_lack_what_a_list_holds_are_told(world: World, kind: str) -> None:
    extra = {"metadata": {"name": "y"}} if kind not in KINDS else document(kind, RECEIVE)
    world.server.put(kind, extra)
    world.cluster.blind = {kind}
    await world.loop.reconcile()
    assert world.metrics.registry.get_sample_value("postroad_operator_watch_complete") == 0
    world.cluster.blind = set()
    await settle(world)
    assert world.metrics.registry.get_sample_value("postroad_operator_watch_complete") == 1


async def test_a_service_that_hides_clients_is_seen_and_heals(world: World) -> None:
    relay = {"principal": "Anonymous", "permissions": ["SMTP-Submit", "SMTP-Accept-Any-Recipient"]}
    spec = {**RECEIVE, "remoteIPRanges": ["10.0.0.0/8"], "grants": [relay]}
    world.server.put("ReceiveConnector", document("ReceiveConnector", spec))
    (port,) = {binding["port"] for binding in spec["bindings"]}
    service = {
        "metadata": {"name": "front"},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Cluster",
            "selector": {"postroad.dev/tier": "default"},
            "ports": [{"port": 25, "targetPort": port}],
        },
    }
    await settle(world)
    assert found_condition(world, "ReceiveConnector", "Accepted")["status"] == "True"
    world.server.put("Service", service)
    await settle(world)
    told = found_condition(world, "ReceiveConnector", "Accepted")
    assert told["reason"] == "ClientAddressesHidden"
    assert "Service front" in told["message"]
    service["spec"] = {**service["spec"], "externalTrafficPolicy": "Local"}
    world.server.put("Service", service)
    await settle(world)
    assert found_condition(world, "ReceiveConnector", "Accepted")["status"] == "True"


def test_a_refused_status_is_tried_ever_more_rarely() -> None:
    refusals, now, waits = Refusals(), 0.0, []
    for _ in range(12):
        assert refusals.due("a", "1", now)
        refusals.note("a", "1", now)
        assert not refusals.due("a", "1", now)
        waits.append(refusals.wait({"a"}, now))
        now += waits[-1]
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == 300.0
    assert refusals.due("a", "2", now - 1)
    assert refusals.wait(set(), now) == 300.0
    assert refusals.note("a", "1", now)


def test_reviews_know_where_a_service_hides_clients() -> None:
    cluster, settings = Cluster(NAMESPACE, "lease"), TierSettings(namespace=NAMESPACE)
    index = index_for(cluster, settings)

    def show(namespace: str, *, gone: bool = False) -> dict[int, tuple[str, ...]]:
        document = {
            "metadata": {"name": "front", "namespace": namespace, "uid": namespace},
            "spec": {"type": "NodePort", "selector": {"postroad.dev/tier": "default"}, "ports": [{"port": 25}]},
        }
        watched = watched_of("Service", document)
        cluster._objects["Service"][watched.identity] = watched
        if gone:
            del cluster._objects["Service"][watched.identity]
        cluster._show(index, "Service", watched, gone=gone)
        with index.world("default") as world:
            return dict(world.settings.hidden_ports)

    assert show("elsewhere") == {}
    assert show(NAMESPACE) == {25: ("front",)}
    assert show(NAMESPACE, gone=True) == {}
