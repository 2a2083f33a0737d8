"""What docs/permissions.md shows is what the commands print, and what it lists is all there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from postroad_operator.cli import main
from postroad_transport.config import Permission
from postroad_transport.policy.groups import PermissionGroup

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/permissions.md").read_text()
EXAMPLES = re.findall(r"```console\n\$ postroad ([^\n]+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=lambda value: value[:60])
def test_an_example_s_output_is_the_command_s(command: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    output = CliRunner().invoke(main, shlex.split(command)).output
    assert [line.rstrip() for line in output.strip().splitlines()] == shown.rstrip().splitlines()


def test_the_page_shows_examples_and_names_every_permission_and_group() -> None:
    assert len(EXAMPLES) >= 3
    assert [str(name) for name in (*Permission, *PermissionGroup) if f"`{name}`" not in PAGE] == []
