"""Which SASL mechanisms a session may use (spec.md 2.1)."""

from __future__ import annotations

from postroad_transport.config import AuthMechanism
from postroad_transport.policy.connectors import ConnectorPolicy
from postroad_transport.policy.reply import Reply
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.verdict import Allow, Refuse, Verdict

ENCRYPTION_REQUIRED = Reply(538, "5.7.11", "Encryption required for requested authentication mechanism")
AUTH_NOT_OFFERED = Reply(502, "5.5.1", "Command not implemented")

#: Windows authentication: a password never crosses the wire.
INTEGRATED = frozenset({"GSSAPI", "GSS-SPNEGO", "NTLM"})
#: Useless or dangerous in clear: a bearer token is good for whoever reads it, the others speak of the TLS session.
NEEDS_TLS = frozenset({"XOAUTH2", "OAUTHBEARER", "SCRAM-SHA-256-PLUS", "EXTERNAL"})


def check_auth(connector: ConnectorPolicy, session: SessionFacts, mechanism: str = "PLAIN") -> Verdict:
    """Decide whether the session may log in with a SASL mechanism, before any credentials.

    ``BasicAuthRequireTLS`` qualifies ``BasicAuth``: with both on, TLS is needed. Both stand for whatever carries
    credentials that were given to the user (passwords, SCRAM, bearer tokens); ``Integrated`` for :data:`INTEGRATED`,
    after TLS only where TLS is required anyway (who overhears NTLM can guess at leisure); ``TLS`` for EXTERNAL, where
    the client showed a certificate. An unknown mechanism is judged like a password.
    """
    mechanisms = connector.config.auth_mechanisms
    field = f"{connector.config.source} spec.authMechanisms"
    needs_tls = mechanism in NEEDS_TLS
    if mechanism in INTEGRATED:
        means, needs_tls = AuthMechanism.INTEGRATED, connector.config.require_tls
    elif mechanism == "EXTERNAL":
        means = AuthMechanism.TLS
    elif AuthMechanism.BASIC_AUTH_REQUIRE_TLS in mechanisms:
        means, needs_tls = AuthMechanism.BASIC_AUTH_REQUIRE_TLS, True
    else:
        means = AuthMechanism.BASIC_AUTH
    if means not in mechanisms:
        missing = "password mechanism" if means is AuthMechanism.BASIC_AUTH else str(means)
        return Refuse("authMechanisms", AUTH_NOT_OFFERED, f"{field} holds no {missing}")
    if needs_tls and not session.tls:
        return Refuse("authMechanisms", ENCRYPTION_REQUIRED, f"{field} holds {means}")
    if mechanism == "EXTERNAL" and not session.client_certificate:
        return Refuse("clientCertificates", AUTH_NOT_OFFERED, "the client showed no certificate in the TLS handshake")
    return Allow("authMechanisms", f"{field} holds {means}")
