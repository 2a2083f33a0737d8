"""`postroad run`: serve a directory of manifests on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from pathlib import Path

import click
from rich.markup import escape

from postroad_operator.certificates import DirectoryStore
from postroad_operator.cli.console import wide_console
from postroad_operator.cli.control import RUN_FILE
from postroad_operator.cli.load import client_addresses_option
from postroad_operator.compile import TierSettings
from postroad_operator.resources import Secret
from postroad_operator.run.announce import announce, run_description
from postroad_operator.run.build import Build, build
from postroad_operator.run.follow import Follower, publish
from postroad_transport.config import Role
from postroad_transport.config.files import ConfigError
from postroad_transport.supervisor.child import WorkerUnreachableError
from postroad_transport.supervisor.claim import ClaimedError, claim
from postroad_transport.supervisor.process import Supervisor, SupervisorSettings, short_run_dir
from postroad_transport.supervisor.service import open_log, serving, stop_on_signals
from postroad_transport.telemetry.events import EventLog

#: On a Secret of an example: the password behind its hash, so that the printed commands work as they stand.
EXAMPLE_PASSWORD = "postroad.dev/example-password"  # noqa: S105 (an annotation's name)


def _example_password(built: Build) -> str:
    for item in built.manifests.objects:
        if isinstance(item, Secret) and (password := item.metadata.annotations.get(EXAMPLE_PASSWORD)):
            return str(password)
    return "PASSWORD"


@click.command()
@click.argument("directory", type=click.Path(exists=True, path_type=Path))
@click.option("--state-dir", type=click.Path(path_type=Path), default=Path(".postroad"), show_default=True,
              help="Where the spool, certificates, Maildirs and run.json are kept.")  # fmt: skip
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
@click.option("--address", "addresses", multiple=True, default=["127.0.0.1"], show_default=True,
              help="Local address to listen on; may be given more than once.")  # fmt: skip
@click.option("--hostname", default=socket.getfqdn, help="The server's own name. [default: this machine's]")
@click.option("--role", type=click.Choice([role.value for role in Role]), default="hub", show_default=True)
@client_addresses_option
@click.option("--metrics-port", default=9925, show_default=True, help="Port of /metrics and the probes; 0: any.")
@click.option("--events", default="", help="Event log file, - for standard output. [default: STATE/events.jsonl]")
def run(
    directory: Path, state_dir: Path, workers: int, addresses: tuple[str, ...], hostname: str, role: str,
    client_addresses_hidden: bool, metrics_port: int, events: str,
) -> None:  # fmt: skip
    """Serve the manifests of DIRECTORY on this machine, and follow their changes."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = TierSettings(
        role=Role(role), hostname=hostname.lower(), client_addresses_visible=not client_addresses_hidden
    )
    options = SupervisorSettings(
        config_dir=state_dir / "config",
        state_dir=state_dir,
        run_dir=short_run_dir(state_dir),
        addresses=addresses,
        workers=workers,
    )
    log_path = events or str(state_dir / "events.jsonl")
    try:
        with claim(state_dir):
            sys.exit(asyncio.run(_run(directory, settings, options, log_path, metrics_port)))
    except ClaimedError as error:
        raise click.ClickException(str(error)) from error


async def _run(
    directory: Path, settings: TierSettings, options: SupervisorSettings, log_path: str, metrics_port: int
) -> int:
    console = wide_console()
    state_dir = options.state_dir
    certificates = DirectoryStore(state_dir / "certificates")
    try:
        built = build(directory, settings, certificates, time.time())
    except OSError as error:
        raise click.ClickException(f"{directory}: {error.strerror}") from error
    for problem in built.problems():
        console.print(f"[red]left out[/] {escape(problem)}", soft_wrap=True)
    for warning in built.warnings():
        console.print(f"[yellow]warning[/] {escape(warning)}", soft_wrap=True)
    if not built.compilation.config.receive_connectors:
        raise click.ClickException(f"{directory}: no receive connector can be served")
    publish(options.config_dir, built)
    descriptor = open_log(log_path)
    supervisor = Supervisor(options, log=descriptor, events=EventLog(descriptor))
    ca, run_file = state_dir / "ca.pem", state_dir / RUN_FILE
    stop = stop_on_signals()

    def report(what: str, lines: list[str]) -> None:
        console.print(f"[bold]{time.strftime('%H:%M:%S')} {what}[/]")
        for line in lines:
            console.print(f"  {escape(line)}", soft_wrap=True)

    def write_down(built: Build) -> None:
        config = built.compilation.config
        _replace(ca, config.trust_bundle)
        description = run_description(
            config, addresses=options.addresses, ca=ca, metrics=endpoints.metrics,
            control=endpoints.control, events=log_path,
        )  # fmt: skip
        _replace(run_file, json.dumps(description, indent=2) + "\n")

    try:
        async with serving(supervisor, host=options.addresses[0], port=metrics_port) as endpoints:
            write_down(built)
            announce(
                console,
                built.compilation.config,
                addresses=options.addresses,
                config_dir=options.config_dir,
                state_dir=state_dir,
                ca=ca,
                metrics=endpoints.metrics,
                password_hint=_example_password(built),
                requests=built.pkcs10,
            )
            await Follower(
                directory, options.config_dir, settings, certificates, supervisor, built, write_down, report
            ).run(stop)
            console.print("Draining.")
    except (ConfigError, WorkerUnreachableError, OSError) as error:
        raise click.ClickException(f"the tier cannot start: {error}") from error
    finally:
        run_file.unlink(missing_ok=True)
        os.close(descriptor)
    return 0


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
