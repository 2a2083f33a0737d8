"""What `postroad run` tells its user, and what it writes down for scripts."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from postroad_transport.config import AuthMechanism, Lmtp, Maildir, SendConnector, SmtpHost, TierConfig, TlsMode
from postroad_transport.config.files import ConfigError, read_secret
from postroad_transport.policy.certificate import select
from postroad_transport.policy.direct_trust import check_anonymous_tls
from postroad_transport.policy.verdict import Allow

ROWS = 50
"""Of each table; laying out thousands takes seconds, in which nothing else is answered."""

_LOGIN = {AuthMechanism.BASIC_AUTH, AuthMechanism.BASIC_AUTH_REQUIRE_TLS}


def _program() -> str:
    """Return how this command is called from here: by name where the PATH has it."""
    return "postroad" if shutil.which("postroad") else sys.argv[0]


def listeners(config: TierConfig, addresses: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return what listens where, as ``run.json`` lists it."""
    return [
        {"name": connector.name, "address": address, "port": binding.port, "tls": str(binding.tls)}
        for connector in config.receive_connectors
        for binding in connector.bindings
        for address in addresses
    ]


def run_description(
    config: TierConfig, *, addresses: tuple[str, ...], ca: Path, metrics: str, control: Path, events: str
) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    return {
        "pid": os.getpid(),
        "hostname": config.hostname,
        "listeners": listeners(config, addresses),
        "ca": str(ca.resolve()),
        "metrics": metrics,
        "control": str(control.resolve()),
        "events": events if events == "-" else str(Path(events).resolve()),
    }


def _accounts(config: TierConfig, config_dir: Path) -> list[str]:
    """Return the names that can log in, without their hashes."""
    names: list[str] = []
    for connector in config.receive_connectors:
        accounts_file = connector.authentication.accounts_file
        if accounts_file and _LOGIN & set(connector.auth_mechanisms):
            try:
                lines = read_secret(config_dir, accounts_file).decode(errors="replace").splitlines()
            except ConfigError:
                continue
            names += [line.partition(":")[0] for line in lines if ":" in line and not line.startswith("#")]
    return list(dict.fromkeys(names))


def _unlisted(config: TierConfig) -> list[str]:
    """Return who else can log in, by what knows them."""
    known: list[str] = []
    for connector in config.receive_connectors:
        source = connector.authentication
        if not _LOGIN & set(connector.auth_mechanisms):
            continue
        if source.ldap is not None:
            known.append(f"those in {source.ldap.base_dn}")
        if source.oauth2 is not None:
            known.append(f"those with a token of {source.oauth2.issuer}")
        if source.service_accounts is not None:
            known.append(f"service accounts with a token for {source.service_accounts.audience}")
    return list(dict.fromkeys(known))


def _table(title: str, headings: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Group:
    """Return the first rows, and how many more there are."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows[:ROWS]:
        table.add_row(*row)
    return Group(table, Text(f"and {len(rows) - ROWS:,} more")) if len(rows) > ROWS else Group(table)


def _receiving(config: TierConfig, addresses: tuple[str, ...], now: float) -> Group:
    rows: list[tuple[str, ...]] = []
    for connector in config.receive_connectors:
        selection = select(connector.fqdn, config.certificates, connector.auth_mechanisms, now=now)
        served = ", ".join(certificate.name for certificate in selection.presented) or "none"
        if selection.events:
            served += f" (event {', '.join(map(str, selection.events))})"
        login = "yes" if connector.authentication.has_source and _LOGIN & set(connector.auth_mechanisms) else "no"
        for binding in connector.bindings:
            for address in addresses:
                tls = "off" if binding.tls is TlsMode.OFF else str(binding.tls)
                if connector.require_tls and binding.tls is TlsMode.STARTTLS:
                    tls += ", required"
                if isinstance(check_anonymous_tls(connector, config, binding.tls, tls=False), Allow):
                    tls += ", X-ANONYMOUSTLS"
                rows.append((connector.name, f"{address}:{binding.port}", tls, login, connector.fqdn, served))
    return _table("Receiving", ("CONNECTOR", "ADDRESS", "TLS", "LOGIN", "NAME", "CERTIFICATE"), rows)


def _delivering(config: TierConfig, state_dir: Path) -> Group:
    rows: list[tuple[str, ...]] = []
    for domain in config.accepted_domains:
        match domain.deliver:
            case _ if domain.alias_of:
                target = f"the same recipient at {domain.alias_of}"
            case Maildir(path=path):
                target = str(state_dir / path)
            case Lmtp(host=host, port=port):
                target = f"LMTP {host}:{port}"
            case SmtpHost(host=host, port=port):
                target = f"SMTP {host}:{port}"
            case None:
                target = "the matching send connector"
        rows.append((domain.domain, str(domain.type), target))
    for connector in config.send_connectors:
        spaces = ", ".join(space.domain for space in connector.address_spaces)
        routing = connector.routing
        kind = type(routing).__name__
        hosts = getattr(routing, "hosts", None)
        where = ", ".join(f"{host.host}:{host.port}" for host in hosts) if hosts else kind
        rows.append((spaces, f"connector {connector.name}", f"{where}, TLS {_outbound_tls(connector)}"))
    return _table("Delivering", ("DOMAIN", "TYPE", "MAIL GOES TO"), rows)


def _outbound_tls(connector: SendConnector) -> str:
    if connector.auth_mechanism is AuthMechanism.EXCHANGE_SERVER:
        return "by direct trust"
    return "required" if connector.require_tls else "where offered"


def _try_it(config: TierConfig, address: str, ca: Path, accounts: list[str], password: str) -> list[str]:
    """Return commands to copy; none where there is no account, submission port or local mailbox."""
    domain = next((d.domain for d in config.accepted_domains if isinstance(d.deliver, Maildir)), None)
    connector = next((c for c in config.receive_connectors if c.authentication.accounts_file), None)
    if domain is None or connector is None or not accounts:
        return []
    ports = {binding.tls: binding.port for binding in connector.bindings}
    user = next((name for name in accounts if name.endswith(f"@{domain}")), accounts[0])
    sender = user if "@" in user else f"{user}@{domain}"
    secret = shlex.quote(password)
    commands = []
    if TlsMode.STARTTLS in ports:
        commands.append(
            f"swaks --server {address}:{ports[TlsMode.STARTTLS]} --tls --auth PLAIN --auth-user {user}"
            f" --auth-password {secret} --from {sender} --to {sender}"
        )
    if TlsMode.IMPLICIT in ports:
        port = ports[TlsMode.IMPLICIT]
        commands.append(
            f"printf 'Subject: hello\\r\\n\\r\\nhello\\r\\n' | curl -sS --url smtps://{connector.fqdn}:{port}"
            f" --connect-to ::{address}:{port} --cacert {ca} --user {shlex.quote(f'{user}:{password}')}"
            f" --mail-from {sender} --mail-rcpt {sender} -T -"
        )
        if any("localhost" in certificate.dns_names for certificate in config.certificates):
            script = (
                f"import smtplib,ssl; c=smtplib.SMTP_SSL('localhost',{port},"
                f"context=ssl.create_default_context(cafile='{ca}')); c.login('{user}',{password!r});"
                f" c.sendmail('{sender}','{sender}','Subject: hello\\n\\nhello\\n')"
            )
            commands.append(f'python3 -c "{script}"')
    return commands


def _request(source: str, state_dir: Path) -> str:
    _, namespace, name = source.split("/")
    return f"{_program()} certificates request --state-dir {state_dir} --namespace {namespace} {name}"


def announce(
    console: Console,
    config: TierConfig,
    *,
    addresses: tuple[str, ...],
    config_dir: Path,
    state_dir: Path,
    ca: Path,
    metrics: str,
    password_hint: str,
    requests: Iterable[str] = (),
) -> None:
    """Print what listens where, which certificate each name serves, where mail lands, and lines to try.

    `requests` are the sources of the TransportCertificates that have a request to hand to a CA.
    """
    accounts = _accounts(config, config_dir)
    parts: list[Any] = [
        Text(f"Postroad serves tier {config.tier} ({config.role}) as {config.hostname}", style="bold"),
        Text(),
        _receiving(config, addresses, time.time()),
        Text(),
        _delivering(config, state_dir),
        Text(),
        Text(f"Accounts  {', '.join([*accounts, *_unlisted(config)]) or 'none'}"),
        Text(f"CA        {ca}"),
        Text(f"Metrics   http://{metrics}/metrics (also /healthz, /readyz, /configz)"),
        Text(f"Events    {state_dir / 'events.jsonl'}"),
        Text(f"Queue     {_program()} queue --state-dir {state_dir} list"),
        *(Text(f"Request   {_request(source, state_dir)}") for source in requests),
        Text(),
    ]
    if commands := _try_it(config, addresses[0], ca, accounts, password_hint):
        parts += [Text("Try it (any of these, as printed)", style="bold"), Text("\n".join(commands)), Text()]
    parts.append(Text("Edit a manifest and it is live within a second. Ctrl-C drains and stops."))
    console.print(Group(*parts), soft_wrap=True)
