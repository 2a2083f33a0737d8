"""Domain security: mutual TLS enforced for partners' domains (spec.md 4). Pure: what TLS proved in, verdict out.

The names that count are those in the certificate's subject alternative names. Towards a partner the certificate must
be for the recipients' domain and not for the mail exchanger, whose name only the DNS vouches for; from a partner it
must be for the sender's domain. Where partners' certificates hold other names, the connector lists those.

Whatever is wrong is temporary: mail waits, with the reason in sight, and comes through once the cause is gone.
"""

from __future__ import annotations

from postroad_transport.config import Principal, ReceiveConnector, SecureDomain, SendConnector
from postroad_transport.policy.address import Mailbox
from postroad_transport.policy.proof import NO_CERTIFICATE, NO_TLS, Flaw, PeerProof, for_names
from postroad_transport.policy.reply import Reply
from postroad_transport.policy.session import ANONYMOUS, SessionFacts
from postroad_transport.policy.verdict import Refuse

PARTNER = frozenset({str(Principal.PARTNER_SERVERS)})


def secured_domains(connector: ReceiveConnector | SendConnector) -> dict[str, SecureDomain]:
    """Return the connector's secured domains by name."""
    return {domain.domain: domain for domain in connector.secure_domains}


# Receiving


def sender_domain(domains: dict[str, SecureDomain], sender: Mailbox | None) -> SecureDomain | None:
    """Return the secured domain that `sender` is in, if any. Subdomains are domains of their own."""
    return None if sender is None else domains.get(sender.ascii_domain)


def transaction_identity(
    domains: dict[str, SecureDomain], session: SessionFacts, sender: Mailbox | None
) -> tuple[frozenset[str], str]:
    """Return the principals of the transaction that MAIL begins, and the domain that is proved for it, or none.

    A certificate proves the domains that it names and no more, so each transaction is judged by itself. Who has
    authenticated in another way, a user or a server of the organisation, is left what they are. The null
    reverse-path stands for any domain that the certificate proves: partners' bounces are partners' mail.
    """
    principals = ANONYMOUS if session.principals == PARTNER else session.principals
    if principals != ANONYMOUS or session.proof is None:
        return principals, ""
    own = sender_domain(domains, sender)
    for domain in domains.values() if sender is None else () if own is None else (own,):
        if for_names(session.proof, domain.names).flaw is None:
            return PARTNER, domain.domain
    return principals, ""


def check_sender(
    connector: ReceiveConnector,
    domains: dict[str, SecureDomain],
    session: SessionFacts,
    sender: Mailbox | None,
    *,
    may_submit: bool,
) -> Refuse | None:
    """Refuse for now what should be proved and is not; `session` is what :func:`transaction_identity` made it."""
    if session.principals != ANONYMOUS:
        return None
    domain = sender_domain(domains, sender)
    if domain is None:
        # A partner's bounce, where only partners may submit, is not to fail for good over a list that is not there.
        if sender is None and not may_submit and session.proof is not None and session.proof.flaw is not None:
            return _refusal(connector, "This mail", session.proof)
        return None
    return _refusal(connector, f"Mail from {domain.domain}", sender_proof(domain, session))


def sender_proof(domain: SecureDomain, session: SessionFacts) -> PeerProof:
    """Return what the session proves of `domain`."""
    if not session.tls:
        return NO_TLS
    return for_names(session.proof or NO_CERTIFICATE, domain.names)


def _refusal(connector: ReceiveConnector, what: str, proof: PeerProof) -> Refuse:
    reply = Reply(
        451,
        "4.7.10" if proof.flaw is Flaw.NO_TLS else "4.7.5",
        f"{what} needs mutual TLS: {proof.detail}",
    )
    return Refuse("domainSecurity", reply, f"{connector.source} spec.domainSecurity: {proof.flaw}")
