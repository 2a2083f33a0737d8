"""What is published, when it counts as different, and how issued certificates are kept."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest
from compile_kit import adom, compiled, rconn, sconn, secret
from hypothesis import given
from hypothesis import strategies as st

from postroad_operator.handlers.ask import answer_of
from postroad_operator.handlers.cluster import watched_of
from postroad_operator.handlers.leader import Move, Sighting, Times, decide
from postroad_operator.handlers.writer import same_status
from postroad_operator.publish import ApiError, Owner, SecretBundles, config_map, differs
from postroad_operator.publish import secret as secret_object
from postroad_operator.resources import Invalid, labels
from postroad_transport.config.files import CONFIG_FILE, config_hash, encode, load

SMART = sconn(
    smartHosts=[{"host": "relay.example"}], smartHostAuthMechanism="BasicAuthRequireTLS", authSecretRef={"name": "s"}
)
COMPILATION = compiled(rconn(), adom("a.example"), SMART, secret("s", username="u", password="p4ssw0rd"))
OWNER = Owner("apps/v1", "Deployment", "postroad", "uid-1")


def test_the_config_map_holds_what_a_pod_loads(tmp_path: Any) -> None:
    document = config_map(COMPILATION, "mail", OWNER)
    (tmp_path / CONFIG_FILE).write_bytes(base64.b64decode(document["binaryData"][CONFIG_FILE]))
    config, digest = load(tmp_path)
    assert config == COMPILATION.config
    annotations = document["metadata"]["annotations"]
    assert annotations[labels.CONFIG_HASH] == digest == config_hash(encode(COMPILATION.config))
    assert annotations[labels.RESOURCES] == "3"
    assert document["metadata"]["ownerReferences"] == [OWNER.reference()]


def test_no_password_is_in_the_config_map_and_each_is_in_the_secret() -> None:
    document = config_map(COMPILATION, "mail")
    assert "p4ssw0rd" not in base64.b64decode(document["binaryData"][CONFIG_FILE]).decode("latin-1")
    assert b"p4ssw0rd" not in encode(COMPILATION.config)
    (value,) = secret_object(COMPILATION, "mail")["data"].values()
    assert json.loads(base64.b64decode(value)) == {"username": "u", "password": "p4ssw0rd"}


def test_files_of_the_configuration_before_stay_until_they_are_pruned() -> None:
    both = secret_object(COMPILATION, "mail", also={"old.key": "AAAA"})["data"]
    assert both["old.key"] == "AAAA"
    assert both.keys() > secret_object(COMPILATION, "mail")["data"].keys()


def test_publishing_is_deterministic() -> None:
    assert config_map(COMPILATION, "mail") == config_map(COMPILATION, "mail")


@pytest.mark.parametrize("build", [config_map, secret_object])
def test_an_object_differs_when_something_of_ours_was_touched(build: Any) -> None:
    wanted = build(COMPILATION, "mail", OWNER)
    served = copy.deepcopy(wanted)
    served["metadata"] |= {
        "resourceVersion": "7",
        "uid": "x",
        "annotations": wanted["metadata"].get("annotations", {}),
    }
    served["metadata"]["labels"]["team"] = "mail"
    assert not differs(served, wanted)
    assert differs(None, wanted)
    part = "data" if "data" in wanted else "binaryData"
    for touch in (
        lambda o: o[part].update({"extra": "AAAA"}),
        lambda o: o[part].clear(),
        lambda o: o["metadata"]["labels"].clear(),
        lambda o: o["metadata"]["ownerReferences"].clear(),
    ):
        touched = copy.deepcopy(served)
        touch(touched)
        assert differs(touched, wanted)


class FakeApi:
    """Keeps Secrets, with versions, as the API server does."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] | None = None
        self.version = 0

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.kept)

    async def create(self, document: dict[str, Any]) -> dict[str, Any]:
        if self.kept is not None:
            raise ApiError(409, "AlreadyExists")
        return self._keep(document)

    async def replace(self, document: dict[str, Any]) -> dict[str, Any]:
        assert self.kept is not None
        if document["metadata"]["resourceVersion"] != self.kept["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict")
        return self._keep(document)

    def _keep(self, document: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.kept = copy.deepcopy(document)
        self.kept["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.kept)


async def test_bundles_are_kept_and_read_again() -> None:
    api: Any = FakeApi()
    bundles = await SecretBundles.read(api, "default", "mail")
    assert bundles.load("_authority") is None
    bundles.save("_authority", b"pem")
    assert await bundles.write(api)
    again = await SecretBundles.read(api, "default", "mail")
    assert again.load("_authority") == b"pem"
    again.save("_authority", b"pem")
    assert not await again.write(api)
    assert api.version == 1


async def test_of_two_writers_the_second_is_refused_and_no_authority_is_lost() -> None:
    api: Any = FakeApi()
    first, second = [await SecretBundles.read(api, "default", "mail") for _ in range(2)]
    first.save("_authority", b"one")
    second.save("_authority", b"two")
    await first.write(api)
    with pytest.raises(ApiError) as refused:
        await second.write(api)
    assert refused.value.code == 409
    assert (await SecretBundles.read(api, "default", "mail")).load("_authority") == b"one"


def lease(holder: str | None, version: str = "1", duration: int = 12) -> dict[str, Any]:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": duration}
    return {"metadata": {"resourceVersion": version}, "spec": spec}


@pytest.mark.parametrize(
    ("seen", "sighting", "expected"),
    [
        (None, None, Move.CREATE),
        (lease("me"), None, Move.RENEW),
        (lease(""), None, Move.TAKE),
        (lease(None), None, Move.TAKE),
        (lease("other"), None, Move.WAIT),
        (lease("other"), Sighting("1", 99.0), Move.WAIT),
        (lease("other"), Sighting("1", 87.0), Move.TAKE),
        (lease("other", "2"), Sighting("1", 50.0), Move.WAIT),
        (lease("other", duration=60), Sighting("1", 50.0), Move.WAIT),
    ],
)
def test_who_may_write(seen: dict[str, Any] | None, sighting: Sighting | None, expected: Move) -> None:
    assert decide(seen, "me", sighting, 100.0) is expected


@given(st.floats(2, 30))
def test_a_holder_stops_before_anyone_can_take_over(duration: float) -> None:
    times = Times(duration)
    assert times.retry < times.deadline < times.duration


@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda s: st.dictionaries(st.text(max_size=11), s))
)
def test_any_answer_of_a_pod_is_survived(body: object) -> None:
    assert answer_of("p", body).pod == "p"


def test_an_answer_is_read() -> None:
    answer = answer_of("p", {"hash": "h", "generations": {"a": 1, "b": "x"}, "lastError": None})
    assert (answer.hash, dict(answer.generations), answer.error) == ("h", {"a": 1}, "")
    assert answer_of("p", {"hash": None, "lastError": "e"}).error == "e"


@pytest.mark.parametrize(
    ("observed", "wanted", "same"),
    [
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1, "b": ""}, {"a": 1}, True),
        ({"a": 1, "b": "x"}, {"a": 1}, False),
        ({"a": 2}, {"a": 1}, False),
        ({}, {"a": 1}, False),
        (None, {}, True),
    ],
)
def test_a_status_is_the_same_up_to_what_the_schema_fills_in(observed: Any, wanted: Any, same: bool) -> None:
    assert same_status(observed, wanted) is same


META = {"name": "x", "namespace": "mail", "uid": "u", "resourceVersion": "5"}


def test_of_each_object_only_what_is_needed_is_kept() -> None:
    helm = watched_of("Secret", {"metadata": META, "type": "helm.sh/release.v1", "data": {"release": "AAAA"}})
    assert (helm.parsed, helm.document) == (None, None)
    ours = watched_of("ConfigMap", {"metadata": META | {"labels": labels.MANAGED_BY, "managedFields": [1]}})
    assert ours.document is not None
    assert "managedFields" not in ours.document["metadata"]
    assert ours.parsed is None
    bad = watched_of("AcceptedDomain", {"metadata": META, "spec": {"domain": 1}, "status": "rubbish"})
    assert isinstance(bad.parsed, Invalid)
    assert bad.status == {}
    assert watched_of("Pod", {"metadata": META}).pod is None
