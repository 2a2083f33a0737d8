"""Every example starts as a real tier and offers what its connectors say."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from running_tier import Manifests, Tier, free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
#: gitops is for tools that build and apply, autoscaling is values for helm; tests/operator has them.
TIERS = sorted({path.name for path in EXAMPLES.iterdir() if path.is_dir()} - {"gitops", "autoscaling"})
ROLES = {"edge": "edge", "edge-trusted": "edge"}
HOSTNAMES = {"edge-trusted": "edge1.mail.example"}


def on_free_ports(example: Path, target: Path) -> None:
    """Copy the manifests of `example`, with a free port for each port that is bound."""
    ports: dict[int, int] = {}
    target.mkdir()
    for file in example.glob("*.yaml"):
        documents = list(yaml.safe_load_all(file.read_text()))
        for document in documents:
            for binding in document["spec"].get("bindings", []) if document["kind"] == "ReceiveConnector" else []:
                binding["port"] = ports.setdefault(binding["port"], free_port())
        (target / file.name).write_text(yaml.safe_dump_all(documents))


@pytest.mark.parametrize("name", TIERS)
def test_an_example_runs_as_it_stands(name: str, tmp_path: Path, start_tier: Callable[..., Tier]) -> None:
    on_free_ports(EXAMPLES / name, tmp_path / name)
    tier = start_tier(
        Manifests.at(tmp_path / name),
        workers=1,
        role=ROLES.get(name, "hub"),
        hostname=HOSTNAMES.get(name, "hub1.mail.example"),
    )
    assert "left out" not in tier.output.read_text()
    assert tier.run["listeners"]
    for listener in tier.run["listeners"]:
        if listener["tls"] != "Implicit":
            with smtplib.SMTP(listener["address"], listener["port"], timeout=10) as client:
                assert client.ehlo("client.example")[0] == 250
                assert client.has_extn("starttls") == (listener["tls"] == "STARTTLS")
    assert tier.http("/readyz") == "ok\n"
