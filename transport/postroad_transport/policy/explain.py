"""What would happen to a message, and why: the rules of the wire, run over a scenario and written down.

`explain` calls the very functions a session calls, in the session's order, and keeps each verdict with the
resource and field behind it. The answer is a plain value that encodes to JSON.
"""

from __future__ import annotations

import msgspec

from postroad_transport.config import Permission, TlsMode
from postroad_transport.policy.address import AddressSyntaxError, Mailbox, parse_forward_path, parse_reverse_path
from postroad_transport.policy.connectors import ConnectorPolicy, decisive_field
from postroad_transport.policy.headers import auth_as, firewall_permission, inspect, stamps
from postroad_transport.policy.principals import authenticated_principals, initial_principals
from postroad_transport.policy.receive import (
    check_auth,
    check_login,
    check_mail,
    check_message,
    check_recipient,
)
from postroad_transport.policy.reply import Reply
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.tier import TierPolicy
from postroad_transport.policy.verdict import Refuse, Verdict


class Scenario(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A session and a message to ask about. Addresses are as a user writes them, without angle brackets."""

    port: int
    remote_ip: str
    helo: str = ""
    tls: bool = False
    """Whether STARTTLS has been used; a port with implicit TLS needs no telling."""
    account: str = ""
    """Who logs in, with good credentials; empty for nobody."""
    account_addresses: tuple[str, ...] = ()
    auth_mechanism: str = "PLAIN"
    mail_from: str = ""
    """Empty for the null reverse-path."""
    recipients: tuple[str, ...] = ()
    header_from: str = ""
    """The value of ``From``; empty for a message without one."""
    headers: str = ""
    """More header lines, separated by line ends of any kind."""
    size: int = 0
    """Size of the message in bytes; 0 for one as small as its header."""


class Choice(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One connector in the selection, and why it was or was not chosen."""

    connector: str
    source: str
    range: str
    chosen: bool
    reason: str


class Step(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One rule's verdict on one verb. ``source`` and ``field`` name what decided."""

    verb: str
    argument: str
    rule: str
    allowed: bool
    source: str = ""
    field: str = ""
    reply: str = ""
    """What the client would see; empty where the rule lets the verb pass."""
    missing: str = ""
    """The permission that would have changed the verdict."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What would happen, in the order in which it would."""

    accepted: bool
    """Whether the message is taken for at least one recipient."""
    connector: str
    choices: tuple[Choice, ...]
    principals: tuple[str, ...] = ()
    permissions: dict[str, str] = {}
    """Each permission the session holds in the end, to the field that grants it."""
    steps: tuple[Step, ...] = ()
    recipients: tuple[str, ...] = ()
    """Who it is taken for, with domain aliases applied."""
    auth_as: str = ""
    stripped: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def explain(tier: TierPolicy, scenario: Scenario) -> Explanation:
    """Run `scenario` through the rules of `tier`."""
    choices = tuple(
        Choice(
            connector=candidate.connector.name,
            source=candidate.connector.source,
            range=candidate.range,
            chosen=candidate.chosen,
            reason=candidate.reason,
        )
        for candidate in tier.connectors.explain_selection(scenario.port, scenario.remote_ip)
    )
    connector = tier.connectors.select(scenario.port, scenario.remote_ip)
    if connector is None:
        return Explanation(accepted=False, connector="", choices=choices)
    return _Walk(tier, connector, scenario).explanation(choices)


class _Walk:
    """One scenario on its way through the verbs."""

    def __init__(self, tier: TierPolicy, connector: ConnectorPolicy, scenario: Scenario) -> None:
        self.tier = tier
        self.connector = connector
        self.scenario = scenario
        self.steps: list[Step] = []
        self.recipients: list[str] = []
        self.stripped: tuple[str, ...] = ()
        self.added: tuple[str, ...] = ()
        self.auth_as = ""
        self.session = SessionFacts(
            remote_ip=scenario.remote_ip,
            local_port=scenario.port,
            helo=scenario.helo,
            tls=scenario.tls
            or any(
                binding.port == scenario.port and binding.tls is TlsMode.IMPLICIT
                for binding in connector.config.bindings
            ),
            principals=initial_principals(connector.config),
        )

    def explanation(self, choices: tuple[Choice, ...]) -> Explanation:
        accepted = self._login() and self._mail() and self._recipients() and self._message()
        config, principals = self.connector.config, self.session.principals
        return Explanation(
            accepted=accepted,
            connector=config.name,
            choices=choices,
            principals=tuple(sorted(principals)),
            permissions={
                str(permission): decisive_field(config.grants, principals, permission)
                for permission in sorted(self.connector.permissions(self.session))
            },
            steps=tuple(self.steps),
            recipients=tuple(self.recipients) if accepted else (),
            auth_as=self.auth_as,
            stripped=self.stripped,
            added=self.added,
        )

    def _note(self, verb: str, argument: str, verdict: Verdict) -> bool:
        source, _, field = verdict.because.partition(" ")
        refused = isinstance(verdict, Refuse)
        self.steps.append(
            Step(
                verb=verb,
                argument=argument,
                rule=verdict.rule,
                allowed=not refused,
                source=source,
                field=field,
                reply=verdict.reply.line if isinstance(verdict, Refuse) else "",
                missing=str(verdict.missing or "") if isinstance(verdict, Refuse) else "",
            )
        )
        return not refused

    def _login(self) -> bool:
        scenario, session = self.scenario, self.session
        if not scenario.account:
            return True
        if not self._note("AUTH", scenario.account, check_auth(self.connector, session)):
            return False
        session.principals = authenticated_principals(scenario.account)
        session.account = scenario.account
        session.account_addresses = scenario.account_addresses
        session.auth_mechanism = scenario.auth_mechanism
        return self._note("AUTH", scenario.account, check_login(self.connector, session))

    def _mail(self) -> bool:
        text = self.scenario.mail_from
        try:
            sender, rest = parse_reverse_path(_path(text), smtputf8=True)
        except AddressSyntaxError as error:
            return self._malformed("MAIL", text, "5.1.7", error)
        if rest:
            return self._malformed("MAIL", text, "5.1.7", AddressSyntaxError("Address is malformed"))
        size = self.scenario.size or None
        return self._note("MAIL", text, check_mail(self.tier, self.connector, self.session, sender, size=size))

    def _recipients(self) -> bool:
        for text in self.scenario.recipients:
            mailbox = self._recipient(text)
            if mailbox is not None:
                self.recipients.append(self.tier.domains.resolve(mailbox).address)
        return bool(self.recipients)

    def _recipient(self, text: str) -> Mailbox | None:
        try:
            mailbox, rest = parse_forward_path(_path(text), smtputf8=True)
        except AddressSyntaxError as error:
            self._malformed("RCPT", text, "5.1.3", error)
            return None
        if rest:
            self._malformed("RCPT", text, "5.1.3", AddressSyntaxError("Address is malformed"))
            return None
        verdict = check_recipient(self.tier, self.connector, self.session, mailbox, count=len(self.recipients))
        return mailbox if self._note("RCPT", text, verdict) else None

    def _message(self) -> bool:
        scenario = self.scenario
        lines = [f"From: {scenario.header_from}"] if scenario.header_from else []
        lines += [line for line in scenario.headers.splitlines() if line]
        content = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("utf-8", "surrogateescape")
        permissions = self.connector.permissions(self.session)
        report = inspect(content, permissions, hostname=self.tier.config.hostname)
        size = scenario.size or len(content)
        verdict = check_message(self.tier, self.connector, self.session, report, size=size)
        if not self._note("DATA", scenario.header_from, verdict):
            return False
        self.stripped = report.stripped
        self.added = tuple(stamps(self.session, report).decode("ascii").splitlines())
        self.auth_as = auth_as(self.session, report)
        for name in report.stripped:
            self._note_stripped(name)
        return True

    def _note_stripped(self, name: str) -> None:
        config, permission = self.connector.config, firewall_permission(name)
        if permission in self.connector.permissions(self.session):
            permission = Permission.ACCEPT_AUTHENTICATION_FLAG
        field = decisive_field(config.grants, self.session.principals, permission)
        self.steps.append(
            Step(
                verb="DATA",
                argument=name,
                rule="headerFirewall",
                allowed=True,
                source=config.source,
                field=field,
                missing=str(permission),
            )
        )

    def _malformed(self, verb: str, text: str, enhanced: str, error: AddressSyntaxError) -> bool:
        return self._note(verb, text, Refuse("syntax", Reply(501, enhanced, str(error))))


def _path(text: str) -> bytes:
    return b"<" + text.encode("utf-8", "surrogateescape") + b">"
