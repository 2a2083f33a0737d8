"""A published configuration that was damaged on its way is refused in words, whatever the damage."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.config import Role, TierConfig
from postroad_transport.config.files import CONFIG_FILE, ConfigError, compress, config_hash, encode, load, unpack

CONFIG = TierConfig(tier="default", role=Role.HUB, hostname="mail.example.com")
PACKED = compress(encode(CONFIG))


def test_a_configuration_comes_back_with_its_hash() -> None:
    assert unpack(PACKED) == (CONFIG, config_hash(encode(CONFIG)))


@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_a_changed_octet_is_refused_or_changes_nothing(position: int, change: int) -> None:
    damaged = bytearray(PACKED)
    damaged[position] ^= change
    try:
        config, _ = unpack(bytes(damaged))
    except ConfigError:
        return
    assert config == CONFIG


@given(st.integers(0, len(PACKED) - 1))
def test_a_configuration_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(ConfigError):
        unpack(PACKED[:length])


def test_another_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="format 2 is not 1"):
        unpack(compress(encode(msgspec.structs.replace(CONFIG, format_version=2))))


def test_a_refusal_names_the_file(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(PACKED[:20])
    with pytest.raises(ConfigError, match=CONFIG_FILE):
        load(tmp_path)
    with pytest.raises(ConfigError, match=CONFIG_FILE):
        load(tmp_path / "nowhere")
