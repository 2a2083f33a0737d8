"""Why a rule let something pass, in words for explain: the field, the permission or the fact behind it.

Asked only after the rule itself (:mod:`.receive`) has let it pass; nothing is decided here.
"""

from __future__ import annotations

from postroad_transport.config import Permission
from postroad_transport.policy.address import Mailbox
from postroad_transport.policy.connectors import ConnectorPolicy, because
from postroad_transport.policy.domain_security import sender_domain
from postroad_transport.policy.headers import HeaderReport
from postroad_transport.policy.ownership import owns
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.tier import TierPolicy


def mail_passes(
    rule: str,
    tier: TierPolicy,
    connector: ConnectorPolicy,
    session: SessionFacts,
    sender: Mailbox | None,
    size: int | None,
) -> str:
    """Return why `rule`, one of ``MAIL_RULES``, let MAIL pass."""
    match rule:
        case "requireTLS":
            required = "true, and the session is encrypted" if connector.config.require_tls else "false"
            return f"{connector.config.source} spec.requireTLS: {required}"
        case "domainSecurity":
            return _security_passes(connector, session, sender)
        case "submit":
            return because(connector.config, session.principals, Permission.SUBMIT)
        case "sender":
            return _sender_passes(tier, connector, session, sender)
        case _:
            return _size_passes(connector, session, size)


def _security_passes(connector: ConnectorPolicy, session: SessionFacts, sender: Mailbox | None) -> str:
    field = f"{connector.config.source} spec.domainSecurity"
    if session.secured_domain:
        return f"{field}: the client's certificate proves {session.secured_domain}"
    if sender_domain(connector.secure_domains, sender) is not None:
        return f"{field}: the session has authenticated in another way"
    return f"{field}: the sender's domain is not secured"


def message_passes(
    rule: str, connector: ConnectorPolicy, session: SessionFacts, report: HeaderReport, size: int
) -> str:
    """Return why `rule`, one of ``MESSAGE_RULES``, let the message pass."""
    source, limits = connector.config.source, connector.config.limits
    match rule:
        case "size":
            return _size_passes(connector, session, size)
        case "headerSize":
            return f"{source} spec.limits.headerSize: {limits.header_size or 'no limit'}"
        case "hopCount":
            return f"{source} spec.limits.hopCount: {limits.hop_count or 'no limit'}"
        case _:
            if Permission.ACCEPT_ANY_SENDER in connector.permissions(session):
                return because(connector.config, session.principals, Permission.ACCEPT_ANY_SENDER)
            if not report.from_mailboxes:
                return f"{source} the header names no author"
            if session.account:
                return f"{source} spec.authentication: {session.account} owns every author"
            return f"{source} every author may be named by a session without an account"


def _sender_passes(
    tier: TierPolicy, connector: ConnectorPolicy, session: SessionFacts, sender: Mailbox | None
) -> str:
    source = connector.config.source
    if sender is None:
        return f"{source} the null sender is nobody's address"
    if owns(session, sender, tier.domains):
        return f"{source} spec.authentication: {session.account} owns the address"
    if tier.domains.is_authoritative(sender.domain):
        return because(connector.config, session.principals, Permission.ACCEPT_AUTHORITATIVE_DOMAIN_SENDER)
    if Permission.ACCEPT_ANY_SENDER in connector.permissions(session):
        return because(connector.config, session.principals, Permission.ACCEPT_ANY_SENDER)
    return f"{source} the address is in no authoritative domain"


def _size_passes(connector: ConnectorPolicy, session: SessionFacts, size: int | None) -> str:
    limit = connector.config.limits.message_size
    if size is not None and limit and size > limit:
        return because(connector.config, session.principals, Permission.BYPASS_MESSAGE_SIZE_LIMIT)
    return f"{connector.config.source} spec.limits.messageSize: {limit or 'no limit'}"
