"""What a worker would do with a message, from the connection to the route, without doing any of it.

The rules are asked by :func:`postroad_transport.policy.explain.explain`; this adds what lies outside of policy:
accounts, replies that no rule decides, the trace header, the routes and the firewall on the way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import msgspec

from postroad_transport.auth.accounts import parse_accounts
from postroad_transport.config import Drop, Maildir, ReceiveConnector, TierConfig, TlsMode
from postroad_transport.config.files import read_secret
from postroad_transport.policy.authentication import EXPS_GSSAPI
from postroad_transport.policy.connectors import decisive_field
from postroad_transport.policy.direct_trust import VERB
from postroad_transport.policy.explain import CLOSED_SILENTLY, CONNECTION, AccountsOf, Explanation, Scenario, Step
from postroad_transport.policy.explain import explain as ask_rules
from postroad_transport.policy.headers import HOPS_FIELD, outbound, send_permission
from postroad_transport.policy.principals import destination_principals, send_permissions
from postroad_transport.policy.submission import missing_fields
from postroad_transport.policy.tier import TierPolicy
from postroad_transport.routing.table import Route, RoutingTable, Unroutable
from postroad_transport.smtp import replies
from postroad_transport.smtp.received import received_header, transmission_type
from postroad_transport.worker.explain_tls import hop_tls

CONNECTION_REFUSED = "connection refused: no connector is bound to this port"

_POSITIVE = {
    "STARTTLS": replies.READY_FOR_TLS,
    VERB: replies.READY_FOR_TLS,
    EXPS_GSSAPI: replies.AUTHENTICATED,
    "AUTH": replies.AUTHENTICATED,
    "MAIL": replies.SENDER_OK,
    "RCPT": replies.RECIPIENT_OK,
    "DATA": b"250 2.0.0 Ok: queued as ID\r\n",
}


class Exchange(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A command, and the reply to it."""

    command: str
    reply: str


class Stripped(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A header that does not leave. ``field`` says why the send connector lacks the `missing` permission."""

    header: str
    missing: str
    field: str


class Delivery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a recipient's copy would go. ``connector`` and ``destination`` are empty where there is no route."""

    recipient: str
    connector: str
    destination: str
    source: str
    """The resource that routes it."""
    reason: str
    reply: str = ""
    """Why there is no route; a 4xx waits in the queue, a 5xx returns the message to its sender."""
    stripped: tuple[Stripped, ...] = ()
    added: tuple[str, ...] = ()
    tls: str = ""
    """What its sessions need of TLS, in words."""


class FullExplanation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything that would happen: what the client sees, what the rules say, where the message goes."""

    conversation: tuple[Exchange, ...]
    explanation: Explanation
    trace: str = ""
    """The ``Received`` header that would be added, up to its identifier."""
    completed: tuple[str, ...] = ()
    """Fields that a user's message lacks and is given."""
    deliveries: tuple[Delivery, ...] = ()


def explain(
    config: TierConfig, scenario: Scenario, *, accounts: AccountsOf | None = None, certificates_issued: bool = False
) -> FullExplanation:
    """Tell what a tier that serves `config` would do in `scenario`.

    Parameters
    ----------
    accounts, certificates_issued
        See :func:`postroad_transport.policy.explain.explain`; :func:`accounts_in` reads accounts from a directory.
    """
    explanation = ask_rules(TierPolicy(config), scenario, accounts=accounts, certificates_issued=certificates_issued)
    conversation = tuple(_conversation(config, scenario, explanation))
    if not explanation.accepted:
        return FullExplanation(conversation=conversation, explanation=explanation)
    connector = next(item for item in config.receive_connectors if item.name == explanation.connector)
    trace = _trace(scenario, connector, explanation)
    header = "\r\n".join([trace, *explanation.added, explanation.header])
    table = RoutingTable(config)
    return FullExplanation(
        conversation=conversation,
        explanation=explanation,
        trace=trace,
        completed=_completed(config, scenario, explanation),
        deliveries=tuple(_delivery(table, recipient, header.encode()) for recipient in explanation.recipients),
    )


def accounts_in(directory: Path) -> AccountsOf:
    """Return a look-up of the accounts whose files lie in the configuration directory `directory`.

    The look-up raises ConfigError where a file cannot be read.
    """

    @cache
    def addresses(name: str) -> dict[str, tuple[str, ...]]:
        return parse_accounts(read_secret(directory, name)).addresses() if name else {}

    return lambda connector: addresses(connector.authentication.accounts_file)


def _conversation(config: TierConfig, scenario: Scenario, explanation: Explanation) -> Iterator[Exchange]:
    if not explanation.connector:
        yield Exchange(command="", reply=_no_connector(config, scenario.port))
    for steps in _by_command(explanation.steps):
        refusal = next((step.reply for step in steps if not step.allowed), "")
        yield Exchange(command=_command(steps[0]), reply=refusal or _text(_POSITIVE[steps[0].verb]))


def _no_connector(config: TierConfig, port: int) -> str:
    """Return what a client sees that no connector of the port serves."""
    bindings = [b for connector in config.receive_connectors for b in connector.bindings if b.port == port]
    if not bindings:
        return CONNECTION_REFUSED
    return CLOSED_SILENTLY if any(b.tls is TlsMode.IMPLICIT for b in bindings) else _text(replies.NO_CONNECTOR)


def _by_command(steps: Iterable[Step]) -> list[list[Step]]:
    """Put together the rules that judge one command; every RCPT is a command of its own."""
    commands: list[list[Step]] = []
    for step in steps:
        if commands and step.verb == commands[-1][0].verb != "RCPT":
            commands[-1].append(step)
        else:
            commands.append([step])
    return commands


def _command(step: Step) -> str:
    match step.verb:
        case "MAIL":
            return f"MAIL FROM:<{step.argument}>"
        case "RCPT":
            return f"RCPT TO:<{step.argument}>"
        case verb:
            return "" if verb == CONNECTION else verb


def _text(reply: bytes) -> str:
    return reply.decode("ascii").rstrip("\r\n")


def _trace(scenario: Scenario, connector: ReceiveConnector, explanation: Explanation) -> str:
    smtputf8 = "SMTPUTF8" in connector.extensions and not _is_ascii(scenario)
    header = received_header(
        helo=scenario.helo,
        client=scenario.remote_ip,
        by=connector.fqdn,
        protocol=transmission_type(
            extended=True, tls=explanation.tls, authenticated=bool(scenario.account), smtputf8=smtputf8
        ),
        tls="",
        message="",
        recipient="",
        now=0.0,
    )
    return " ".join(header.decode().partition(" id ")[0].split())


def _completed(config: TierConfig, scenario: Scenario, explanation: Explanation) -> tuple[str, ...]:
    if not scenario.account:
        return ()
    header = explanation.header.encode()
    lines = missing_fields(header, len(header), identifier="ID", host=config.hostname, now=0.0).decode()
    return tuple(line.partition(":")[0] for line in lines.splitlines())


def _is_ascii(scenario: Scenario) -> bool:
    return all(address.isascii() for address in (scenario.mail_from, *scenario.recipients))


def _delivery(table: RoutingTable, recipient: str, header: bytes) -> Delivery:
    route, source, reason = table.explain(recipient.rpartition("@")[2])
    if isinstance(route, Unroutable):
        return Delivery(
            recipient=recipient, connector="", destination="", source=source, reason=reason, reply=route.reply.line
        )
    stripped, added = _firewall(route, header)
    return Delivery(
        recipient=recipient,
        connector=route.connector,
        destination=route.destination,
        source=source,
        reason=reason,
        stripped=stripped,
        added=added,
        tls=hop_tls(route),
    )


def _firewall(route: Route, header: bytes) -> tuple[tuple[Stripped, ...], tuple[str, ...]]:
    """Return what the send connector's firewall takes out of the header, and what it puts in front."""
    connector = route.send_connector
    # As the worker chooses hops: what stays on this machine, or goes nowhere, passes no firewall.
    if connector is None or isinstance(route.target, Maildir | Drop):
        return (), ()
    domain = route.destination.removeprefix("dns:")
    left = outbound([header], send_permissions(connector, domain=domain))
    stripped = []
    for name in left.stripped:
        missing = send_permission(name)
        field = decisive_field(connector.grants, destination_principals(connector, domain=domain), missing)
        stripped.append(Stripped(header=name, missing=str(missing), field=field))
    first = bytes(left.content[0]).partition(b"\r\n")[0].decode("utf-8", "replace")
    own = first.startswith(HOPS_FIELD) and not header.startswith(HOPS_FIELD.encode())
    return tuple(stripped), (first,) if own else ()
