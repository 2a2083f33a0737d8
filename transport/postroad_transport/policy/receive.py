"""The rules of receiving, verb by verb (spec.md 1.7). Pure: facts in, verdict out.

Order matters where a command breaks several rules: required TLS before everything, then who may submit, then
as whom, then how much.

Who may send as whom, from spec.md 1.1 and 1.7 taken together: a session with ``SMTP-Accept-Any-Sender`` as
anyone; a logged-in user as the addresses its account owns; any other session as anyone outside the
authoritative domains, for it has no addresses of its own (so that the anonymous relay of spec.md 1.6, which
lacks the permission, works). An authoritative domain's addresses need
``SMTP-Accept-Authoritative-Domain-Sender`` besides, except where the account owns the address: that rule is
there to stop mail from outside that claims to be from inside. The null reverse-path is nobody's address, and
always fine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from postroad_transport.config import Permission, Principal
from postroad_transport.policy.address import Mailbox
from postroad_transport.policy.connectors import Access, ConnectorPolicy, because
from postroad_transport.policy.domain_security import check_sender
from postroad_transport.policy.headers import HeaderReport
from postroad_transport.policy.ownership import owns
from postroad_transport.policy.reply import Reply
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.tier import TierPolicy
from postroad_transport.policy.verdict import Allow, Refuse, Verdict

NOT_AUTHENTICATED = Reply(530, "5.7.1", "Client was not authenticated")
AUTHENTICATION_UNSUCCESSFUL = Reply(535, "5.7.3", "Authentication unsuccessful")
MAY_NOT_SUBMIT = Reply(550, "5.7.1", "Client does not have permission to submit to this server")
MAY_NOT_SEND_AS = Reply(550, "5.7.1", "Client does not have permission to send as this sender")
MAY_NOT_SEND_ON_BEHALF = Reply(550, "5.7.1", "Client does not have permission to send on behalf of the from address")
UNABLE_TO_RELAY = Reply(550, "5.7.1", "Unable to relay")
STARTTLS_REQUIRED = Reply(451, "5.7.3", "Must issue a STARTTLS command first")
MESSAGE_TOO_BIG = Reply(552, "5.3.4", "Message size exceeds fixed maximum message size")
HEADER_TOO_BIG = Reply(552, "5.3.4", "Header size exceeds fixed maximum size")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients")
USER_UNKNOWN = Reply(550, "5.1.1", "User unknown")
EXCH50_REFUSED = Reply(504, "5.7.1", "Need to authenticate first")
TOO_MANY_HOPS = Reply(554, "5.4.6", "Hop count exceeded - possible mail loop")

_ANONYMOUS = str(Principal.ANONYMOUS)
_BYPASS_SIZE = Permission.BYPASS_MESSAGE_SIZE_LIMIT
_POSTMASTER = "postmaster"
_ALLOW_POSTMASTER = Allow("postmaster", "RFC 5321 section 4.5.1")
_ALLOW_MESSAGE = Allow("message")


def check_login(connector: ConnectorPolicy, session: SessionFacts) -> Verdict:
    """Decide whether the user that just proved who they are may submit here.

    `session` already holds the user's principals.
    """
    access = connector.access(session.principals)
    if access.may_submit:
        return access.login
    return _missing("login", AUTHENTICATION_UNSUCCESSFUL, connector, session, Permission.SUBMIT)


def check_mail(
    tier: TierPolicy, connector: ConnectorPolicy, session: SessionFacts, sender: Mailbox | None, *, size: int | None
) -> Verdict:
    """Decide on MAIL FROM.

    Parameters
    ----------
    sender
        None for the null reverse-path.
    size
        What the SIZE parameter declares, in bytes; None without one.
    """
    access = connector.access(session.principals)
    rules = access.mail_rules
    if rules is None:
        rules = access.mail_rules = _that_matter(MAIL_RULES.values(), connector, access)
    for ask in rules:
        refusal = ask(tier, connector, session, access, sender, size)
        if refusal is not None:
            return refusal
    return access.submit


class MailRule(NamedTuple):
    """A rule of MAIL."""

    ask: Callable[[TierPolicy, ConnectorPolicy, SessionFacts, Access, Mailbox | None, int | None], Refuse | None]
    matters: Callable[[ConnectorPolicy, Access], bool]
    """Whether it can refuse anything to sessions with this access: one that cannot is not asked."""


def _require_tls(
    _tier: TierPolicy, connector: ConnectorPolicy, session: SessionFacts, _access: Access, *_: object
) -> Refuse | None:
    config = connector.config
    if config.require_tls and not session.tls:
        return Refuse("requireTLS", STARTTLS_REQUIRED, f"{config.source} spec.requireTLS")
    return None


def _domain_security(
    _tier: TierPolicy,
    connector: ConnectorPolicy,
    session: SessionFacts,
    access: Access,
    sender: Mailbox | None,
    _size: int | None,
) -> Refuse | None:
    if not connector.secure_domains:
        return None
    return check_sender(connector.config, connector.secure_domains, session, sender, may_submit=access.may_submit)


def _submit(
    _tier: TierPolicy, connector: ConnectorPolicy, session: SessionFacts, access: Access, *_: object
) -> Refuse | None:
    if access.may_submit:
        return None
    reply = NOT_AUTHENTICATED if _ANONYMOUS in session.principals else MAY_NOT_SUBMIT
    return _missing("submit", reply, connector, session, Permission.SUBMIT)


def _sender(
    tier: TierPolicy,
    connector: ConnectorPolicy,
    session: SessionFacts,
    access: Access,
    sender: Mailbox | None,
    _size: int | None,
) -> Refuse | None:
    missing = None if sender is None else _sender_permission(tier, session, access, sender)
    return None if missing is None else _missing("sender", MAY_NOT_SEND_AS, connector, session, missing)


def _declared_size(
    _tier: TierPolicy,
    connector: ConnectorPolicy,
    _session: SessionFacts,
    access: Access,
    _sender: Mailbox | None,
    size: int | None,
) -> Refuse | None:
    return message_too_big(connector) if size is not None and _exceeds(connector, access, size) else None


MAIL_RULES: dict[str, MailRule] = {
    "requireTLS": MailRule(_require_tls, lambda connector, _: connector.config.require_tls),
    "domainSecurity": MailRule(_domain_security, lambda connector, _: bool(connector.secure_domains)),
    "submit": MailRule(_submit, lambda _, access: not access.may_submit),
    "sender": MailRule(_sender, lambda _, access: not (access.any_sender and access.authoritative_sender)),
    "size": MailRule(_declared_size, lambda connector, access: _is_limited(connector, access)),
}
"""The rules of MAIL by name, in the order in which they are asked."""


def check_recipient(
    tier: TierPolicy, connector: ConnectorPolicy, session: SessionFacts, recipient: Mailbox, *, count: int
) -> Verdict:
    """Decide on RCPT TO; `count` is the number of recipients already taken."""
    limit = connector.config.limits.recipients
    if limit and count >= limit:
        return Refuse("recipients", TOO_MANY_RECIPIENTS, f"{connector.config.source} spec.limits.recipients")
    if not recipient.domain:
        return _ALLOW_POSTMASTER
    domains = tier.domains
    domain = domains.lookup(recipient.domain)
    if domain is None:
        access = connector.access(session.principals)
        if access.any_recipient:
            return access.relay
        return _missing("relay", UNABLE_TO_RELAY, connector, session, Permission.ACCEPT_ANY_RECIPIENT)
    if domain.alias_of:
        domain = domains.lookup(domains.resolve(recipient).domain) or domain
    if domain.recipients is not None:
        local = recipient.local.lower()
        if local not in domains.recipients(domain) and local != _POSTMASTER:
            return Refuse("recipient", USER_UNKNOWN, f"{domain.source} spec.recipients")
    return domains.accepted(domain)


def check_exch50(connector: ConnectorPolicy, session: SessionFacts) -> Verdict:
    """Decide on XEXCH50, Exchange's message properties in a form of its own (spec.md 1.1)."""
    if connector.access(session.principals).exch50:
        return Allow("exch50", because(connector.config, session.principals, Permission.ACCEPT_EXCH50))
    return _missing("exch50", EXCH50_REFUSED, connector, session, Permission.ACCEPT_EXCH50)


def message_too_big(connector: ConnectorPolicy) -> Refuse:
    """Return the refusal of a message that is larger than the connector's limit."""
    return Refuse("size", MESSAGE_TOO_BIG, f"{connector.config.source} spec.limits.messageSize", _BYPASS_SIZE)


def check_message(
    tier: TierPolicy, connector: ConnectorPolicy, session: SessionFacts, report: HeaderReport, *, size: int
) -> Verdict:
    """Decide at the end of DATA; `size` is in bytes, as received."""
    access = connector.access(session.principals)
    rules = access.message_rules
    if rules is None:
        rules = access.message_rules = _that_matter(MESSAGE_RULES.values(), connector, access)
    for ask in rules:
        refusal = ask(tier, connector, session, access, report, size)
        if refusal is not None:
            return refusal
    return _ALLOW_MESSAGE


class MessageRule(NamedTuple):
    """A rule at the end of DATA."""

    ask: Callable[[TierPolicy, ConnectorPolicy, SessionFacts, Access, HeaderReport, int], Refuse | None]
    matters: Callable[[ConnectorPolicy, Access], bool]
    """See :class:`MailRule`."""


def _that_matter(
    rules: Iterable[MailRule | MessageRule], connector: ConnectorPolicy, access: Access
) -> tuple[Callable[..., Refuse | None], ...]:
    return tuple(rule.ask for rule in rules if rule.matters(connector, access))


def _message_size(
    _tier: TierPolicy,
    connector: ConnectorPolicy,
    _session: SessionFacts,
    access: Access,
    _report: HeaderReport,
    size: int,
) -> Refuse | None:
    return message_too_big(connector) if _exceeds(connector, access, size) else None


def _header_size(
    _tier: TierPolicy,
    connector: ConnectorPolicy,
    _session: SessionFacts,
    _access: Access,
    report: HeaderReport,
    _size: int,
) -> Refuse | None:
    limit = connector.config.limits.header_size
    if limit and report.header_size > limit:
        return Refuse("headerSize", HEADER_TOO_BIG, f"{connector.config.source} spec.limits.headerSize")
    return None


def _hop_count(
    _tier: TierPolicy,
    connector: ConnectorPolicy,
    _session: SessionFacts,
    _access: Access,
    report: HeaderReport,
    _size: int,
) -> Refuse | None:
    limit = connector.config.limits.hop_count
    if limit and report.hops > limit:
        return Refuse("hopCount", TOO_MANY_HOPS, f"{connector.config.source} spec.limits.hopCount")
    return None


def _header_sender(
    tier: TierPolicy,
    connector: ConnectorPolicy,
    session: SessionFacts,
    access: Access,
    report: HeaderReport,
    _size: int,
) -> Refuse | None:
    if not access.any_sender and (
        report.from_malformed
        or any(not _may_appear(tier, session, access, author) for author in report.from_mailboxes)
    ):
        return _missing("headerSender", MAY_NOT_SEND_ON_BEHALF, connector, session, Permission.ACCEPT_ANY_SENDER)
    return None


MESSAGE_RULES: dict[str, MessageRule] = {
    "size": MessageRule(_message_size, lambda connector, access: _is_limited(connector, access)),
    "headerSize": MessageRule(_header_size, lambda connector, _: bool(connector.config.limits.header_size)),
    "hopCount": MessageRule(_hop_count, lambda connector, _: bool(connector.config.limits.hop_count)),
    "headerSender": MessageRule(_header_sender, lambda _, access: not access.any_sender),
}
"""The rules at the end of DATA by name, in the order in which they are asked."""


def _exceeds(connector: ConnectorPolicy, access: Access, size: int) -> bool:
    return size > connector.config.limits.message_size and _is_limited(connector, access)


def _is_limited(connector: ConnectorPolicy, access: Access) -> bool:
    return bool(connector.config.limits.message_size) and not access.bypass_size


def _sender_permission(tier: TierPolicy, session: SessionFacts, access: Access, sender: Mailbox) -> Permission | None:
    """Return the permission that `session` lacks to use `sender` in MAIL FROM; None where it lacks none."""
    authoritative = not access.authoritative_sender and tier.domains.is_authoritative(sender.domain)
    if not authoritative and (access.any_sender or not session.account):
        return None
    if owns(session, sender, tier.domains):
        return None
    return Permission.ACCEPT_AUTHORITATIVE_DOMAIN_SENDER if authoritative else Permission.ACCEPT_ANY_SENDER


def _may_appear(tier: TierPolicy, session: SessionFacts, access: Access, author: Mailbox) -> bool:
    """Tell whether a session without ``SMTP-Accept-Any-Sender`` may name `author` in From or Sender."""
    if session.account:
        return owns(session, author, tier.domains)
    return access.authoritative_sender or not tier.domains.is_authoritative(author.domain)


def _missing(
    rule: str, reply: Reply, connector: ConnectorPolicy, session: SessionFacts, permission: Permission
) -> Refuse:
    return Refuse(rule, reply, because(connector.config, session.principals, permission), permission)
