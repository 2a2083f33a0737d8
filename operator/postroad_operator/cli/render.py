"""``postroad render``: the ConfigMap and the Secret that a cluster would get."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from postroad_operator.cli.load import REFUSED, compile_all, read_manifests, settings, tier_options
from postroad_operator.compile import Compilation
from postroad_operator.resources import GROUP
from postroad_transport.config import TierConfig
from postroad_transport.config.files import CONFIG_FILE, compress, config_hash, encode

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
        documents += (_config_map(compilation.config, decoded), _secret(compilation, show_secrets))
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


def _metadata(config: TierConfig, encoded: bytes) -> dict[str, Any]:
    return {
        "name": f"postroad-{config.tier}",
        "labels": {"app.kubernetes.io/managed-by": "postroad", f"{GROUP}/tier": config.tier},
        "annotations": {f"{GROUP}/config-hash": config_hash(encoded)},
    }


def _config_map(config: TierConfig, decoded: bool) -> dict[str, Any]:
    encoded = encode(config)
    content = (
        {"data": {"config.json": msgspec.json.format(encoded, indent=2).decode()}}
        if decoded
        else {"binaryData": {CONFIG_FILE: base64.b64encode(compress(encoded)).decode("ascii")}}
    )
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(config, encoded), **content}


def _secret(compilation: Compilation, show: bool) -> dict[str, Any]:
    values = {
        name: base64.b64encode(content).decode("ascii") if show else REDACTED
        for name, content in compilation.secret_files.items()
    }
    metadata = _metadata(compilation.config, encode(compilation.config))
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": values}
