"""Which SASL mechanism is allowed on which session (spec.md 2.1)."""

from __future__ import annotations

import pytest

from postroad_transport.config import Authentication, AuthMechanism, Binding, Kerberos, ReceiveConnector
from postroad_transport.policy.authentication import (
    AUTH_NOT_OFFERED,
    ENCRYPTION_REQUIRED,
    EXPS_GSSAPI,
    EXPS_NOT_OFFERED,
    check_auth,
)
from postroad_transport.policy.connectors import ConnectorPolicy
from postroad_transport.policy.reply import Reply
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.verdict import Refuse

TLS, INTEGRATED, BASIC = AuthMechanism.TLS, AuthMechanism.INTEGRATED, AuthMechanism.BASIC_AUTH


def verdict(
    mechanisms: tuple[AuthMechanism, ...],
    name: str,
    *,
    tls: bool = True,
    require_tls: bool = False,
    certificate: bool = False,
    legacy: tuple[str, ...] = (),
) -> Reply | None:
    connector = ReceiveConnector(
        name="r",
        source="ReceiveConnector/default/r",
        bindings=(Binding(port=25),),
        remote_ip_ranges=("0.0.0.0/0",),
        fqdn="mail.example",
        auth_mechanisms=mechanisms,
        require_tls=require_tls,
        authentication=Authentication(kerberos=Kerberos(keytab_file="k", legacy_servers=legacy)),
    )
    facts = SessionFacts("192.0.2.1", 25, tls=tls, client_certificate=certificate)
    found = check_auth(ConnectorPolicy(connector), facts, name)
    return found.reply if isinstance(found, Refuse) else None


@pytest.mark.parametrize("name", ["NTLM", "GSSAPI"])
def test_integrated_is_offered_in_clear_unless_tls_is_required(name):
    assert verdict((INTEGRATED,), name, tls=False) is None
    assert verdict((TLS, INTEGRATED), name, tls=False) is None
    assert verdict((TLS, INTEGRATED), name, tls=False, require_tls=True) == ENCRYPTION_REQUIRED
    assert verdict((TLS, INTEGRATED), name, require_tls=True) is None


@pytest.mark.parametrize(("mechanisms", "name"), [((TLS, BASIC), "NTLM"), ((TLS, INTEGRATED), "PLAIN")])
def test_integrated_and_passwords_do_not_stand_for_each_other(mechanisms, name):
    assert verdict(mechanisms, name) == AUTH_NOT_OFFERED


def test_x_exps_is_exchange_server_s_where_legacy_servers_are_listed():
    exchange, listed = (TLS, AuthMechanism.EXCHANGE_SERVER), ("LEGACY1$@A.TEST",)
    assert verdict(exchange, EXPS_GSSAPI, tls=False, legacy=listed) is None
    assert verdict(exchange, EXPS_GSSAPI, tls=False, legacy=listed, require_tls=True) == ENCRYPTION_REQUIRED
    assert verdict(exchange, EXPS_GSSAPI, legacy=listed, require_tls=True) is None
    assert verdict(exchange, EXPS_GSSAPI) == EXPS_NOT_OFFERED
    assert verdict((TLS, INTEGRATED, BASIC), EXPS_GSSAPI, legacy=listed) == EXPS_NOT_OFFERED
    assert verdict(exchange, "GSSAPI", legacy=listed) == AUTH_NOT_OFFERED


def test_external_needs_tls_and_a_certificate():
    assert verdict((TLS,), "EXTERNAL", certificate=True) is None
    assert verdict((TLS,), "EXTERNAL") == AUTH_NOT_OFFERED
    assert verdict((TLS,), "EXTERNAL", tls=False) == ENCRYPTION_REQUIRED
    assert verdict((BASIC,), "EXTERNAL", certificate=True) == AUTH_NOT_OFFERED
