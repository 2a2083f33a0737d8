"""A state directory belongs to one tier at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from postroad_transport.supervisor.claim import ClaimedError, claim


def test_a_claimed_directory_is_refused_by_the_name_of_its_owner_and_free_again_afterwards(tmp_path: Path) -> None:
    with claim(tmp_path):
        with pytest.raises(ClaimedError, match=rf"in use by another tier \(process {os.getpid()}\)"), claim(tmp_path):
            pass
        with pytest.raises(ClaimedError), claim(tmp_path):
            pass
    with claim(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
