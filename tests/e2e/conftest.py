"""Fixtures of the end-to-end tests: a running tier, and what it talks to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running_tier import Manifests, Tier


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    """Manifests of a small tier on free ports."""
    return Manifests(tmp_path / "manifests")


@pytest.fixture
def start_tier(tmp_path: Path) -> Iterator[Callable[..., Tier]]:
    """Start a tier from manifests; it is stopped at the end."""
    tiers: list[Tier] = []

    def start(manifests: Manifests, **options: object) -> Tier:
        tier = Tier(manifests, tmp_path / "state", **options)
        tiers.append(tier)
        return tier.start()

    yield start
    for tier in tiers:
        if tier.process is not None and tier.process.poll() is None:
            tier.stop()


@pytest.fixture
def postfix_home() -> Iterator[Path]:
    """A directory that the postfix user can reach (pytest's own temporary directories are private to root)."""
    with tempfile.TemporaryDirectory(prefix="postfix-", dir="/tmp") as home:
        Path(home).chmod(0o755)
        yield Path(home)
