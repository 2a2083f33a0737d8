"""Domain security on the receiving side: what the client's certificate proves, looked at when MAIL asks (spec.md 4).

Only sessions on a domain-secured connector whose client presented a certificate come here, and only where the sender
is in a secured domain, or is null, is anything verified: a certificate that means nothing here costs and changes
nothing.
"""

from __future__ import annotations

from postroad_transport.policy.address import AddressSyntaxError, Mailbox, parse_reverse_path
from postroad_transport.policy.domain_security import PARTNER, sender_domain, sender_proof, transaction_identity
from postroad_transport.policy.session import ANONYMOUS
from postroad_transport.smtp.transaction import TransactionVerbs

PROOF_SECONDS = 300.0
"""How long a session's proof holds; what is flawed is looked at again at each MAIL."""


class PartnerVerbs(TransactionVerbs):
    """Mixin with MAIL of sessions that may be partners'."""

    _proved_at: float = 0.0

    def _presented(self) -> list[bytes]:
        """Return the certificates that the client has presented where its connector asks for one, in DER."""
        if not self.connector.asks_for_certificate or self.session.ssl is None:
            return []
        from postroad_transport.tls.peer import presented_chain  # here, since few connectors need OpenSSL's bindings

        return presented_chain(self.session.ssl["ssl_object"])

    async def mail_of_partner(self, argument: bytes) -> bytes:
        """Begin a transaction once it is known what the client's certificate proves."""
        if self._may_need_proof(argument):
            await self._prove()
        return self.verb_mail(argument)

    def _may_need_proof(self, argument: bytes) -> bool:
        others = self.facts.principals not in (ANONYMOUS, PARTNER)
        if not self.connector.policy.secure_domains or others or self._begun or argument[:5].upper() != b"FROM:":
            return False
        try:
            sender, _ = parse_reverse_path(argument[5:], smtputf8=True)
        except AddressSyntaxError:
            return False
        return sender is None or sender_domain(self.connector.policy.secure_domains, sender) is not None

    async def _prove(self) -> None:
        from postroad_transport.tls.peer import verify_peer

        facts, serving = self.facts, self.serving
        if (
            facts.proof is not None
            and facts.proof.flaw is None
            and self.loop.time() < self._proved_at + PROOF_SECONDS
        ):
            return
        config = serving.tier.config
        facts.proof = await verify_peer(
            self._presented(), self.connector.config.tls_trust, config.trust_bundle, serving.crls, clock=serving.clock
        )
        self._proved_at = self.loop.time()

    def _identify(self, sender: Mailbox | None) -> None:
        """Make the session the partner that its certificate proves it to be for this transaction, and count."""
        facts, policy = self.facts, self.connector.policy
        facts.principals, facts.secured_domain = transaction_identity(policy.secure_domains, facts, sender)
        domain = sender_domain(policy.secure_domains, sender)
        if facts.secured_domain:
            self._count_proof(facts.secured_domain, "ok")
        elif domain is not None and facts.principals == ANONYMOUS:
            self._count_proof(domain.domain, str(sender_proof(domain, facts).flaw))

    def _count_proof(self, domain: str, result: str) -> None:
        metrics, name = self.serving.metrics, self.connector.config.name
        metrics.domain_security.labels("in", name, domain, result).inc()
        if result == "ok":
            metrics.domain_security_success.labels("in", name, domain).set(self.serving.clock())
