"""``postroad operator``: keep the tiers of a cluster at what its resources say."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from postroad_operator.cli.load import settings as tier_settings
from postroad_operator.cli.load import tier_options

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_OWNERS = ("Deployment", "StatefulSet")


def _namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip() or "default"
    except OSError:
        return os.environ.get("POD_NAMESPACE") or "default"


def _owner(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, str] | None:
    if not value:
        return None
    kind, slash, name = value.partition("/")
    if kind not in _OWNERS or not slash or not name:
        raise click.BadParameter(f"write KIND/NAME; KIND is one of {', '.join(_OWNERS)}")
    return kind, name


@click.command()
@click.option("--namespace", default=_namespace, help="Where it publishes and keeps its Lease. [default: its own]")
@click.option("--all-namespaces", is_flag=True, help="Take resources of every namespace, not only of that one.")
@click.option("--tier", "tiers", multiple=True, default=["default"], show_default=True,
              help="A tier that is published even without resources. Repeatable.")  # fmt: skip
@tier_options
@click.option("--owner", default="", callback=_owner, metavar="KIND/NAME",
              help="Object that what is published goes with: the operator's Deployment.")  # fmt: skip
@click.option("--address", default="0.0.0.0", show_default=True, help="Address of the probes and /metrics.")  # noqa: S104 (probes come from other machines)
@click.option("--port", default=9926, show_default=True, type=click.IntRange(0, 65535), help="Their port; 0: any.")
@click.option("--lease-duration", default=12.0, show_default=True, type=click.FloatRange(2.0, 30.0),
              help="Seconds until a standby takes over from a leader that says nothing.")  # fmt: skip
@click.option("--webhook-port", type=click.IntRange(0, 65535), default=None,
              help="Serve the validating admission webhook on this port; 0: any.  [default: not at all]")  # fmt: skip
@click.option("--webhook-host", "webhook_hosts", multiple=True,
              help="Name that the API server dials the webhook by: SERVICE.NAMESPACE.svc. Repeatable.")  # fmt: skip
@click.option("--webhook-secret", default="postroad-webhook", show_default=True,
              help="Secret with the webhook's certificate.")  # fmt: skip
@click.option("--webhook-configuration", default="",
              help="ValidatingWebhookConfiguration to write the authority into; the certificate is then made and"
              " renewed here. Without it the Secret is somebody else's (cert-manager's).")  # fmt: skip
@click.option("--verbose", is_flag=True, help="Log what kopf does, too.")
def operator(
    namespace: str,
    all_namespaces: bool,
    tiers: tuple[str, ...],
    owner: tuple[str, str] | None,
    address: str,
    port: int,
    lease_duration: float,
    webhook_port: int | None,
    webhook_hosts: tuple[str, ...],
    webhook_secret: str,
    webhook_configuration: str,
    verbose: bool,
    **tier: Any,
) -> None:
    """Watch the resources of a cluster, publish what they compile to, and say how far it has come."""
    try:
        from postroad_operator.handlers.admission import WebhookSettings
        from postroad_operator.handlers.service import NoClusterError, OperatorSettings, operate
    except ImportError as error:
        raise click.ClickException(f"{error.name} is missing: install postroad[operator]") from error
    from dataclasses import replace

    if webhook_configuration and not webhook_hosts:
        raise click.UsageError("--webhook-configuration needs --webhook-host: the names that the certificate is for")
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in ("kopf", "aiohttp"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)
    options = OperatorSettings(
        settings=replace(tier_settings(**tier), namespace=namespace),
        all_namespaces=all_namespaces,
        tiers=tiers,
        owner=owner,
        address=address,
        port=port,
        lease_duration=lease_duration,
        webhook=None
        if webhook_port is None
        else WebhookSettings(webhook_port, webhook_hosts, webhook_secret, webhook_configuration),
    )
    try:
        asyncio.run(operate(options))
    except (NoClusterError, OSError) as error:
        raise click.ClickException(str(error)) from error
