"""``postroad subscription``: carry a tier's server certificates to another tier, which then knows them."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import click

from postroad_operator.publish import object_name
from postroad_operator.resources import API_VERSION
from postroad_transport.config import TierConfig
from postroad_transport.config.files import CONFIG_FILE, ConfigError, load, unpack
from postroad_transport.supervisor.process import SERVED_DIRECTORY

_MAX_NAME = 253


@click.group(short_help="Carry a tier's server certificates to another tier.")
def subscription() -> None:
    """Carry a tier's server certificates to another tier (edge subscription)."""


@subscription.command()
@click.option("--state-dir", type=click.Path(path_type=Path), default=None,
              help="State directory of a running tier.  [default: .postroad, without --namespace]")  # fmt: skip
@click.option("--namespace", "-n", default="", help="Ask the cluster that kubectl knows: namespace of the tier.")
@click.option("--context", default="", help="With --namespace: kubectl's context.")
@click.option("--tier", default="default", show_default=True, help="With --namespace: name of the tier.")
@click.option("--for-tier", default="default", show_default=True, help="Name of the tier that is to trust this one.")
def export(state_dir: Path | None, namespace: str, context: str, tier: str, for_tier: str) -> None:
    """Print a TransportCertificate with the certificates that this tier's servers present, now and next.

    Hand it to the other tier: kubectl apply it there, or put it in the directory that postroad run serves there. It
    holds no key and no secret. Do the same the other way round, and again at least every 180 days.

    Exit code 0: printed. 2: there is no such tier, or none of its connectors uses ExchangeServer.
    """
    if namespace and state_dir is not None:
        raise click.UsageError("give --state-dir or --namespace, not both")
    config = _published(namespace, context, tier) if namespace else _served(state_dir or Path(".postroad"))
    if not any(server.own for server in config.direct_trust.servers):
        raise click.UsageError(
            f"tier {config.tier} has no server certificate yet: it is made once a connector uses ExchangeServer"
        )
    click.echo(document(config, for_tier), nl=False)


def document(config: TierConfig, for_tier: str) -> str:
    """Return the resource that makes `for_tier` trust the servers of the tier that `config` is for, as YAML."""
    own = [server for server in config.direct_trust.servers if server.own]
    pem = "".join(f"      {line}\n" for server in own for line in server.certificate.splitlines())
    comments = "".join(
        f"#   {server.thumbprint}{' (presented now)' if number == 0 else ''}\n" for number, server in enumerate(own)
    )
    name = f"{config.role}-{config.hostname}"[:_MAX_NAME].rstrip(".-")
    return (
        f"# Server certificates of {config.role} tier {config.tier} ({config.hostname}), by SHA-256:\n"
        f"{comments}"
        f"apiVersion: {API_VERSION}\n"
        "kind: TransportCertificate\n"
        "metadata:\n"
        f"  name: {name}\n"
        "spec:\n"
        f"  tier: {for_tier}\n"
        "  subscription:\n"
        f"    role: {config.role.capitalize()}\n"
        "    certificates: |\n"
        f"{pem}"
    )


def _served(state_dir: Path) -> TierConfig:
    try:
        return load(state_dir / SERVED_DIRECTORY)[0]
    except ConfigError as error:
        raise click.UsageError(
            f"no tier serves from {state_dir}: give the right --state-dir, or --namespace"
        ) from error


def _published(namespace: str, context: str, tier: str) -> TierConfig:
    name = object_name(tier)
    command = ["kubectl", "get", "configmap", name, f"--namespace={namespace}", "--output=json"]
    try:
        answer = subprocess.run(  # noqa: S603 (no shell; each value is one argument)
            [*command, *([f"--context={context}"] if context else [])], capture_output=True, check=True, text=True
        )
    except FileNotFoundError as error:
        raise click.UsageError("kubectl is not installed: it is needed to ask the cluster") from error
    except subprocess.CalledProcessError as error:
        raise click.UsageError(f"ConfigMap {name} in namespace {namespace}: {error.stderr.strip()}") from error
    try:
        return unpack(base64.b64decode(json.loads(answer.stdout)["binaryData"][CONFIG_FILE]))[0]
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise click.UsageError(
            f"ConfigMap {name} in namespace {namespace} holds no configuration of a tier"
        ) from error
