"""Which edits of the manifests are served, and which change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from postroad_operator.certificates import DirectoryStore
from postroad_operator.compile import TierSettings
from postroad_operator.run.build import Build, build

NOW = 1_800_000_000.0


class Directory:
    """A directory of manifests under test."""

    def __init__(self, path: Path) -> None:
        self.path = path / "manifests"
        self.path.mkdir()
        self.store = DirectoryStore(path / "certificates")

    def put(self, name: str, *domains: object) -> None:
        documents = [
            {
                "apiVersion": "postroad.dev/v1alpha1",
                "kind": "AcceptedDomain",
                "metadata": {"name": f"{name}-{number}"},
                "spec": {"domain": domain, "deliver": {"maildir": {"path": "mail"}}},
            }
            for number, domain in enumerate(domains)
        ]
        (self.path / f"{name}.yaml").write_text(yaml.safe_dump_all(documents))

    def build(self) -> Build:
        return build(self.path, TierSettings(), self.store, NOW)


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    directory = Directory(tmp_path)
    directory.put("good", "good.example")
    return directory


def domains(built: Build) -> set[str]:
    return {domain.domain for domain in built.compilation.config.accepted_domains}


def test_an_edit_that_breaks_a_served_resource_changes_nothing(directory: Directory) -> None:
    served = directory.build()
    directory.put("good", "not a domain")
    assert directory.build().breaks(served)


def test_a_new_resource_that_is_broken_changes_nothing(directory: Directory) -> None:
    served = directory.build()
    directory.put("new", "not a domain")
    assert directory.build().breaks(served)


def test_a_resource_left_out_from_the_start_holds_up_no_other(directory: Directory) -> None:
    directory.put("bad", "not a domain")
    served = directory.build()
    assert domains(served) == {"good.example"}
    directory.put("new", "new.example")
    edited = directory.build()
    assert not edited.breaks(served)
    assert domains(edited) == {"good.example", "new.example"}


def test_removing_a_resource_is_served(directory: Directory) -> None:
    directory.put("more", "more.example")
    served = directory.build()
    (directory.path / "more.yaml").unlink()
    assert not directory.build().breaks(served)


def test_a_file_that_becomes_unreadable_takes_nothing_with_it(directory: Directory) -> None:
    (directory.path / "other.yaml").write_text("a: [")
    served = directory.build()
    directory.put("new", "new.example")
    assert not directory.build().breaks(served)
    (directory.path / "good.yaml").write_text("b: [")
    assert directory.build().breaks(served)


def test_mending_what_was_left_out_is_served(directory: Directory) -> None:
    directory.put("bad", "not a domain")
    served = directory.build()
    directory.put("bad", "mended.example")
    edited = directory.build()
    assert not edited.breaks(served)
    assert domains(edited) == {"good.example", "mended.example"}
