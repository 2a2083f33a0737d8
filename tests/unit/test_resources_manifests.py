"""Reading manifests: order, places, and faults that name file, document, line, field and fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_operator.resources import Manifests, Resource, read
from postroad_operator.resources.manifests import read_text

DOMAIN = """\
apiVersion: postroad.dev/v1alpha1
kind: AcceptedDomain
metadata:
  name: {name}
spec:
  domain: {name}.example
  deliver:
    maildir: {{path: x}}
"""


def text(content: str) -> Manifests:
    manifests = Manifests()
    read_text(content, "f.yaml", manifests)
    return manifests


def faults(content: str) -> list[str]:
    return [str(fault) for fault in text(content).faults]


def test_a_directory_is_read_sorted_recursively_and_without_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for file, name in (("b.yaml", "b"), ("a.yml", "a"), ("sub/c.yaml", "c"), (".git/d.yaml", "d"), ("e.txt", "e")):
        (tmp_path / file).write_text(DOMAIN.format(name=name))
    manifests = read(tmp_path)
    assert [item.source.rpartition("/")[2] for item in manifests.objects] == ["a", "b", "c"]
    assert manifests.faults == []


def test_a_missing_path_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere")


def test_an_unreadable_file_is_a_fault_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.yaml").write_text(DOMAIN.format(name="b"))
    manifests = read(tmp_path)
    assert "cannot be read: it is not UTF-8" in str(manifests.faults[0])
    assert len(manifests.objects) == 1


def test_a_fault_names_file_line_document_field_and_fix() -> None:
    broken = DOMAIN.format(name="b").replace("domain: b.example", "domian: b.example")
    assert faults(DOMAIN.format(name="a") + "---\n" + broken) == [
        "f.yaml:15: document 2: AcceptedDomain/default/b: spec.domain: this field is required: add it",
        "f.yaml:15: document 2: AcceptedDomain/default/b: spec.domian: unknown field: did you mean domain?",
    ]


def test_broken_syntax_keeps_what_stands_before_it() -> None:
    manifests = text(DOMAIN.format(name="a") + "---\nkind: [\n")
    assert len(manifests.objects) == 1
    assert "document 2" in str(manifests.faults[0])
    assert "fix the syntax" in str(manifests.faults[0])


def test_a_key_given_twice_is_a_fault_with_its_line() -> None:
    found = faults(DOMAIN.format(name="a") + "  domain: b.example\n")
    assert len(found) == 1
    assert found[0].startswith("f.yaml:9:")
    assert "the key domain is given twice" in found[0]


def test_a_resource_defined_twice_is_a_fault_and_the_first_counts() -> None:
    manifests = text(DOMAIN.format(name="a") + "---\n" + DOMAIN.format(name="a").replace("path: x", "path: y"))
    (only,) = manifests.objects
    assert "path='x'" in repr(only)
    assert "defined twice, first at f.yaml:1" in str(manifests.faults[0])


def test_the_items_of_a_list_are_read() -> None:
    item = "".join(f"  {line}\n" for line in DOMAIN.format(name="a").splitlines()).replace("  api", "- api", 1)
    manifests = text(f"apiVersion: v1\nkind: List\nitems:\n{item}")
    assert [item.source for item in manifests.objects] == ["AcceptedDomain/default/a"]
    assert manifests.origins["AcceptedDomain/default/a"].line == 4


def test_unrelated_documents_are_noted_and_empty_ones_passed_over() -> None:
    manifests = text("---\n---\n# nothing\n---\napiVersion: apps/v1\nkind: Deployment\n")
    assert manifests.notes == ["f.yaml:5: Deployment (apps/v1) is not ours, ignored"]
    assert manifests.objects == []
    assert manifests.faults == []


def test_a_timestamp_without_quotes_stays_text() -> None:
    created = DOMAIN.format(name="a").replace("  name: a", "  name: a\n  creationTimestamp: 2026-01-02T03:04:05Z")
    (only,) = text(created).objects
    assert isinstance(only, Resource)
    assert only.metadata.creation_timestamp == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    "content",
    [
        "just text",
        "- a\n- b\n",
        "? [a, b]\n: c\n",
        "a: &a [*a]",
        "!!python/object:os.system x",
        "\x00",
        "a: 'b",
        "%YAML 9.9\n---\na: 1\n",
        "[" * 3000,
        "a: 0o9_",
        "apiVersion: v1\nkind: List\nitems: 3",
        "apiVersion: v1\nkind: List\nitems: [1, {}]",
        "---\n<<: x\n",
    ],
)
def test_bad_yaml_never_crashes(content: str) -> None:
    manifests = text(content)
    assert manifests.objects == [] or manifests.faults


@given(st.text(alphabet=st.sampled_from("ab: -\n[]{}&*!|>'\"#%?,\t0~<"), max_size=60))
def test_any_text_gives_objects_faults_or_nothing(content: str) -> None:
    text(content)
