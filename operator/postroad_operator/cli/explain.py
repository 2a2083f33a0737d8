"""``postroad explain``: what would happen to a message, and which field of which resource decides it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from postroad_operator.cli.cluster import cluster_options, read_cluster
from postroad_operator.cli.console import wide_console
from postroad_operator.cli.control import default_state_dir, find_control_socket
from postroad_operator.cli.load import REFUSED, compile_all, read_manifests, settings, tier_options
from postroad_operator.compile import Compilation, Reason
from postroad_operator.resources.scalars import octets
from postroad_transport.auth.accounts import parse_accounts
from postroad_transport.config import Principal, ReceiveConnector, TierConfig
from postroad_transport.config.files import ConfigError, load
from postroad_transport.policy.direct_trust import PRINCIPALS
from postroad_transport.policy.explain import AccountsOf, Scenario
from postroad_transport.policy.networks import parse_address
from postroad_transport.policy.proof import PeerProof
from postroad_transport.supervisor.process import SERVED_DIRECTORY
from postroad_transport.worker.explain import Delivery, FullExplanation, accounts_in
from postroad_transport.worker.explain import explain as explain_message
from postroad_transport.worker.explain_tls import client_proof

_SERVERS = {role.value: principal for role, principal in PRINCIPALS.items()} | {
    "legacy": Principal.LEGACY_EXCHANGE_SERVERS
}
_FIELD = re.compile(r"[!-9;-~]+[ \t]*:", re.ASCII)


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if parse_address(value) is None:
        raise click.BadParameter(f"{value!r} is not an IP address")
    return value


def _server(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Principal | None:
    return _SERVERS[value] if value else None


def _size(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        return octets(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: write bytes, or a number with Ki, Mi or Gi") from error


def _headers(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _FIELD.match(value):
            raise click.BadParameter(f"{value!r}: write Name: value")
    return values


@click.command(short_help="Say what would happen to a message, and why.")
@click.argument("directory", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--state-dir", type=click.Path(path_type=Path), default=None,
              help="Without DIRECTORY: state directory of the running tier.  [default: .postroad]")  # fmt: skip
@click.option("--tier", default="", help="The tier, where there are several.")
@click.option("--port", required=True, type=click.IntRange(1, 65535), help="Port the client connects to.")
@click.option("--from-ip", required=True, callback=_address, help="The client's address.")
@click.option("--helo", default="client.example", show_default=True, help="Name the client gives in EHLO.")
@click.option("--tls", is_flag=True, help="The client uses STARTTLS.")
@click.option("--client-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None,
              help="PEM file: the client's certificate, verified as a worker would. Implies --tls.")  # fmt: skip
@click.option("--tls-name", "tls_names", multiple=True,
              help="Name in the client's certificate, taken to be valid. Repeatable. Implies --tls.")  # fmt: skip
@click.option("--server", type=click.Choice(list(_SERVERS)), callback=_server,
              help="The client is a server of a tier of this role, and uses X-ANONYMOUSTLS; or a legacy server, and"
                   " uses X-EXPS.")  # fmt: skip
@click.option("--auth", "account", default="", help="Account that logs in, with the right password.")
@click.option("--mail-from", default="", help="Envelope sender; none: the null sender <>.")
@click.option("--rcpt", "recipients", multiple=True, required=True, help="Recipient. Repeatable.")
@click.option("--header-from", default="", help="Value of the From header.")
@click.option("--header", "headers", multiple=True, callback=_headers, help="'Name: value' of a header. Repeatable.")
@click.option("--size", default="0", callback=_size, help="Size of the message, such as 30000 or 40Mi.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@cluster_options
@tier_options
@click.pass_context
def explain(
    context: click.Context,
    /,
    directory: Path | None,
    state_dir: Path | None,
    tier: str,
    output: str,
    role: str,
    hostname: str,
    networks: tuple[str, ...],
    client_addresses_hidden: bool,
    port: int,
    from_ip: str,
    headers: tuple[str, ...],
    client_cert: Path | None,
    tls_names: tuple[str, ...],
    cluster: bool,
    namespace: str,
    all_namespaces: bool,
    **fields: Any,
) -> None:
    """Say what would happen to a message, and which field of which resource decides it.

    Asks about the manifests in DIRECTORY as a cluster would serve them, with --cluster about the resources of one
    that runs, or else about the tier that runs with --state-dir. The rules are the very ones that a session is judged
    by.

    Exit code 0: accepted for at least one recipient. 1: refused. 2: the command cannot be carried out.
    """
    if (directory is not None) + (state_dir is not None) + cluster > 1:
        raise click.UsageError("give one of DIRECTORY, --state-dir and --cluster")
    scenario = Scenario(port=port, remote_ip=from_ip, headers="\n".join(headers), **fields)
    given = settings(role, hostname, networks, client_addresses_hidden=client_addresses_hidden)
    issued = True
    if cluster:
        found = read_cluster(namespace, all_namespaces=all_namespaces)
        compilation = _compiled(found.compile(given, context), tier)
        config, accounts = compilation.config, _accounts_of(compilation)
        issued = config.tier in found.published
    elif directory is None:
        config, accounts = _served(state_dir or default_state_dir())
    else:
        compilation = _compiled(compile_all(read_manifests(directory), given), tier)
        config, accounts = compilation.config, _accounts_of(compilation)
        issued = False
    try:
        scenario = _with_certificate(config, scenario, client_cert, tls_names, state_dir or default_state_dir())
        explanation = explain_message(config, scenario, accounts=accounts, certificates_issued=issued)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(explanation), indent=2))
    else:
        _print(wide_console(), explanation)
    if not explanation.explanation.accepted:
        raise click.exceptions.Exit(REFUSED)


def _with_certificate(
    config: TierConfig, scenario: Scenario, chain: Path | None, names: tuple[str, ...], state_dir: Path
) -> Scenario:
    """Add what the client's certificate proves. Raises ConfigError where the file holds none."""
    if chain is None and not names:
        return scenario
    if chain is not None and names:
        raise click.UsageError("give --client-cert or --tls-name, not both")
    if chain is None:
        proof: PeerProof | None = PeerProof(tuple(name.lower() for name in names))
    else:
        lists = state_dir / "crl"
        proof = client_proof(
            config, scenario.port, scenario.remote_ip, chain.read_bytes(), lists if lists.is_dir() else None
        )
    return msgspec.structs.replace(scenario, proof=proof, tls=True)


def _served(state_dir: Path) -> tuple[TierConfig, AccountsOf]:
    """Return what the tier with this state directory serves: its workers read the same files."""
    served = state_dir / SERVED_DIRECTORY
    try:
        config, _ = load(served)
    except ConfigError as error:
        raise click.UsageError(
            f"no tier serves from {state_dir}: give DIRECTORY, or the right --state-dir"
        ) from error
    if find_control_socket(state_dir) is None:
        click.echo(f"note: no tier runs with {state_dir}; this is what it served last", err=True)
    return config, accounts_in(served)


def _compiled(compilations: list[Compilation], tier: str) -> Compilation:
    names = [compilation.config.tier for compilation in compilations]
    if len(names) > 1 and not tier:
        raise click.UsageError(f"there are several tiers: give --tier {' or --tier '.join(names)}")
    for compilation in compilations:
        if tier in ("", compilation.config.tier):
            for verdict in compilation.verdicts:
                if not verdict.accepted:
                    fault = " (see postroad lint)" if verdict.reason is Reason.INVALID else ""
                    click.echo(f"left out: {verdict.source}: {verdict.message}{fault}", err=True)
            return compilation
    raise click.UsageError(f"there is no tier {tier}, but {', '.join(names)}")


def _accounts_of(compilation: Compilation) -> AccountsOf:
    files = compilation.secret_files

    def addresses(connector: ReceiveConnector) -> dict[str, tuple[str, ...]]:
        name = connector.authentication.accounts_file
        return parse_accounts(files[name]).addresses() if name else {}

    return addresses


def _table(console: Console, title: str, rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    for _ in rows[0]:
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def _print(console: Console, full: FullExplanation) -> None:
    said = full.explanation
    yes, no = "[green]yes[/]", "[red]no[/]"
    _table(
        console,
        "Connector",
        [(yes if c.chosen else no, escape(c.source), escape(c.reason)) for c in said.choices],
    )
    held = ", ".join(said.principals)
    _table(
        console,
        f"Permissions of {escape(held)}",
        [(permission, escape(field)) for permission, field in said.permissions.items()],
    )
    _table(
        console,
        "Rules",
        [
            (
                f"{step.verb} {escape(step.argument)}".rstrip(),
                step.rule,
                _verdict(step.rule, step.allowed),
                escape(f"{step.source} {step.field}".strip()),
            )
            for step in said.steps
        ],
    )
    _table(console, "What the client sees", [(escape(e.command), escape(e.reply)) for e in full.conversation])
    if said.accepted:
        added = [("[green]added[/]", escape(line)) for line in (full.trace, *said.added, *full.completed)]
        _table(console, "Headers", added + [("[red]stripped[/]", escape(name)) for name in said.stripped])
        _table(console, "Routes", [row for delivery in full.deliveries for row in _route(delivery)])
        taken = f"accepted for {', '.join(said.recipients)}"
        console.print(f"[bold green]{escape(taken)}[/]", soft_wrap=True)
    else:
        console.print("[bold red]refused[/]")


def _verdict(rule: str, allowed: bool) -> str:
    if rule == "headerFirewall":
        return "[yellow]strips[/]"
    return "[green]allows[/]" if allowed else "[red]refuses[/]"


def _route(delivery: Delivery) -> list[tuple[str, ...]]:
    why = escape(f"{delivery.source} {delivery.reason}".strip())
    if delivery.reply:
        return [(escape(delivery.recipient), f"[red]no route[/]: {escape(delivery.reply)}", why)]
    rows: list[tuple[str, ...]] = [
        (escape(delivery.recipient), f"{escape(delivery.connector)} to {escape(delivery.destination)}", why)
    ]
    if delivery.tls:
        rows.append(("", "session", escape(delivery.tls)))
    rows += [("", f"[green]added[/] {escape(line)}", "") for line in delivery.added]
    return rows + [
        ("", f"[red]stripped[/] {escape(item.header)}", escape(f"needs {item.missing}: {item.field}"))
        for item in delivery.stripped
    ]
