"""Kerberos, NTLM and client certificates of receive connectors: compiled, checked, warned of."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from compile_kit import compiled, config_map, rconn, read, secret, tcert, verdict, warned
from hypothesis import given
from hypothesis import strategies as st
from keytab_kit import entry, keytab

from postroad_operator.certificates.authority import create_authority
from postroad_operator.compile import Compilation, Reason, TierSettings
from postroad_operator.compile.keytab import KeytabEntry, KeytabError, read_keytab
from postroad_transport import config
from postroad_transport.config import CertificateAccount, CertificateField, Role

NOW = 1_790_000_000.0
NT_HASH = "a4f49c406510bdcab6824ee7c30fd852"


def keys(content: bytes) -> Any:
    data = {"keytab": base64.b64encode(content).decode()}
    return read({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "data": data})


KERBEROS = {"keytabSecretRef": {"name": "keys", "key": "keytab"}}
NTLM = {"name": "nt", "key": "hashes"}
CERTIFICATES = {"caBundleConfigMapRef": {"name": "ca", "key": "ca.pem"}}


def connector(
    *objects: Any, mechanisms: tuple[str, ...] = ("TLS", "Integrated"), **authentication: Any
) -> Compilation:
    return compiled(
        rconn(authMechanisms=list(mechanisms), requireTLS="TLS" in mechanisms, authentication=authentication),
        tcert(),
        *objects,
    )


def authentication(compilation: Compilation) -> config.Authentication:
    (part,) = compilation.config.receive_connectors
    return part.authentication


def test_keytab_becomes_a_secret_file_with_the_realms_given():
    content = keytab(entry("smtp/mail.example"))
    made = connector(keys(content), kerberos=KERBEROS | {"realms": ["B.TEST"], "addressTemplate": "{account}@b.test"})
    kerberos = authentication(made).kerberos
    assert (kerberos.realms, kerberos.address_template) == (("B.TEST",), "{account}@b.test")
    assert made.secret_files[kerberos.keytab_file] == content
    assert verdict(made, "r").warnings == ()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no keytab"),
        (b"-----BEGIN", "is no keytab"),
        (keytab(), "holds no key, but nothing of smtp/"),
        (keytab(entry("HTTP/mail.example")), "holds HTTP/mail.example@A.TEST, but nothing of smtp/"),
        (keytab(entry("smtp/x"))[:-4], "cut short"),
    ],
)
def test_keytab_that_lets_nobody_in_refuses_the_connector(content, says):
    made = verdict(connector(keys(content), kerberos=KERBEROS), "r")
    assert (made.accepted, made.reason) == (False, Reason.INVALID_REF)
    assert says in made.message


def test_keytab_with_weak_keys_alone_is_warned_of():
    assert warned(connector(keys(keytab(entry("smtp/x", kind=23))), kerberos=KERBEROS), "r", "weak types")
    strong = keytab(entry("smtp/x", kind=23), entry("SMTP/x", kind=20))
    assert not warned(connector(keys(strong), kerberos=KERBEROS), "r", "weak types")


LEGACY = {"legacyServers": ["host/legacy1.mail.example@A.TEST", "LEGACY2$@B.TEST"]}


def legacy_connector(*mechanisms: str, settings: TierSettings | None = None, **spec: Any) -> Compilation:
    return compiled(
        rconn(authMechanisms=list(mechanisms), authentication={"kerberos": KERBEROS | LEGACY}, **spec),
        tcert(),
        keys(keytab(entry("smtp/mail.example"))),
        settings=settings,
    )


def test_legacy_servers_are_taken_over_with_exchangeserver_alone():
    made = legacy_connector("ExchangeServer", permissionGroups=["ExchangeLegacyServers"])
    assert authentication(made).kerberos.legacy_servers == tuple(LEGACY["legacyServers"])
    assert not warned(made, "r", "legacyServers")
    assert not warned(made, "r", "Integrated")


def test_legacy_servers_that_come_to_nothing_are_warned_of():
    assert warned(legacy_connector("TLS"), "r", "X-EXPS is not offered: add ExchangeServer")
    for groups in ([], ["ExchangeServers"]):
        assert warned(legacy_connector("ExchangeServer", permissionGroups=groups), "r", "they may not submit mail")
    grant = {"principal": "LegacyExchangeServers", "permissions": ["SMTP-Submit"]}
    assert not warned(legacy_connector("ExchangeServer", grants=[grant]), "r", "legacyServers")


def test_on_an_edge_tier_legacy_servers_have_what_grants_give_them_and_no_group():
    edge = TierSettings(hostname="mx.example", role=Role.EDGE)
    assert warned(legacy_connector("ExchangeServer", usage="Internal", settings=edge), "r", "they may not submit")
    refused = legacy_connector("ExchangeServer", permissionGroups=["ExchangeLegacyServers"], settings=edge)
    assert verdict(refused, "r").reason is Reason.NOT_AVAILABLE


def test_holes_and_long_versions_in_a_keytab_are_read():
    hole = struct.pack(">i", -6) + b"\0" * 6
    content = keytab(entry("smtp/a/b"), hole, entry("x", "B", version=300, kind=17))
    assert read_keytab(content) == [KeytabEntry("smtp/a/b", "A.TEST", 3, 18), KeytabEntry("x", "B", 300, 17)]


@given(st.binary(max_size=200))
def test_no_content_breaks_the_reader_of_keytabs(content):
    for data in (content, b"\x05\x02" + content, b"\x05\x01" + content):
        try:
            read_keytab(data)
        except KeytabError:
            continue


def test_nt_hashes_become_a_secret_file_and_bad_lines_are_warned_of_without_their_secrets():
    lines = f"# team\n\nalice:{NT_HASH}\nbob:hunter2\nALICE:{NT_HASH}\nc:1:{'X' * 32}:{NT_HASH}:[U]:LCT-0:\n"
    made = connector(secret("nt", hashes=lines), ntlmSecretRef=NTLM)
    assert made.secret_files[authentication(made).nt_hashes_file] == lines.encode()
    warnings = verdict(made, "r").warnings
    assert [warning.partition(": ")[2] for warning in warnings] == [
        "line 4 is passed over: not user:NTHASH",
        "line 5 is passed over: the user of line 3 again",
    ]
    assert "hunter2" not in str(warnings)


@pytest.mark.parametrize("lines", ["", "# nobody", "alice:secret", f":{NT_HASH}"])
def test_nt_hashes_of_nobody_refuse_the_connector(lines):
    made = verdict(connector(secret("nt", hashes=lines), ntlmSecretRef=NTLM), "r")
    assert (made.accepted, made.reason) == (False, Reason.INVALID_REF)


def test_compiler_and_server_pass_over_the_same_lines():
    from postroad_transport.auth.ntlm import parse_nt_accounts

    lines = f"alice:{NT_HASH}\nbob:x\n:{NT_HASH}\nAlice:{NT_HASH}\nd:1:{'X' * 32}:{NT_HASH}:[U]:LCT-0:\n"
    made = connector(secret("nt", hashes=lines), ntlmSecretRef=NTLM)
    accounts = parse_nt_accounts(lines.encode())
    assert len(accounts) == 2
    assert len(accounts.problems) == len(verdict(made, "r").warnings) == 3


def test_client_certificates_become_a_map_in_one_form():
    bundle = create_authority("CA", NOW).trust_pem.decode()
    thumbprint = ":".join(["AB"] * 32)
    accounts = [
        {"thumbprint": thumbprint, "account": "printer", "addresses": ["Printer@A.example"]},
        {"email": "Bob@A.example", "account": "bob"},
    ]
    made = connector(
        config_map("ca", **{"ca.pem": bundle}),
        mechanisms=("TLS",),
        clientCertificates=CERTIFICATES | {"accounts": accounts},
    )
    found = authentication(made).client_certificates
    assert (found.trust.authorities, found.trust.system) == (bundle, False)
    assert found.account_from == (CertificateField.EMAIL,)
    assert found.accounts == (
        CertificateAccount(
            field=CertificateField.THUMBPRINT, value="ab" * 32, account="printer", addresses=("printer@a.example",)
        ),
        CertificateAccount(field=CertificateField.EMAIL, value="bob@a.example", account="bob"),
    )


@pytest.mark.parametrize("bundle", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_client_certificates_without_an_authority_refuse_the_connector(bundle):
    made = verdict(
        connector(config_map("ca", **{"ca.pem": bundle}), mechanisms=("TLS",), clientCertificates=CERTIFICATES), "r"
    )
    assert (made.accepted, made.reason) == (False, Reason.INVALID_REF)


def test_what_can_never_be_used_is_warned_of():
    hashes = secret("nt", hashes=f"alice:{NT_HASH}")
    assert warned(connector(), "r", "Integrated offers nothing")
    assert warned(connector(hashes, mechanisms=("TLS",), ntlmSecretRef=NTLM), "r", "add Integrated")
    assert warned(connector(hashes, mechanisms=("Integrated",), ntlmSecretRef=NTLM), "r", "NTLM in clear")
    bundle = config_map("ca", **{"ca.pem": create_authority("CA", NOW).trust_pem.decode()})
    assert warned(connector(bundle, mechanisms=(), clientCertificates=CERTIFICATES), "r", "none is asked for")
