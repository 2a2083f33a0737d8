"""Which mechanisms Integrated offers (spec.md 2.1)."""

from __future__ import annotations

import pytest

from postroad_transport.auth import kerberos
from postroad_transport.auth.authenticator import build
from postroad_transport.auth.exchange import Channel
from postroad_transport.auth.sources import Sources
from postroad_transport.config import Authentication, AuthMechanism, Binding, Kerberos, ReceiveConnector
from postroad_transport.config.files import ConfigError

SECRETS = {"nt": b"alice:a4f49c406510bdcab6824ee7c30fd852\nbob:x\n", "keytab": b"\x05\x02"}
NTLM = {"nt_hashes_file": "nt"}
KERBEROS = {"kerberos": Kerberos(keytab_file="keytab")}


def connector(*mechanisms: AuthMechanism, **authentication: object) -> ReceiveConnector:
    return ReceiveConnector(
        name="r",
        source="ReceiveConnector/default/r",
        bindings=(Binding(port=25),),
        remote_ip_ranges=("0.0.0.0/0",),
        fqdn="mail.example",
        auth_mechanisms=mechanisms,
        authentication=Authentication(**authentication),
    )


@pytest.fixture
async def sources(monkeypatch):
    monkeypatch.setattr(kerberos, "load", lambda: None)
    made = Sources()
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("authentication", "names"),
    [({}, ()), (NTLM, ("NTLM",)), (KERBEROS, ("GSSAPI",)), (NTLM | KERBEROS, ("NTLM", "GSSAPI"))],
)
async def test_each_mechanism_is_offered_where_it_has_accounts_and_only_with_integrated(
    sources, authentication, names
):
    integrated = connector(AuthMechanism.INTEGRATED, **authentication)
    assert build(integrated, SECRETS.__getitem__, sources.lease()).names == names
    assert build(connector(AuthMechanism.TLS, **authentication), {}.__getitem__, sources.lease()).names == ()


@pytest.mark.parametrize(
    ("mechanisms", "names"),
    [
        ((AuthMechanism.EXCHANGE_SERVER,), ("X-EXPS GSSAPI",)),
        ((AuthMechanism.INTEGRATED, AuthMechanism.EXCHANGE_SERVER), ("GSSAPI", "X-EXPS GSSAPI")),
        ((AuthMechanism.INTEGRATED,), ("GSSAPI",)),
        ((AuthMechanism.TLS,), ()),
    ],
)
async def test_legacy_servers_have_a_mechanism_of_their_own_with_exchangeserver(sources, mechanisms, names):
    kerberos = Kerberos(keytab_file="keytab", legacy_servers=("LEGACY1$@A.TEST",))
    made = build(connector(*mechanisms, kerberos=kerberos), SECRETS.__getitem__, sources.lease())
    assert made.names == names
    assert len(sources) == bool(names)


async def test_keytab_is_shared_by_all_that_are_configured_alike_and_let_go_with_the_last(sources):
    held = [build(connector(AuthMechanism.INTEGRATED, **KERBEROS), SECRETS.__getitem__, sources.lease())]
    held.append(build(connector(AuthMechanism.INTEGRATED, **KERBEROS), SECRETS.__getitem__, sources.lease()))
    assert len(sources) == 1
    held.clear()
    assert len(sources) == 0


async def test_missing_kerberos_library_is_a_problem_told_and_the_rest_is_served(sources, monkeypatch):
    def missing() -> None:
        raise ConfigError("Kerberos needs the extra kerberos")

    monkeypatch.setattr(kerberos, "load", missing)
    made = build(connector(AuthMechanism.INTEGRATED, **NTLM, **KERBEROS), SECRETS.__getitem__, sources.lease())
    assert made.names == ("NTLM",)
    assert made.problems == (
        "line 2: expected user:NTHASH, with 32 hexadecimal digits",
        "Kerberos needs the extra kerberos",
    )
    assert made.begin("NTLM", Channel("192.0.2.1"))
