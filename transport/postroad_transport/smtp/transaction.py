"""MAIL and RCPT: from the bytes of a command to a policy's verdict (RFC 5321 sections 4.1.1.2 and 4.1.1.3)."""

from __future__ import annotations

from postroad_transport.message import Recipient
from postroad_transport.policy.address import (
    AddressSyntaxError,
    Mailbox,
    parse_forward_path,
    parse_parameters,
    parse_reverse_path,
)
from postroad_transport.policy.receive import check_mail, check_recipient
from postroad_transport.policy.reply import Reply
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.verdict import Refuse
from postroad_transport.smtp import replies
from postroad_transport.smtp.extensions import (
    NO_MAIL_PARAMETERS,
    NO_RECIPIENT_PARAMETERS,
    MailParameters,
    mail_parameters,
    recipient_parameters,
)
from postroad_transport.smtp.protocol import SMTP
from postroad_transport.smtp.serving import PreparedConnector, Serving


class TransactionVerbs(SMTP):
    """Mixin with MAIL and RCPT, and the transaction they build."""

    serving: Serving
    connector: PreparedConnector
    facts: SessionFacts
    _messages: int

    def refused(self, verb: str, rule: str, code: str, permission: str = "") -> None:
        """Count a refusal."""
        raise NotImplementedError

    def refusal(self, verb: str, verdict: Refuse, subject: str = "") -> bytes:
        """Count and log a policy's refusal, and return its reply. `subject` is the address it is about."""
        raise NotImplementedError

    def refused_parameter(self, verb: str, reply: Reply) -> bytes:
        """Count a refused address or parameter, and return its reply."""
        raise NotImplementedError

    def _identify(self, sender: Mailbox | None) -> None:
        """Make the session who it proves to be for this sender (spec.md 4)."""
        raise NotImplementedError

    def _reset_transaction(self) -> None:
        self._begun = False
        self._sender: Mailbox | None = None
        self._mail = NO_MAIL_PARAMETERS
        self._recipients: dict[str, Recipient] = {}
        self._recipients_refused = False
        self._chunks: bytearray | None = None
        self._chunks_refused = b""

    def _in_transaction(self) -> bool:
        return self._begun

    def verb_mail(self, argument: bytes) -> bytes:
        """Begin a transaction."""
        facts = self.facts
        if not facts.helo:
            return replies.HELLO_FIRST
        if self._begun:
            return replies.NESTED_MAIL
        if argument[:5].upper() != b"FROM:":
            return replies.MAIL_SYNTAX
        limits = self.connector.config.limits
        if limits.messages_per_connection and self._messages >= limits.messages_per_connection:
            self.refused("MAIL", "messages_per_connection", "421")
            self._ending = True
            return replies.TOO_MANY_MESSAGES
        extensions = self.connector.extensions if self.session.extended_smtp else frozenset()
        parameters: MailParameters | Reply = NO_MAIL_PARAMETERS
        try:
            sender, rest = parse_reverse_path(argument[5:], smtputf8="SMTPUTF8" in extensions)
            if rest:
                parameters = mail_parameters(parse_parameters(rest), extensions)
        except AddressSyntaxError as error:
            return self.refused_parameter("MAIL", Reply(501, "5.1.7", str(error)))
        if isinstance(parameters, Reply):
            return self.refused_parameter("MAIL", parameters)
        if sender is not None and not parameters.smtputf8 and not sender.address.isascii():
            self.refused("MAIL", "smtputf8", "553")
            return replies.NON_ASCII_ADDRESS
        if self.connector.policy.secure_domains:
            self._identify(sender)
        verdict = check_mail(self.serving.tier, self.connector.policy, facts, sender, size=parameters.size)
        if isinstance(verdict, Refuse):
            return self.refusal("MAIL", verdict, sender.address if sender else "")
        self._begun = True
        self._sender = sender
        self._mail = parameters
        return replies.SENDER_OK

    def verb_rcpt(self, argument: bytes) -> bytes:
        """Add a recipient."""
        if not self._begun:
            return replies.MAIL_FIRST
        if self._chunks is not None or self._chunks_refused:
            return replies.CHUNKS_STARTED
        if argument[:3].upper() != b"TO:":
            return replies.RCPT_SYNTAX
        serving = self.serving
        parameters = NO_RECIPIENT_PARAMETERS
        try:
            mailbox, rest = parse_forward_path(argument[3:], smtputf8=self._mail.smtputf8)
            if rest:
                extensions = self.connector.extensions if self.session.extended_smtp else frozenset()
                checked = recipient_parameters(parse_parameters(rest, smtputf8=self._mail.smtputf8), extensions)
                if isinstance(checked, Reply):
                    return self.refused_parameter("RCPT", checked)
                parameters = checked
        except AddressSyntaxError as error:
            if not argument.isascii() and not self._mail.smtputf8:
                self.refused("RCPT", "smtputf8", "553")
                return replies.NON_ASCII_ADDRESS
            return self.refused_parameter("RCPT", Reply(501, "5.1.3", str(error)))
        recipients = self._recipients
        verdict = check_recipient(serving.tier, self.connector.policy, self.facts, mailbox, count=len(recipients))
        if isinstance(verdict, Refuse):
            self._recipients_refused = True
            return self.refusal("RCPT", verdict, mailbox.address)
        given = mailbox.address
        address = serving.tier.domains.resolve(mailbox).address
        if address not in recipients:
            recipients[address] = Recipient(
                address=address,
                original=given if given != address else "",
                notify=parameters.notify,
                orcpt=parameters.orcpt,
            )
        return replies.RECIPIENT_OK
