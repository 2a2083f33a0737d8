"""What the commands on manifests share: the options of a tier, reading, compiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from postroad_operator.compile import Compilation, Snapshot, TierSettings, compile_tier, tiers
from postroad_operator.resources import Manifests, read
from postroad_operator.resources.scalars import host, networks
from postroad_transport.config import Role

#: Exit code: something is refused.
REFUSED = 1


client_addresses_option = click.option(
    "--client-addresses-hidden",
    is_flag=True,
    help="The tier sees a load balancer's addresses, not its clients': no range may grant relay.",
)


def tier_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that describe the tier; the command gets ``settings``."""
    for option in reversed(
        (
            click.option(
                "--role",
                type=click.Choice([role.value for role in Role]),
                default=Role.HUB.value,
                show_default=True,
                help="The tier's role: it decides which permission groups exist.",
            ),
            click.option(
                "--hostname",
                default="localhost",
                show_default=True,
                callback=_hostname,
                help="The server's own name: for connectors that give no fqdn.",
            ),
            click.option(
                "--network",
                "networks",
                multiple=True,
                callback=_networks,
                help="The tier's own network (CIDR), for the open relay proof. Repeatable.  [default: private ones]",
            ),
            client_addresses_option,
        )
    ):
        command = option(command)
    return command


def settings(
    role: str, hostname: str, networks: tuple[str, ...], *, client_addresses_hidden: bool = False
) -> TierSettings:
    """Return the settings that the options describe."""
    given = TierSettings(role=Role(role), hostname=hostname, client_addresses_visible=not client_addresses_hidden)
    return replace(given, networks=networks) if networks else given


def read_manifests(path: Path) -> Manifests:
    """Read manifests; a path that cannot be read ends the command with exit code 2."""
    try:
        return read(path)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from error


def compile_all(manifests: Manifests, base: TierSettings) -> list[Compilation]:
    """Compile every tier that the manifests speak of, at least one."""
    objects = tuple(manifests.objects)
    return [compile_tier(Snapshot(replace(base, tier=tier), objects)) for tier in tiers(objects) or (base.tier,)]


def _hostname(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return host(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _networks(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(network) for value in values for network in networks(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
