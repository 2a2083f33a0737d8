"""What would happen to a message, and why: the rules of the wire, run over a scenario and written down.

`explain` calls the very functions a session calls, in the session's order, and keeps each verdict with the
resource and field behind it. The answer is a plain value that encodes to JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from postroad_transport.config import AuthMechanism, Permission, Principal, ReceiveConnector, TlsMode
from postroad_transport.policy.address import AddressSyntaxError, Mailbox, parse_forward_path, parse_reverse_path
from postroad_transport.policy.authentication import EXPS_GSSAPI, TOKENS, check_auth
from postroad_transport.policy.certificate import select
from postroad_transport.policy.connectors import ConnectorPolicy, decisive_field
from postroad_transport.policy.direct_trust import VERB, check_anonymous_tls
from postroad_transport.policy.domain_security import transaction_identity
from postroad_transport.policy.headers import auth_as, firewall_permission, inspect, stamps
from postroad_transport.policy.passing import mail_passes, message_passes
from postroad_transport.policy.principals import LEGACY_SERVERS, authenticated_principals, initial_principals
from postroad_transport.policy.proof import PeerProof
from postroad_transport.policy.receive import (
    AUTHENTICATION_UNSUCCESSFUL,
    MAIL_RULES,
    MESSAGE_RULES,
    check_login,
    check_recipient,
)
from postroad_transport.policy.reply import Reply
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.tier import TierPolicy
from postroad_transport.policy.verdict import Allow, Refuse, Verdict

AccountsOf = Callable[[ReceiveConnector], Mapping[str, tuple[str, ...]]]
"""Looks up a connector's accounts: from login name to the addresses listed for it."""

AUTH_NOT_OFFERED = Reply(502, "5.5.1", "AUTH is not offered")
TLS_NOT_OFFERED = Reply(502, "5.5.1", "STARTTLS is not offered")
NON_ASCII_ADDRESS = Reply(553, "5.6.7", "A non-ASCII address needs SMTPUTF8")

CONNECTION = "CONNECT"
"""What stands for the connection among the verbs."""
CLOSED_SILENTLY = "the connection is closed without a word: before TLS nothing that is said would be understood"

_split_lines = re.compile(r"\r\n|\r|\n").split


class Scenario(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A session and a message to ask about. Addresses are as a user writes them, without angle brackets."""

    port: int
    remote_ip: str
    helo: str = ""
    tls: bool = False
    """Whether STARTTLS has been used; a port with implicit TLS needs no telling."""
    server: Principal | None = None
    """The group of servers that the client belongs to and proves it, legacy ones with X-EXPS, others with
    X-ANONYMOUSTLS; None: it is no server."""
    proof: PeerProof | None = None
    """What the client's certificate proves, where one is presented and asked for."""
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
    tls: bool = False
    """Whether the message comes over TLS."""
    principals: tuple[str, ...] = ()
    permissions: dict[str, str] = {}
    """Each permission the session holds in the end, to the field that grants it."""
    steps: tuple[Step, ...] = ()
    recipients: tuple[str, ...] = ()
    """Who it is taken for, with domain aliases applied."""
    header: str = ""
    """The header as it passes the firewall, without what is put in front of it."""
    auth_as: str = ""
    stripped: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def explain(
    tier: TierPolicy, scenario: Scenario, *, accounts: AccountsOf | None = None, certificates_issued: bool = False
) -> Explanation:
    """Run `scenario` through the rules of `tier`.

    Parameters
    ----------
    accounts
        Where the addresses of ``scenario.account`` are found; who is not in there cannot log in, unless the connector
        asks a directory too. None, or a directory: the account exists and owns ``scenario.account_addresses``.
    certificates_issued
        Whether the configuration holds its certificates, as a served one does: then STARTTLS needs one that covers
        the connector's name (spec.md 3). Else one is taken for granted.
    """
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
    walk = _Walk(tier, connector, scenario, accounts, certificates_issued=certificates_issued)
    return walk.explanation(choices)


class _Walk:
    """One scenario on its way through the verbs."""

    def __init__(
        self,
        tier: TierPolicy,
        connector: ConnectorPolicy,
        scenario: Scenario,
        accounts: AccountsOf | None,
        *,
        certificates_issued: bool,
    ) -> None:
        self.tier = tier
        self.connector = connector
        self.scenario = scenario
        self.accounts = accounts
        self.certificates_issued = certificates_issued
        self.smtputf8 = "SMTPUTF8" in connector.config.extensions
        self.steps: list[Step] = []
        self.recipients: dict[str, None] = {}
        self.header = ""
        self.stripped: tuple[str, ...] = ()
        self.added: tuple[str, ...] = ()
        self.auth_as = ""
        self.session = SessionFacts(
            remote_ip=scenario.remote_ip,
            local_port=scenario.port,
            helo=scenario.helo,
            tls=self._mode() is TlsMode.IMPLICIT,
            principals=initial_principals(connector.config),
            proof=scenario.proof if connector.secure_domains else None,
        )

    def explanation(self, choices: tuple[Choice, ...]) -> Explanation:
        accepted = (
            self._connection()
            and self._starttls()
            and self._prove_server()
            and self._login()
            and self._mail()
            and self._recipients()
            and self._message()
        )
        config, principals = self.connector.config, self.session.principals
        return Explanation(
            accepted=accepted,
            connector=config.name,
            choices=choices,
            tls=self.session.tls,
            principals=tuple(sorted(principals)),
            permissions={
                str(permission): decisive_field(config.grants, principals, permission)
                for permission in sorted(self.connector.permissions(self.session))
            },
            steps=tuple(self.steps),
            recipients=tuple(self.recipients) if accepted else (),
            header=self.header,
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

    def _mode(self) -> TlsMode:
        """Return how the port speaks TLS."""
        bindings = self.connector.config.bindings
        return next(binding.tls for binding in bindings if binding.port == self.scenario.port)

    def _connection(self) -> bool:
        """Judge the connection itself: without a certificate there is no TLS from the first byte."""
        config = self.connector.config
        if self._mode() is not TlsMode.IMPLICIT or not self.certificates_issued or self._has_certificate():
            return True
        field = f"spec.fqdn: no certificate covers {config.fqdn} (event 12014)"
        self.steps.append(
            Step(
                verb=CONNECTION,
                argument="",
                rule="certificate",
                allowed=False,
                source=config.source,
                field=field,
                reply=CLOSED_SILENTLY,
            )
        )
        return False

    def _has_certificate(self) -> bool:
        config = self.connector.config
        # Expiry raises an event and no more, so the time does not matter here.
        return select(config.fqdn, self.tier.config.certificates, config.auth_mechanisms, now=0.0).advertise

    def _starttls(self) -> bool:
        if not self.scenario.tls or self.session.tls:
            return True
        source = self.connector.config.source
        if AuthMechanism.TLS not in self.connector.config.auth_mechanisms:
            field = f"{source} spec.authMechanisms holds no {AuthMechanism.TLS}"
            return self._note("STARTTLS", "", Refuse("authMechanisms", TLS_NOT_OFFERED, field))
        if self._mode() is not TlsMode.STARTTLS:
            field = f"{source} spec.bindings: port {self.scenario.port} has tls: {self._mode()}"
            return self._note("STARTTLS", "", Refuse("bindings", TLS_NOT_OFFERED, field))
        config = self.connector.config
        if self.certificates_issued and not self._has_certificate():
            field = f"{source} spec.fqdn: no certificate covers {config.fqdn} (event 12014)"
            return self._note("STARTTLS", "", Refuse("certificate", TLS_NOT_OFFERED, field))
        self.session.tls = True
        field = f"{source} spec.authMechanisms holds {AuthMechanism.TLS}"
        return self._note("STARTTLS", "", Allow("authMechanisms", field))

    def _prove_server(self) -> bool:
        server, session = self.scenario.server, self.session
        if server is None:
            return True
        if server is Principal.LEGACY_EXCHANGE_SERVERS:
            verdict = check_auth(self.connector, session, EXPS_GSSAPI)
            if isinstance(verdict, Allow):
                session.principals, session.auth_mechanism = LEGACY_SERVERS, EXPS_GSSAPI
            return self._note(EXPS_GSSAPI, "", verdict)
        config = self.connector.config
        verdict = check_anonymous_tls(
            config, self.tier.config, self._mode(), tls=session.tls, issued=self.certificates_issued
        )
        if isinstance(verdict, Allow):
            session.tls = True
            session.principals = frozenset({str(server)})
            session.auth_mechanism = VERB
        return self._note(VERB, "", verdict)

    def _account(self, name: str) -> tuple[str, ...] | Refuse:
        """Return the addresses listed for an account, or why nobody can log in by that name."""
        if self.accounts is None:
            return self.scenario.account_addresses
        field = f"{self.connector.config.source} spec.authentication"
        known = self.accounts(self.connector.config)
        if name in known:
            return known[name]
        if self.connector.config.authentication.has_unlisted:
            return self.scenario.account_addresses
        if not known:
            return Refuse("accounts", AUTH_NOT_OFFERED, f"{field} gives no accounts")
        return Refuse("accounts", AUTHENTICATION_UNSUCCESSFUL, f"{field} has no account {name}")

    def _login(self) -> bool:
        scenario, session = self.scenario, self.session
        if not scenario.account:
            return True
        certificates = self.connector.config.authentication.client_certificates
        session.client_certificate = certificates is not None and scenario.auth_mechanism == "EXTERNAL"
        if not self._note("AUTH", scenario.account, check_auth(self.connector, session, scenario.auth_mechanism)):
            return False
        addresses = self._account(scenario.account)
        if isinstance(addresses, Refuse):
            return self._note("AUTH", scenario.account, addresses)
        session.principals = authenticated_principals(scenario.account)
        session.account = scenario.account
        session.account_addresses = addresses
        session.account_owns_name = scenario.auth_mechanism not in TOKENS
        session.auth_mechanism = scenario.auth_mechanism
        return self._note("AUTH", scenario.account, check_login(self.connector, session))

    def _mail(self) -> bool:
        text = self.scenario.mail_from
        try:
            sender, rest = parse_reverse_path(_path(text), smtputf8=self.smtputf8)
        except AddressSyntaxError as error:
            return self._malformed("MAIL", text, "5.1.7", error)
        if rest:
            return self._malformed("MAIL", text, "5.1.7", AddressSyntaxError("Address is malformed"))
        declares = "SIZE" in self.connector.config.extensions
        size = self.scenario.size if declares and self.scenario.size else None
        tier, connector, session = self.tier, self.connector, self.session
        if connector.secure_domains:
            identity = transaction_identity(connector.secure_domains, session, sender)
            session.principals, session.secured_domain = identity
        access = connector.access(session.principals)
        return all(
            self._note(
                "MAIL",
                text,
                rule.ask(tier, connector, session, access, sender, size)
                or Allow(name, mail_passes(name, tier, connector, session, sender, size)),
            )
            for name, rule in MAIL_RULES.items()
            if name != "domainSecurity" or connector.secure_domains
        )

    def _recipients(self) -> bool:
        for text in self.scenario.recipients:
            mailbox = self._recipient(text)
            if mailbox is not None:
                self.recipients[self.tier.domains.resolve(mailbox).address] = None
        return bool(self.recipients)

    def _recipient(self, text: str) -> Mailbox | None:
        try:
            mailbox, rest = parse_forward_path(_path(text), smtputf8=self.smtputf8)
        except AddressSyntaxError as error:
            if not self.smtputf8 and not text.isascii():
                self._note("RCPT", text, Refuse("smtputf8", NON_ASCII_ADDRESS))
                return None
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
        lines += [line for line in _split_lines(scenario.headers) if line]
        content = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("utf-8", "surrogateescape")
        permissions = self.connector.permissions(self.session)
        report = inspect(content, permissions, hostname=self.tier.config.hostname)
        size = scenario.size or len(content)
        tier, connector, session = self.tier, self.connector, self.session
        access = connector.access(session.principals)
        for name, rule in MESSAGE_RULES.items():
            verdict = rule.ask(tier, connector, session, access, report, size) or Allow(
                name, message_passes(name, connector, session, report, size)
            )
            if not self._note("DATA", scenario.header_from, verdict):
                return False
        kept = content if report.kept is None else b"".join(report.kept)
        self.header = kept.decode("utf-8", "replace")
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
