"""Which SASL mechanisms a session may use, after AUTH and after X-EXPS (spec.md 2.1)."""

from __future__ import annotations

from postroad_transport.config import AuthMechanism, ReceiveConnector
from postroad_transport.policy.connectors import ConnectorPolicy
from postroad_transport.policy.reply import Reply
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.verdict import Allow, Refuse, Verdict

ENCRYPTION_REQUIRED = Reply(538, "5.7.11", "Encryption required for requested authentication mechanism")
AUTH_NOT_OFFERED = Reply(502, "5.5.1", "Command not implemented")
EXPS_NOT_OFFERED = Reply(502, "5.5.1", "X-EXPS is not offered")

EXPS = "X-EXPS"
"""The command by which legacy servers log in: AUTH by another name."""
EXPS_GSSAPI = f"{EXPS} GSSAPI"
"""Its mechanism, by the name that it has in EHLO, in metrics, and in the stamps of what comes by it."""

#: Windows authentication: a password never crosses the wire.
INTEGRATED = frozenset({"GSSAPI", "GSS-SPNEGO", "NTLM"})
#: Bearer tokens: what a session may send as is what their issuer says of them.
TOKENS = frozenset({"XOAUTH2", "OAUTHBEARER"})
#: Useless or dangerous in clear: a bearer token is good for whoever reads it, the others speak of the TLS session.
NEEDS_TLS = TOKENS | {"SCRAM-SHA-256-PLUS", "EXTERNAL"}


def check_auth(connector: ConnectorPolicy, session: SessionFacts, mechanism: str = "PLAIN") -> Verdict:
    """Decide whether the session may log in with a SASL mechanism, before any credentials.

    ``BasicAuthRequireTLS`` qualifies ``BasicAuth``: with both on, TLS is needed. Both stand for whatever carries
    credentials that were given to the user (passwords, SCRAM, bearer tokens); ``Integrated`` for :data:`INTEGRATED`,
    after TLS only where TLS is required anyway (who overhears NTLM can guess at leisure); ``TLS`` for EXTERNAL, where
    the client showed a certificate. An unknown mechanism is judged like a password. One of ``X-EXPS`` has that before
    its name: ``ExchangeServer`` stands for it where legacy servers are listed, after TLS as with ``Integrated``.
    """
    if mechanism.startswith(f"{EXPS} "):
        return _check_exps(connector.config, session)
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


def legacy_servers(connector: ReceiveConnector) -> frozenset[str]:
    """Return the Kerberos principals that may log in as legacy servers; none unless ``ExchangeServer`` is on."""
    kerberos = connector.authentication.kerberos
    if kerberos is None or AuthMechanism.EXCHANGE_SERVER not in connector.auth_mechanisms:
        return frozenset()
    return frozenset(kerberos.legacy_servers)


def _check_exps(connector: ReceiveConnector, session: SessionFacts) -> Verdict:
    source = connector.source
    if AuthMechanism.EXCHANGE_SERVER not in connector.auth_mechanisms:
        field = f"{source} spec.authMechanisms holds no {AuthMechanism.EXCHANGE_SERVER}"
        return Refuse("authMechanisms", EXPS_NOT_OFFERED, field)
    field = f"{source} spec.authentication.kerberos.legacyServers"
    if not legacy_servers(connector):
        return Refuse("legacyServers", EXPS_NOT_OFFERED, f"{field} lists none")
    if connector.require_tls and not session.tls:
        return Refuse("requireTLS", ENCRYPTION_REQUIRED, f"{source} spec.requireTLS")
    return Allow("legacyServers", f"{field} lists who it is for")
