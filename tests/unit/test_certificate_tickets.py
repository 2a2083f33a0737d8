"""The secret behind session tickets: kept, replaced in time, delivered with the private keys, and shown nowhere."""

from __future__ import annotations

import errno

import pytest
from certificate_kit import DAY, NOW, MemoryStore
from compile_kit import rconn, tcert
from hypothesis import assume, given
from hypothesis import strategies as st

from postroad_operator.certificates import DirectoryStore, certified
from postroad_operator.certificates.tickets import (
    ROTATION,
    TICKETS_NAME,
    TicketSecret,
    due,
    ensure_ticket_secret,
    read_ticket_secret,
)
from postroad_operator.compile import Compilation, TierSettings, compile_tier
from postroad_operator.publish import config_map, secret
from postroad_transport.config.files import SECRETS_DIRECTORY, SESSION_TICKETS_FILE, encode, store

HOUR = 3600.0
SECRETS = st.builds(TicketSecret, st.binary(min_size=32, max_size=32), st.integers(0, 10**11))


class FullStore(MemoryStore):
    def save(self, name: str, bundle: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_the_first_look_makes_one_and_later_ones_keep_it():
    kept = MemoryStore()
    first = ensure_ticket_secret(kept, NOW)
    assert first is not None
    assert len(first.secret) == 32
    assert first.renew_at == NOW + ROTATION
    assert ensure_ticket_secret(kept, NOW + ROTATION - 1) == first


def test_when_it_is_due_another_takes_its_place_and_nothing_of_it_is_left():
    kept = MemoryStore()
    first = ensure_ticket_secret(kept, NOW)
    second = ensure_ticket_secret(kept, first.renew_at)
    assert second.secret != first.secret
    assert second.renew_at == first.renew_at + ROTATION
    assert kept.names() == (TICKETS_NAME,)
    assert read_ticket_secret(kept.load(TICKETS_NAME)) == second


@given(st.floats(0, 1e11), st.floats(0, 1e11))
def test_it_is_due_when_it_is_old_or_from_far_ahead(made, now):
    assert due(made, now) == (now - made >= ROTATION or made - now >= ROTATION)


def test_clocks_that_differ_a_little_replace_nothing():
    kept = MemoryStore()
    first = ensure_ticket_secret(kept, NOW)
    assert ensure_ticket_secret(kept, NOW - 60) == first


def test_one_from_a_clock_that_was_far_ahead_is_replaced():
    kept = MemoryStore()
    first = ensure_ticket_secret(kept, NOW + 400 * DAY)
    assert ensure_ticket_secret(kept, NOW) != first


@given(SECRETS)
def test_what_is_kept_comes_back(made):
    assert read_ticket_secret(made.encode()) == made


@given(SECRETS, st.data())
def test_what_was_damaged_is_read_as_another_one_or_not_at_all(made, data):
    encoded = bytearray(made.encode())
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    found = read_ticket_secret(bytes(encoded))
    assume(found != made)
    assert found is None or len(found.secret) == 32


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\xff" * 135])
def test_garbage_is_replaced(garbage):
    kept = MemoryStore()
    kept.save(TICKETS_NAME, garbage)
    made = ensure_ticket_secret(kept, NOW)
    assert read_ticket_secret(kept.load(TICKETS_NAME)) == made


def test_one_that_cannot_be_kept_is_not_used():
    assert ensure_ticket_secret(FullStore(), NOW) is None


def test_on_disk_nobody_else_reads_it(tmp_path):
    ensure_ticket_secret(DirectoryStore(tmp_path / "certificates"), NOW)
    (file,) = (tmp_path / "certificates").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def compiled(kept, now: float = NOW, *resources) -> tuple[Compilation, float | None]:
    resources = resources or (rconn(), tcert())
    has = certified(resources, TierSettings(), kept, now)
    return compile_tier(has.snapshot), has.renew_at


def test_it_goes_to_the_secret_and_nowhere_else():
    kept = MemoryStore()
    compilation, renew_at = compiled(kept)
    made = read_ticket_secret(kept.load(TICKETS_NAME))
    assert made is not None
    assert compilation.secret_files[SESSION_TICKETS_FILE] == made.secret
    assert SESSION_TICKETS_FILE in secret(compilation, "mail")["data"]
    assert renew_at == made.renew_at
    shown = encode(compilation.config) + repr((compilation, config_map(compilation, ""), made)).encode()
    for form in (made.secret, repr(made.secret).encode(), made.secret.hex().encode()):
        assert form not in shown
    assert SESSION_TICKETS_FILE.encode() not in encode(compilation.config)


def test_a_rotation_changes_the_secret_file_and_nothing_that_is_told():
    kept = MemoryStore()
    before, renew_at = compiled(kept)
    after, _ = compiled(kept, renew_at)
    assert after.secret_files.keys() == before.secret_files.keys()
    differ = {name for name, content in after.secret_files.items() if content != before.secret_files[name]}
    assert differ == {SESSION_TICKETS_FILE}
    assert (after.config, after.verdicts) == (before.config, before.verdicts)
    assert config_map(after, "mail") == config_map(before, "mail")


def test_a_tier_without_a_certificate_has_none():
    kept = MemoryStore()
    compilation, renew_at = compiled(kept, NOW, rconn())
    assert (compilation.secret_files, kept.names(), renew_at) == ({}, (), None)


def test_a_replaced_secret_is_written_where_the_workers_read_it(tmp_path):
    kept = MemoryStore()
    compilation, renew_at = compiled(kept)
    packed = b"the same"
    assert store(tmp_path, packed, compilation.secret_files)
    assert not store(tmp_path, packed, compilation.secret_files)
    after, _ = compiled(kept, renew_at)
    assert store(tmp_path, packed, after.secret_files)
    file = tmp_path / SECRETS_DIRECTORY / SESSION_TICKETS_FILE
    assert file.read_bytes() == after.secret_files[SESSION_TICKETS_FILE]
    assert file.stat().st_mode & 0o777 == 0o600
    assert not store(tmp_path, packed, after.secret_files)
