"""X-ANONYMOUSTLS: a server of the organisation proves itself with its certificate (direct trust, spec.md 2.1, 4).

A certificate that the trusted store does not hold fails in the handshake, with an alert; one that only an authority
in the store vouches for gets a 421. Neither leaves a session behind, and both are temporary to the client: a
subscription that is behind delays mail and returns none.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable

from aiosmtpd.smtp import TLSSetupException

from postroad_transport.config import TlsMode
from postroad_transport.policy.certificate import thumbprint
from postroad_transport.policy.direct_trust import VERB, check_anonymous_tls
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.verdict import Refuse
from postroad_transport.smtp import replies
from postroad_transport.smtp.authentication import Authentication
from postroad_transport.smtp.sessions import Sessions
from postroad_transport.tls.direct_trust import UNKNOWN_CERTIFICATE, TrustContexts, trust_failure

_OK = "ok"


class AnonymousTls(Authentication):
    """Mixin with X-ANONYMOUSTLS."""

    facts: SessionFacts
    mode: TlsMode
    _sessions: Sessions

    async def _upgrade(self, context: ssl.SSLContext) -> bytes:
        """Say 220, shake hands as server, and begin the session anew. Raises TLSSetupException."""
        raise NotImplementedError

    def verb_x_anonymoustls(self, argument: bytes) -> bytes | Awaitable[bytes]:
        """Take ``X-ANONYMOUSTLS``."""
        if argument:
            return replies.NO_ARGUMENT
        connector = self.connector
        verdict = check_anonymous_tls(connector.config, self.serving.tier.config, self.mode, tls=self.facts.tls)
        if isinstance(verdict, Refuse):
            return self.refusal(VERB, verdict)
        if connector.server_trust is None:
            return replies.LOCAL_PROBLEM
        return self._authenticate_server(connector.server_trust)

    async def _authenticate_server(self, trust: TrustContexts) -> bytes:
        try:
            reply = await self._upgrade(trust.server)
        except TLSSetupException as error:
            self._refuse_server(trust_failure(error.__cause__), "")
            raise
        presented = self.transport.get_extra_info("ssl_object").getpeercert(True)
        principal = trust.principal(presented)
        if not principal:
            self._refuse_server(UNKNOWN_CERTIFICATE, thumbprint(presented))
            self._ending = True
            return replies.UNKNOWN_SERVER
        self.facts.principals = frozenset({principal})
        self.facts.auth_mechanism = VERB
        self.serving.metrics.direct_trust_handshakes.labels("in", principal, _OK).inc()
        return reply

    def _refuse_server(self, reason: str, presented: str) -> None:
        self._sessions.server_refused(self.connector.config.name, self.facts.remote_ip, reason, presented)
