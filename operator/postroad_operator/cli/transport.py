"""``postroad transport``: what runs in a transport pod. It serves a mounted configuration, and follows it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from postroad_transport.config.files import ConfigError
from postroad_transport.supervisor.child import WorkerUnreachableError
from postroad_transport.supervisor.process import Supervisor, SupervisorSettings, short_run_dir
from postroad_transport.supervisor.service import follow, open_log, serving, stop_on_signals
from postroad_transport.telemetry.events import EventLog


@click.command()
@click.option("--config-dir", required=True, type=click.Path(path_type=Path, file_okay=False),
              help="Where the tier's ConfigMap is mounted, with its Secret in secrets/.")  # fmt: skip
@click.option("--state-dir", required=True, type=click.Path(path_type=Path, file_okay=False),
              help="Where the spool and Maildirs are kept.")  # fmt: skip
@click.option("--address", "addresses", multiple=True, default=["0.0.0.0"], show_default=True,  # noqa: S104 (a mail server listens to all)
              help="Local address to listen on; may be given more than once.")  # fmt: skip
@click.option("--metrics-port", default=9925, show_default=True, help="Port of /metrics, /configz and the probes.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
@click.option("--drain-timeout", default=25.0, show_default=True, help="Seconds that sessions have to finish.")
@click.option("--events", default="-", show_default=True, help="Event log file; - for standard output.")
def transport(
    config_dir: Path,
    state_dir: Path,
    addresses: tuple[str, ...],
    metrics_port: int,
    workers: int,
    drain_timeout: float,
    events: str,
) -> None:
    """Serve the configuration that the operator published."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = SupervisorSettings(
        config_dir=config_dir,
        state_dir=state_dir,
        run_dir=short_run_dir(state_dir),
        addresses=addresses,
        workers=workers,
        drain_timeout=drain_timeout,
    )
    sys.exit(asyncio.run(_serve(options, metrics_port, events)))


async def _serve(options: SupervisorSettings, port: int, events: str) -> int:
    descriptor = open_log(events)
    supervisor = Supervisor(options, log=descriptor, events=EventLog(descriptor))
    stop = stop_on_signals()
    try:
        async with serving(supervisor, host=options.addresses[0], port=port):
            await follow(supervisor, stop)
    except (ConfigError, WorkerUnreachableError, OSError) as error:
        raise click.ClickException(f"the tier cannot start: {error}") from error
    finally:
        os.close(descriptor)
    return 0
