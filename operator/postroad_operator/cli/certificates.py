"""``postroad certificates``: what a running tier presents for which services, and requests to hand to a CA."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.table import Table

from postroad_operator.certificates import DirectoryStore
from postroad_operator.certificates.requested import read_asked, request_name
from postroad_operator.cli.console import wide_console
from postroad_transport.config import Certificate
from postroad_transport.config.files import ConfigError, load
from postroad_transport.supervisor.process import SERVED_DIRECTORY

_STATE_DIR = click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=Path(".postroad"),
    show_default=True,
    help="State directory of postroad run.",
)


@click.group()
def certificates() -> None:
    """List the certificates of a tier on this machine, and print requests to hand to a CA.

    On a cluster, kubectl get tcert -o wide and the statuses say the same.
    """


@certificates.command("list")
@_STATE_DIR
def list_certificates(state_dir: Path) -> None:
    """List each certificate's thumbprint (SHA-256), services, names and end."""
    try:
        config, _ = load(state_dir / SERVED_DIRECTORY)
    except ConfigError as error:
        raise click.UsageError(f"no tier has been served from {state_dir}: {error}") from error
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("THUMBPRINT", "NAME", "SERVICES", "EXPIRES", "NAMES"):
        table.add_column(heading, overflow="fold")
    now = time.time()
    servers = config.direct_trust.identity
    for item in (*config.certificates, *((servers,) if servers else ())):
        table.add_row(item.thumbprint, item.name, ",".join(item.services), _end(item, now), ",".join(item.dns_names))
    wide_console().print(table)


def _end(certificate: Certificate, now: float) -> str:
    end = datetime.fromtimestamp(certificate.not_after, UTC).strftime("%Y-%m-%d")
    return f"{end} (over)" if certificate.not_after < now else end


@certificates.command()
@click.argument("name")
@click.option("--namespace", "-n", default="default", show_default=True, help="Namespace in the manifest.")
@_STATE_DIR
def request(name: str, namespace: str, state_dir: Path) -> None:
    """Print the certificate request (PKCS #10, PEM) of the TransportCertificate NAME with spec.request.

    Hand it to a CA, and put what it returns into spec.request.signedCertificate.
    """
    try:
        asked = read_asked(
            DirectoryStore(state_dir / "certificates").load(request_name(f"TransportCertificate/{namespace}/{name}"))
        )
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{state_dir}: {error}") from error
    if asked is None:
        raise click.UsageError(
            f"there is no request for TransportCertificate {name} in namespace {namespace}: postroad run makes it for"
            " one with spec.request"
        )
    click.echo(asked.pkcs10, nl=False)
