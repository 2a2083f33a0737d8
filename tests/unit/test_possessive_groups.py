"""No expression repeats a group possessively: CPython before 3.11.5, Debian 12's among them, matches it wrongly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2]
POSSESSIVE_GROUP = re.compile(r"\)(?:[*+?]|\{[0-9,]+\})\+")


@pytest.mark.parametrize("package", ["operator/postroad_operator", "transport/postroad_transport"])
def test_no_group_is_repeated_possessively(package: str) -> None:
    found = [
        f"{path.name}:{number}"
        for path in (SOURCES / package).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if POSSESSIVE_GROUP.search(line)
    ]
    assert found == []


def test_the_check_sees_one() -> None:
    assert POSSESSIVE_GROUP.search(r'rb"(?:a|b)*+"')
    assert not POSSESSIVE_GROUP.search(r'rb"(?:a|b)*c++"')
