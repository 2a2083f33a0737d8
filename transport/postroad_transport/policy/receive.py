"""The rules of receiving, verb by verb (spec.md 1.7). Pure: facts in, verdict out."""

from __future__ import annotations

from postroad_transport.policy.address import Mailbox
from postroad_transport.policy.connectors import ConnectorPolicy
from postroad_transport.policy.headers import HeaderReport
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.tier import TierPolicy
from postroad_transport.policy.verdict import Verdict


def check_login(connector: ConnectorPolicy, session: SessionFacts) -> Verdict:
    """Decide whether the user that just proved who they are may submit here."""
    raise NotImplementedError


def check_mail(
    tier: TierPolicy, connector: ConnectorPolicy, session: SessionFacts, sender: Mailbox | None, *, size: int | None
) -> Verdict:
    """Decide on MAIL FROM; `size` is the SIZE= parameter in bytes."""
    raise NotImplementedError


def check_recipient(
    tier: TierPolicy, connector: ConnectorPolicy, session: SessionFacts, recipient: Mailbox, *, count: int
) -> Verdict:
    """Decide on RCPT TO; `count` is the number of recipients already taken."""
    raise NotImplementedError


def check_message(
    tier: TierPolicy, connector: ConnectorPolicy, session: SessionFacts, report: HeaderReport, *, size: int
) -> Verdict:
    """Decide at the end of DATA; `size` is in bytes, as received."""
    raise NotImplementedError
