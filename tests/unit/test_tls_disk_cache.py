"""What is kept on disk is whole, and a disk that fails is a cache that is empty."""

from __future__ import annotations

import os
import time

import pytest

from postroad_transport.tls.disk_cache import DiskCache


def test_what_was_written_is_read_by_another_process_object_until_it_is_forgotten(tmp_path):
    first, second = (DiskCache(tmp_path / "new" / "directory", ".crl") for _ in range(2))
    assert second.read("a") is None
    first.write("a", b"one")
    first.write("a", b"two")
    data, written = second.read("a")
    assert data == b"two"
    assert written == pytest.approx(time.time(), abs=60)
    assert second.read("b") is None
    second.forget("a")
    second.forget("a")
    assert first.read("a") is None


def test_what_is_not_newer_is_not_read(tmp_path):
    cache = DiskCache(tmp_path, ".crl")
    cache.write("a", b"one")
    os.utime(tmp_path / "a.crl", (1000.0, 1000.0))
    assert cache.read("a", 999.0) == (b"one", 1000.0)
    assert cache.read("a", 1000.0) is None


def test_nothing_is_left_beside_the_file(tmp_path):
    DiskCache(tmp_path, ".ocsp").write("a", b"one")
    assert [file.name for file in tmp_path.iterdir()] == ["a.ocsp"]


@pytest.mark.parametrize("nowhere", [True, False])
def test_without_a_directory_or_with_a_broken_one_nothing_is_kept_and_nothing_fails(tmp_path, nowhere):
    (tmp_path / "file").write_bytes(b"")
    cache = DiskCache(None if nowhere else tmp_path / "file", ".crl")
    cache.write("a", b"one")
    assert cache.read("a") is None
    cache.forget("a")
