"""The store of revocation lists: what is fetched, from where, how often; outages and healing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from partner_kit import HOUR, Ca, CrlServer, Issued, crl_server

from postroad_transport.config import Revocation, RevocationMode
from postroad_transport.telemetry.metrics import Metrics
from postroad_transport.tls import crl_store
from postroad_transport.tls.crl_store import RETRY, CrlStore


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Setting:
    """An authority whose lists are at ``/ca.crl``, and what a leaf of it is verified with."""

    def __init__(self, server: CrlServer) -> None:
        self.clock = Clock()
        self.server = server
        self.ca = Ca("CA", self.clock.now, crl_url=server.url("/ca.crl"))
        self.leaf: Issued = self.ca.issue("partner.example")
        self.publish()
        self.metrics = Metrics()

    def publish(self, **fields: Any) -> None:
        self.server.files["/ca.crl"] = self.ca.crl_der(now=self.clock.now, **fields)

    def store(self, directory: Path | None = None) -> CrlStore:
        return CrlStore(directory, metrics=self.metrics, clock=self.clock)

    async def lists(self, store: CrlStore, **revocation: Any) -> int:
        path = (self.leaf.certificate, self.ca.certificate)
        return len(await store.lists(path, Revocation(**revocation)))

    def fetched(self, result: str = "ok") -> float:
        return self.metrics.registry.get_sample_value("postroad_crl_fetches_total", {"result": result}) or 0.0


@pytest.fixture
def given() -> Iterator[Setting]:
    with crl_server() as server:
        yield Setting(server)


async def test_a_list_is_fetched_once_and_kept_until_it_is_due(given: Setting) -> None:
    store = given.store()
    assert await asyncio.gather(*(given.lists(store) for _ in range(10))) == [1] * 10
    assert given.server.asked == ["/ca.crl"]
    await store.close()


async def test_a_list_in_pem_is_read_too(given: Setting) -> None:
    given.server.files["/ca.crl"] = given.ca.crl().public_bytes(Encoding.PEM)
    store = given.store()
    assert await given.lists(store) == 1
    await store.close()


@pytest.mark.parametrize(
    "revocation", [{"fetch": False}, {"hosts": ("crl.other.example",)}, {"mode": RevocationMode.OFF}]
)
async def test_nothing_is_fetched_that_is_not_allowed(given: Setting, revocation: dict[str, Any]) -> None:
    store = given.store()
    assert await given.lists(store, **revocation) == 0
    assert given.server.asked == []
    assert await given.lists(store, hosts=("127.0.0.1",)) == 1
    await store.close()


async def test_a_list_that_is_given_spares_the_fetch(given: Setting) -> None:
    pem = given.ca.crl().public_bytes(Encoding.PEM).decode()
    store = given.store()
    assert await given.lists(store, crls=f"# from the partner\n{pem}") == 1
    assert given.server.asked == []
    await store.close()


async def test_an_outage_is_asked_about_again_only_after_a_while_and_heals(given: Setting) -> None:
    given.server.down = True
    store = given.store()
    assert await given.lists(store) == 0
    assert await given.lists(store) == 0
    assert given.fetched("unreachable") == 1
    given.server.down = False
    given.clock.now += RETRY
    assert await given.lists(store) == 1
    await store.close()


async def test_an_old_list_bridges_an_outage_until_it_ends(given: Setting) -> None:
    store = given.store()
    assert await given.lists(store) == 1
    given.server.down = True
    given.clock.now += 0.9 * HOUR
    assert await given.lists(store) == 1
    given.clock.now += 0.2 * HOUR
    assert await given.lists(store) == 0
    await store.close()


async def test_lists_outlive_the_process_and_are_shared_by_workers(given: Setting, tmp_path: Path) -> None:
    first, second = given.store(tmp_path), given.store(tmp_path)
    assert await given.lists(first) == 1
    given.server.down = True
    assert await given.lists(second) == 1
    assert len(given.server.asked) == 1
    await first.close()
    await second.close()


async def test_a_list_is_fetched_anew_in_the_background_before_it_ends(
    given: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    given.publish(end=3.0)
    store = CrlStore(metrics=given.metrics)
    given.clock.now = time.time()
    assert await given.lists(store) == 1
    given.publish(end=HOUR)
    async with asyncio.timeout(10):
        while given.fetched() < 2:
            await asyncio.sleep(0.05)
    await store.close()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no list", "unreadable"), (b"", "unreadable"), (b"x" * 2000, "too_big"), (None, "status")],
)
async def test_what_is_no_list_is_counted_and_not_taken(
    given: Setting, content: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crl_store, "MAX_BYTES", 1000)
    if content is None:
        del given.server.files["/ca.crl"]
    else:
        given.server.files["/ca.crl"] = content
    store = given.store()
    assert await given.lists(store) == 0
    assert given.fetched(reason) == 1
    await store.close()


async def test_a_list_that_is_forged_outdated_or_older_does_not_replace_a_good_one(given: Setting) -> None:
    store = given.store()
    given.publish(start=-60.0)
    assert await given.lists(store) == 1
    forger = Ca("CA", given.clock.now)
    for worse in (forger.crl_der(), given.ca.crl_der(end=-1.0), given.ca.crl_der(start=-HOUR)):
        given.server.files["/ca.crl"] = worse
        given.clock.now += RETRY
        held = store._held[given.server.url("/ca.crl")]
        await store._renew(given.server.url("/ca.crl"), held)
        assert await given.lists(store) == 1
    assert given.fetched("invalid") == 3
    await store.close()


async def test_a_redirect_leads_nowhere(given: Setting) -> None:
    given.server.files["/elsewhere"] = given.server.files.pop("/ca.crl")
    given.server.redirects["/ca.crl"] = given.server.url("/elsewhere")
    store = given.store()
    assert await given.lists(store) == 0
    assert given.server.asked == ["/ca.crl"]
    await store.close()


async def test_the_number_of_lists_is_limited(given: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crl_store, "MAX_LISTS", 3)
    store = given.store()
    for number in range(6):
        given.ca.crl_url = given.server.url(f"/{number}.crl")
        given.server.files[f"/{number}.crl"] = given.ca.crl_der()
        given.leaf = given.ca.issue("partner.example")
        given.clock.now += 1
        assert await given.lists(store) == 1
    assert len(store._held) == 3
    await store.close()
