"""The store of OCSP responses: when responders are asked, what is shown meanwhile, outages and healing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from ocsp_kit import REVOKED, UNKNOWN, authority, response
from partner_kit import HOUR, Issued, crl_server

from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics
from postroad_transport.tls import staple_store
from postroad_transport.tls.ocsp import LONGEST_RETRY, RETRY, Subject, subject
from postroad_transport.tls.staple_store import StapleStore


class Setting:
    """A certificate, its responder on loopback, and stores of what that says."""

    def __init__(self, server: Any, events: Path) -> None:
        self.now = time.time()
        self.server = server
        self.ca = authority(self.now, server.url("/ocsp"))
        self.leaf = self.ca.issue("mail.example")
        self.metrics = Metrics()
        self.events_file = events
        self.events = EventLog(os.open(events, os.O_WRONLY | os.O_CREAT))
        self.answer: dict[str, Any] = {}
        server.answers["/ocsp"] = self.respond

    def respond(self, question: bytes) -> bytes:
        serial = ocsp.load_der_ocsp_request(question).serial_number
        assert serial == self.leaf.certificate.serial_number
        return response(self.ca, self.leaf, self.now, **self.answer)

    @property
    def wanted(self) -> dict[str, Subject]:
        found = subject(self.leaf.chain_pem)
        assert found is not None
        return {"mail": found}

    def store(self, directory: Path | None = None) -> StapleStore:
        return StapleStore(directory, metrics=self.metrics, events=self.events, clock=lambda: self.now)

    async def asked(self, store: StapleStore, result: str = "ok") -> bytes | None:
        """Have the store look at what is due; wait for an answer with `result`; return what is shown then."""
        before = self.count(result)
        store.keep(self.wanted)
        await until(lambda: self.count(result) > before and self.settled(store))
        return self.shown(store)

    def settled(self, store: StapleStore) -> bool:
        return all(held.due > self.now for held in store._held.values())

    def shown(self, store: StapleStore, leaf: Issued | None = None) -> bytes | None:
        return store.staple((leaf or self.leaf).certificate.public_bytes(Encoding.DER))

    def count(self, result: str = "ok") -> float:
        return self.metrics.registry.get_sample_value("postroad_ocsp_fetches_total", {"result": result}) or 0.0

    def expiry(self) -> float | None:
        thumbprint = hashlib.sha256(self.leaf.certificate.public_bytes(Encoding.DER)).hexdigest()
        return self.metrics.registry.get_sample_value(
            "postroad_ocsp_staple_expiry_timestamp_seconds", {"name": "mail", "thumbprint": thumbprint}
        )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Setting]:
    with crl_server() as server:
        setting = Setting(server, tmp_path / "events.jsonl")
        yield setting
        os.close(setting.events._fd)


async def test_a_response_is_fetched_once_shown_and_told_of(given: Setting) -> None:
    store = given.store()
    assert given.shown(store) is None
    shown = await given.asked(store)
    assert shown is not None
    assert ocsp.load_der_ocsp_response(shown).serial_number == given.leaf.certificate.serial_number
    assert given.expiry() == int(given.now + HOUR)
    store.keep(given.wanted)
    assert given.server.asked == ["/ocsp"]
    assert given.shown(store, given.ca.issue("mail.example")) is None
    await store.close()


async def test_a_certificate_that_demands_a_response_has_one_before_it_is_presented(given: Setting) -> None:
    given.ca.must_staple = True
    given.leaf = given.ca.issue("mail.example")
    store = given.store()
    await store.fetch_ahead(given.wanted)
    shown = given.shown(store)
    assert shown is not None
    await store.fetch_ahead(given.wanted)
    store.keep(given.wanted)
    assert given.shown(store) == shown
    assert given.server.asked == ["/ocsp"]
    assert given.expiry() == int(given.now + HOUR)
    await store.close()


async def test_other_certificates_are_not_waited_for(given: Setting) -> None:
    store = given.store()
    await store.fetch_ahead(given.wanted)
    assert given.server.asked == []
    await store.close()


async def test_a_responder_that_is_down_holds_up_no_certificate_and_is_asked_again(given: Setting) -> None:
    given.ca.must_staple = True
    given.leaf = given.ca.issue("mail.example")
    given.server.down = True
    store = given.store()
    await store.fetch_ahead(given.wanted)
    assert given.count("unreachable") == 1
    assert given.shown(store) is None
    given.server.down = False
    given.now += 60
    assert await given.asked(store) is not None
    await store.close()


async def test_a_responder_that_never_answers_is_waited_for_so_long_only(given: Setting, monkeypatch) -> None:
    monkeypatch.setattr("postroad_transport.tls.staple_store.FETCH_SECONDS", 0.05)
    given.ca.must_staple = True
    given.leaf = given.ca.issue("mail.example")
    release = threading.Event()
    given.server.answers["/ocsp"] = lambda question: release.wait(10) and given.respond(question)
    store = given.store()
    await store.fetch_ahead(given.wanted)
    assert given.shown(store) is None
    release.set()
    assert await given.asked(store) is not None
    await store.close()


async def test_a_response_is_renewed_half_way_and_the_old_one_bridges_an_outage(given: Setting) -> None:
    store = given.store()
    first = await given.asked(store)
    given.now += 0.5 * HOUR + 1
    second = await given.asked(store)
    assert second is not None
    assert second != first
    given.server.down = True
    given.now += 0.5 * HOUR + 1
    assert await given.asked(store, "unreachable") == second
    given.now += 0.5 * HOUR
    assert given.shown(store) is None
    given.server.down = False
    assert await given.asked(store) is not None
    await store.close()


async def test_a_responder_that_is_down_is_asked_ever_more_slowly_and_heals(given: Setting) -> None:
    given.server.down = True
    store = given.store()
    assert await given.asked(store, "unreachable") is None
    assert given.expiry() == 0
    given.now += RETRY
    await given.asked(store, "unreachable")
    given.now += RETRY
    store.keep(given.wanted)
    await asyncio.sleep(0)
    assert len(given.server.asked) == 2
    given.server.down = False
    given.now += LONGEST_RETRY
    assert await given.asked(store) is not None
    await store.close()


@pytest.mark.parametrize(("status", "result"), [(REVOKED, "revoked"), (UNKNOWN, "unknown")])
async def test_what_is_not_good_is_never_shown_and_is_told_of(given: Setting, status: Any, result: str) -> None:
    given.answer = {"status": status}
    store = given.store()
    assert await given.asked(store, result) is None
    given.events.flush()
    line = given.events_file.read_text()
    assert '"ocsp.failed"' in line
    assert f'"{result}"' in line
    assert '"mail"' in line
    await store.close()


async def test_a_revocation_ends_the_good_response_at_hand_and_on_disk(given: Setting, tmp_path: Path) -> None:
    store = given.store(tmp_path / "ocsp")
    assert await given.asked(store) is not None
    assert len(list((tmp_path / "ocsp").iterdir())) == 1
    given.answer = {"status": REVOKED}
    given.now += 0.5 * HOUR + 1
    assert await given.asked(store, "revoked") is None
    assert given.expiry() == 0
    assert list((tmp_path / "ocsp").iterdir()) == []
    await store.close()


async def test_responses_outlive_the_process_and_are_shared_by_workers(given: Setting, tmp_path: Path) -> None:
    store = given.store(tmp_path)
    shown = await given.asked(store)
    await store.close()
    given.server.down = True
    other = given.store(tmp_path)
    other.keep(given.wanted)
    await until(lambda: given.shown(other) is not None)
    assert given.shown(other) == shown
    assert given.server.asked == ["/ocsp"]
    await other.close()


async def test_a_damaged_file_is_no_response(given: Setting, tmp_path: Path) -> None:
    thumbprint = hashlib.sha256(given.leaf.certificate.public_bytes(Encoding.DER)).hexdigest()
    (tmp_path / f"{thumbprint}.ocsp").write_bytes(b"garbage")
    store = given.store(tmp_path)
    assert await given.asked(store) is not None
    await store.close()


async def test_no_redirect_is_followed_and_no_large_answer_taken(
    given: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    given.server.redirects["/ocsp"] = given.server.url("/elsewhere")
    store = given.store()
    assert await given.asked(store, "status") is None
    assert given.server.asked == ["/ocsp"]
    given.server.redirects.clear()
    monkeypatch.setattr(staple_store, "MAX_BYTES", 100)
    given.now += LONGEST_RETRY
    assert await given.asked(store, "too_big") is None
    await store.close()


async def test_of_a_certificate_that_is_served_no_more_nothing_is_kept(given: Setting) -> None:
    store = given.store()
    await given.asked(store)
    store.keep({})
    assert given.shown(store) is None
    assert given.expiry() is None
    await store.close()
