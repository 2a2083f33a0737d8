"""The Dockerfile, as far as it can be read without an engine."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def needed(name: str) -> set[str]:
    """Return a distribution and everything that it needs here."""
    found = {name}
    for line in requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found |= needed(requirement.name)
    return found


def test_the_build_stage_takes_all_that_its_tools_need_and_no_more() -> None:
    (kept,) = re.findall(r"keep = /\^\(([^)]+)\)==/", TEXT)
    assert set(kept.split("|")) == needed("hatchling") | needed("cython") | needed("setuptools")


def test_everything_is_pinned_by_hash_and_comes_as_a_wheel_or_is_built_from_what_is_pinned() -> None:
    commands = TEXT.replace("\\\n", " ")
    installs = [
        line for part in commands.split("&&") for line in part.splitlines() if " install " in line and "pip" in line
    ]
    assert len(installs) == 4
    for line in installs:
        assert ("--require-hashes" in line and "--only-binary :all:" in line) or "--no-index" in line


def test_what_is_copied_is_in_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", TEXT, re.MULTILINE) for word in line.split()]
    assert copied
    for name in copied:
        assert f"!{name}" in ignored
        assert (ROOT / name).exists()


def test_the_image_runs_as_the_user_that_the_chart_names() -> None:
    helpers = (ROOT / "charts/postroad/templates/_helpers.tpl").read_text()
    (user,) = re.findall(r"runAsUser: (\d+)", helpers)
    assert f"USER {user}:{user}" in TEXT
    assert TEXT.index("USER ") < TEXT.index("ENTRYPOINT")
