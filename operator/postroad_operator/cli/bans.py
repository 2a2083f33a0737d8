"""`postroad bans`: look at and lift the bans of a running tier."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from postroad_operator.cli.console import age, wide_console
from postroad_operator.cli.control import call, control_options, control_socket


@click.group("bans")
@control_options
@click.pass_context
def bans(context: click.Context, state_dir: Path, control: str) -> None:
    """List or lift bans that failed logins have caused."""
    context.obj = control or control_socket(state_dir)


@bans.command("list")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def list_(socket: str, output: str) -> None:
    """List the bans that stand, the newest first."""
    found = call(socket, "GET", "/bans", {})
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo("Nothing is banned.")
        return
    table = Table(box=None)
    for heading in ("KIND", "SUBJECT", "CONNECTOR", "SINCE", "ENDS IN"):
        table.add_column(heading, overflow="fold")
    now = time.time()
    for ban in found:
        table.add_row(
            ban["kind"],
            escape(ban["subject"]),
            ban["connector"],
            age(max(0.0, now - ban["since"])),
            age(max(0.0, ban["until"] - now)),
        )
    wide_console().print(table)


@bans.command()
@click.argument("subject", required=False, default="")
@click.option("--all", "everything", is_flag=True, help="Every ban.")
@click.pass_obj
def lift(socket: str, subject: str, everything: bool) -> None:
    """Lift the bans of an address or an account, and forget its failures."""
    if bool(subject) == everything:
        raise click.UsageError("name an address or an account, or give --all")
    answer = call(socket, "POST", "/bans/lift", {"subject": subject} if subject else {})
    click.echo(f"lifted: {answer['lifted']} ban(s)")
