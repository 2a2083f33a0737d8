"""`postroad queue`: look at and change the queue of a running tier."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from postroad_operator.cli.console import age, wide_console
from postroad_operator.cli.control import call, control_options, control_socket


def _message(message_id: str) -> str:
    """Return the path of a message. What is no identifier must not lead elsewhere."""
    if not (message_id.isascii() and message_id.isalnum()):
        raise click.ClickException(f"no message {message_id} in the queue")
    return f"/queue/{message_id}"


@click.group("queue")
@control_options
@click.pass_context
def queue(context: click.Context, state_dir: Path, control: str) -> None:
    """List, inspect, retry, hold, release or delete queued messages."""
    context.obj = control or control_socket(state_dir)


@queue.command("list")
@click.option("--destination", default="", help="Only this destination, such as dns:example.com.")
@click.option("--sender", default="", help="Only this envelope sender.")
@click.option("--recipient", default="", help="Only messages for this recipient.")
@click.option("--state", type=click.Choice(["ready", "waiting", "active", "held", "suspended"]), default=None)
@click.option("--limit", default=100, show_default=True, help="At most this many, oldest first.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def list_(
    socket: str, destination: str, sender: str, recipient: str, state: str | None, limit: int, output: str
) -> None:
    """List queued messages, oldest first."""
    filters = {
        "destination": destination,
        "sender": sender,
        "recipient": recipient,
        "state": state or "",
        "limit": str(limit),
    }
    messages = call(socket, "GET", "/queue", {name: value for name, value in filters.items() if value})
    if output == "json":
        click.echo(json.dumps(messages, indent=2))
        return
    if not messages:
        click.echo("The queue is empty.")
        return
    table = Table(box=None)
    for heading in ("ID", "AGE", "SIZE", "SENDER", "RECIPIENT", "STATE", "TRIES", "NEXT", "LAST REPLY"):
        table.add_column(heading, overflow="fold")
    now = time.time()
    for message in messages:
        for row in message["recipients"]:
            table.add_row(
                message["id"],
                age(message["age"]),
                str(message["size"]),
                escape(message["sender"] or "<>"),
                escape(row["address"]),
                row["state"],
                str(row["attempts"]),
                age(max(0.0, row["nextAttempt"] - now)) if row["state"] == "waiting" else "-",
                escape(row["reply"]),
            )
    wide_console().print(table)


@queue.command()
@click.argument("message_id")
@click.pass_obj
def show(socket: str, message_id: str) -> None:
    """Show one message: its envelope, its recipients' states and its headers."""
    click.echo(json.dumps(call(socket, "GET", _message(message_id), {}), indent=2))


def _change(
    socket: str, action: str, message_id: str, destination: str, everything: bool, query: dict[str, str] | None = None
) -> None:
    if not (message_id or destination or everything):
        raise click.UsageError("name a message, or give --destination or --all")
    path = f"{_message(message_id)}/{action}" if message_id else f"/queue/{action}"
    answer = call(socket, "POST", path, (query or {}) | ({"destination": destination} if destination else {}))
    click.echo(f"{action}: {answer['changed']} message(s)")


def _choice(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command choose messages."""
    command = click.option("--all", "everything", is_flag=True, help="Every message.")(command)
    command = click.option("--destination", default="", help="Every message for this destination.")(command)
    return click.argument("message_id", required=False, default="")(command)


@queue.command()
@_choice
@click.pass_obj
def retry(socket: str, message_id: str, destination: str, everything: bool) -> None:
    """Try now what waits for its next attempt."""
    _change(socket, "retry", message_id, destination, everything)


@queue.command()
@_choice
@click.pass_obj
def hold(socket: str, message_id: str, destination: str, everything: bool) -> None:
    """Keep messages in the queue without trying them."""
    _change(socket, "hold", message_id, destination, everything)


@queue.command()
@_choice
@click.pass_obj
def release(socket: str, message_id: str, destination: str, everything: bool) -> None:
    """Let held messages go on."""
    _change(socket, "release", message_id, destination, everything)


@queue.command()
@_choice
@click.option("--notify", is_flag=True, help="Tell the senders, as of a failure.")
@click.pass_obj
def delete(socket: str, message_id: str, destination: str, everything: bool, notify: bool) -> None:
    """Remove messages from the queue for good."""
    _change(socket, "delete", message_id, destination, everything, {"notify": "1"} if notify else None)
