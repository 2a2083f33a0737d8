"""``postroad render``: the ConfigMap and the Secret that a cluster would get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from postroad_operator.cli.load import REFUSED, compile_all, read_manifests, settings, tier_options
from postroad_operator.compile import Compilation
from postroad_operator.publish import config_map, secret
from postroad_transport.config.files import encode

REDACTED = "<redacted>"


class _Dumper(yaml.SafeDumper):
    """YAML with texts of several lines as blocks, for people to read."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@tier_options
@click.option("--decoded", is_flag=True, help="Print the configuration itself as JSON, not compressed.")
@click.option("--show-secrets", is_flag=True, help="Print the contents of the Secret.")
@click.option("--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def render(
    path: Path,
    decoded: bool,
    show_secrets: bool,
    output: str,
    role: str,
    hostname: str,
    networks: tuple[str, ...],
    client_addresses_hidden: bool,
) -> None:
    """Print what the cluster would get for the manifests in PATH.

    That is, for each tier, one ConfigMap with the compiled configuration and one Secret. Certificates are issued on
    the cluster and are not part of it. Faults and refusals are reported on standard error.

    Exit code 0: all is accepted. 1: something was refused or invalid and is left out. 2: cannot be carried out.
    """
    manifests = read_manifests(path)
    documents: list[dict[str, Any]] = []
    left_out = [str(fault) for fault in manifests.faults]
    tier = settings(role, hostname, networks, client_addresses_hidden=client_addresses_hidden)
    for compilation in compile_all(manifests, tier):
        documents += (_config_map(compilation, decoded), _secret(compilation, show_secrets))
        left_out += [
            f"{verdict.source}: {verdict.message}"
            for verdict in compilation.verdicts
            if not verdict.accepted and verdict.reason != "Invalid"
        ]
    if output == "json":
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}, indent=2))
    else:
        click.echo(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True), nl=False)
    for line in left_out:
        click.echo(f"left out: {line}", err=True)
    if left_out:
        raise click.exceptions.Exit(REFUSED)


def _config_map(compilation: Compilation, decoded: bool) -> dict[str, Any]:
    document = config_map(compilation, "")
    if decoded:
        del document["binaryData"]
        document["data"] = {"config.json": msgspec.json.format(encode(compilation.config), indent=2).decode()}
    return document


def _secret(compilation: Compilation, show: bool) -> dict[str, Any]:
    document = secret(compilation, "")
    return document if show else document | {"data": dict.fromkeys(document["data"], REDACTED)}
