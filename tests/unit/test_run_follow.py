"""What a running tier does about a session ticket secret that is due, beside manifests that are good or broken."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path

import pytest
import yaml
from resource_cases import document

from postroad_operator.certificates import DirectoryStore
from postroad_operator.certificates.tickets import ROTATION, TICKETS_NAME, TicketSecret
from postroad_operator.compile import TierSettings
from postroad_operator.run import follow
from postroad_operator.run.build import build
from postroad_operator.run.follow import Follower, publish
from postroad_transport.config.files import SECRETS_DIRECTORY, SESSION_TICKETS_FILE

CONNECTOR = document("ReceiveConnector", {"bindings": [{"port": 25}], "permissionGroups": ["AnonymousUsers"]})
CERTIFICATE = document("TransportCertificate", {"ca": {}, "dnsNames": ["mx.example"]})
OLD = TicketSecret(b"o" * 32, int(time.time() - ROTATION - 1))


class FakeSupervisor:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.reloads = 0
        self.last_error = ""

    async def reload(self) -> str:
        self.reloads, self.last_error = self.reloads + 1, ""
        return ""

    def refuse(self, reason: str) -> None:
        self.last_error = reason


class Tier:
    """A tier that serves what its manifests say."""

    def __init__(self, path: Path) -> None:
        self.manifests, self.config_dir = path / "manifests", path / "config"
        self.manifests.mkdir()
        for number, item in enumerate((CONNECTOR, CERTIFICATE)):
            (self.manifests / f"{number}.yaml").write_text(yaml.safe_dump(item))
        self.store = DirectoryStore(path / "certificates")
        self.supervisor = FakeSupervisor()
        self.reports: list[str] = []
        settings = TierSettings()
        built = build(self.manifests, settings, self.store, time.time())
        assert built.problems() == []
        publish(self.config_dir, built)
        self.follower = Follower(
            self.manifests,
            self.config_dir,
            settings,
            self.store,
            self.supervisor,
            built,
            lambda _: self.reports.append("served"),
            lambda what, _: self.reports.append(what),
        )

    @property
    def served(self) -> bytes:
        return (self.config_dir / SECRETS_DIRECTORY / SESSION_TICKETS_FILE).read_bytes()


@pytest.fixture
def tier(tmp_path: Path) -> Tier:
    return Tier(tmp_path)


async def test_a_look_that_finds_nothing_due_reloads_nothing(tier):
    before = tier.served
    await tier.follower._rebuild()
    assert (tier.served, tier.supervisor.reloads, tier.reports) == (before, 0, [])


async def test_a_secret_that_is_due_is_replaced_and_served_without_a_word(tier):
    before = tier.served
    tier.store.save(TICKETS_NAME, OLD.encode())
    await tier.follower._rebuild()
    assert tier.served not in (before, OLD.secret)
    assert (tier.supervisor.reloads, tier.reports) == (1, [])
    await tier.follower._rebuild()
    assert tier.supervisor.reloads == 1


async def test_manifests_that_are_mended_are_reported_with_another_secret_too(tier):
    connector = tier.manifests / "0.yaml"
    sound = connector.read_text()
    connector.write_text("spec: [")
    await tier.follower._rebuild()
    tier.store.save(TICKETS_NAME, OLD.encode())
    connector.write_text(sound)
    await tier.follower._rebuild()
    assert tier.reports == ["not loaded: nothing has changed", "served", "loaded"]
    assert tier.supervisor.last_error == ""


@pytest.mark.parametrize("broken", ["spec: [", None], ids=["unreadable", "gone"])
async def test_what_is_due_beside_broken_manifests_is_not_looked_at_every_second(tier, broken, monkeypatch):
    tier.follower = dataclasses.replace(
        tier.follower, current=dataclasses.replace(tier.follower.current, renew_at=time.time() - 1)
    )
    if broken is None:
        tier.manifests.rename(tier.manifests.with_name("away"))
    else:
        (tier.manifests / "0.yaml").write_text(broken)
    stop, waits = asyncio.Event(), []

    async def wait_for(awaited, seconds):
        awaited.close()
        waits.append(seconds)
        if len(waits) == 3:
            stop.set()
            return
        raise TimeoutError

    monkeypatch.setattr(follow.asyncio, "wait_for", wait_for)
    await tier.follower._follow_certificates(stop)
    assert waits[0] == 1.0
    assert min(waits[1:]) > 600
    assert set(tier.reports) == {"not loaded: nothing has changed"}
