"""What a tier presents to servers: a certificate in use and the next one, which peers know before it is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificate_kit import DAY, NOW
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad_operator.certificates import DirectoryStore
from postroad_operator.certificates.servers import (
    CURRENT,
    NEXT,
    OVERLAP,
    PREVIOUS,
    PUBLISHED,
    Servers,
    ensure_servers,
)
from postroad_transport.config import Principal, Role


class MemoryStore:
    """A store that may be told to take nothing."""

    def __init__(self) -> None:
        self.bundles: dict[str, bytes] = {}
        self.full = False

    def load(self, name: str) -> bytes | None:
        return self.bundles.get(name)

    def save(self, name: str, bundle: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.bundles[name] = bundle

    def names(self) -> tuple[str, ...]:
        return tuple(self.bundles)

    def remove(self, name: str) -> None:
        self.bundles.pop(name, None)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def ensured(store, now: float = NOW, role: Role = Role.HUB, hostname: str = "hub1.corp.example") -> Servers:
    return ensure_servers(hostname, role, store, now)


def presented(servers: Servers) -> str:
    assert servers.identity is not None
    return servers.identity.issued.certificate.thumbprint


def known(servers: Servers) -> list[str]:
    assert servers.identity is not None
    return [server.thumbprint for server in servers.identity.servers]


def test_the_first_look_makes_the_one_in_use_and_the_next_one(store) -> None:
    servers = ensured(store)
    assert len(set(known(servers))) == 2
    assert known(servers)[0] == presented(servers)
    assert servers.renew_at == NOW + PUBLISHED
    assert {server.principal for server in servers.identity.servers} == {Principal.HUB_TRANSPORT_SERVERS}
    assert all(server.own and "PRIVATE" not in server.certificate for server in servers.identity.servers)
    assert ensured(store, NOW + 1) == servers


def test_an_edge_tier_s_are_edge_servers(store) -> None:
    servers = ensured(store, role=Role.EDGE)
    assert {server.principal for server in servers.identity.servers} == {Principal.EDGE_TRANSPORT_SERVERS}


def test_only_the_certificate_in_use_brings_its_key_to_the_pods(store) -> None:
    servers = ensured(store)
    certificate = servers.identity.issued.certificate
    assert certificate.services == ("X-ANONYMOUSTLS",)
    assert set(servers.identity.issued.files) == {certificate.chain_file, certificate.key_file}


def test_a_new_name_of_the_server_changes_no_certificate_that_peers_know(store) -> None:
    assert known(ensured(store)) == known(ensured(store, hostname="hub2.corp.example"))


def test_in_time_the_next_one_is_presented_and_the_one_before_stays_trusted_for_a_while(store) -> None:
    first = ensured(store)
    due = first.renew_at
    assert presented(ensured(store, due - 1)) == presented(first)
    changed = ensured(store, due)
    assert presented(changed) == known(first)[1]
    assert known(changed)[0] == known(first)[1]
    assert known(changed)[2] == known(first)[0]
    assert len(known(changed)) == 3
    assert changed.renew_at == due + OVERLAP
    later = ensured(store, changed.renew_at)
    assert known(later) == known(changed)[:2]
    assert later.renew_at == due + PUBLISHED


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(min_value=0.1, max_value=179.0), min_size=1, max_size=12))
def test_whoever_subscribed_within_180_days_knows_what_is_presented(pauses: list[float]) -> None:
    store, now = MemoryStore(), NOW
    exported = known(ensured(store, now))
    for pause in pauses:
        now += pause * DAY
        servers = ensured(store, now)
        assert presented(servers) in exported
        exported = known(servers)


def test_right_after_a_change_a_subscription_is_good_for_all_but_360_days(store) -> None:
    exported = known(ensured(store))
    for day in range(0, 359, 30):
        assert presented(ensured(store, NOW + day * DAY)) in exported


@pytest.mark.parametrize("damage", [None, b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\n"])
def test_where_the_one_in_use_is_lost_the_next_one_which_peers_know_takes_its_place(store, damage) -> None:
    first = ensured(store)
    if damage is None:
        del store.bundles[CURRENT]
    else:
        store.bundles[CURRENT] = damage
    servers = ensured(store, NOW + DAY)
    assert presented(servers) == known(first)[1]
    assert known(servers)[1] not in known(first)


def test_where_the_next_one_is_lost_another_is_made_and_published_as_long(store) -> None:
    first = ensured(store)
    del store.bundles[NEXT]
    servers = ensured(store, NOW + 100 * DAY)
    assert presented(servers) == presented(first)
    assert servers.renew_at == NOW + 100 * DAY + PUBLISHED


def test_a_crash_in_the_middle_of_a_change_loses_nothing(store) -> None:
    first = ensured(store)
    store.bundles[PREVIOUS] = store.bundles[CURRENT]
    store.bundles[CURRENT] = store.bundles[NEXT]
    servers = ensured(store, first.renew_at)
    assert presented(servers) == known(first)[1]
    assert len(set(known(servers))) == 3


def test_one_that_cannot_be_kept_is_not_presented(store) -> None:
    store.full = True
    servers = ensured(store)
    assert servers.identity is None
    assert "No space left" in servers.problem


def test_both_lie_in_the_state_directory_for_nobody_else_to_read(tmp_path: Path) -> None:
    ensured(DirectoryStore(tmp_path / "certificates"))
    files = list((tmp_path / "certificates").iterdir())
    assert {file.name for file in files} == {f"{CURRENT}.pem", f"{NEXT}.pem"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
