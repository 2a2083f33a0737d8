"""LDAP, OAuth 2 and service accounts of receive connectors, compiled."""

from __future__ import annotations

import json

import pytest
from compile_kit import compiled, config_map, rconn, secret, verdict, warned
from hypothesis import given
from hypothesis import strategies as st

from postroad_operator.certificates import create_authority
from postroad_operator.compile import Reason
from postroad_operator.resources import Invalid
from postroad_transport.config.directories import LdapServer, LdapTls
from postroad_transport.config.files import encode

SUBMISSION = {
    "authMechanisms": ["TLS", "BasicAuthRequireTLS"],
    "permissionGroups": ["ExchangeUsers"],
}
LDAP = {"urls": ["ldap://ldap.example", "ldaps://LDAP2.example:1636"], "baseDN": "dc=example"}
OAUTH2 = {"issuer": "https://id.example", "audiences": ["mail"]}
BIND = {"bindDN": "cn=search", "bindPasswordSecretRef": {"name": "s", "key": "password"}}
BUNDLE = {"caBundleConfigMapRef": {"name": "ca", "key": "ca.crt"}}
ACCOUNTS = {
    "audience": "mail",
    "allow": [{"namespace": "shop", "name": "orders", "addresses": ["Orders@Example.com"]}],
}


def compile_with(*objects, **sources):
    compilation = compiled(rconn(**SUBMISSION, authentication=sources), *objects)
    (part,) = compilation.config.receive_connectors or (None,)
    return compilation, part and part.authentication


def refused(*objects, **sources) -> tuple[Reason, str]:
    compilation, part = compile_with(*objects, **sources)
    assert part is None
    found = verdict(compilation, "r")
    return found.reason, found.message


def test_urls_become_servers_and_starttls_is_what_ldap_means() -> None:
    compilation, part = compile_with(ldap=LDAP)
    assert not warned(compilation, "r", "spec.authentication")
    assert part.ldap.servers == (
        LdapServer(host="ldap.example", port=389, tls=LdapTls.STARTTLS),
        LdapServer(host="ldap2.example", port=1636, tls=LdapTls.LDAPS),
    )
    assert (part.has_passwords, part.has_tokens, part.has_unlisted) == (True, False, True)


def test_passwords_in_clear_need_a_field_and_get_a_warning() -> None:
    compilation, part = compile_with(ldap=LDAP | {"allowCleartext": True})
    assert [server.tls for server in part.ldap.servers] == [LdapTls.CLEAR, LdapTls.LDAPS]
    assert warned(compilation, "r", "spec.authentication.ldap.allowCleartext: passwords cross the network in clear")
    compilation, _ = compile_with(ldap=LDAP | {"allowCleartext": True, "urls": ["ldaps://a.example"]})
    assert warned(compilation, "r", "allowCleartext: not needed")


def test_the_password_to_search_with_goes_to_a_secret_file_and_nowhere_else() -> None:
    compilation, part = compile_with(secret("s", password="hush-hush\n"), ldap=LDAP | BIND)
    content = compilation.secret_files[part.ldap.credentials_file]
    assert json.loads(content) == {"username": "cn=search", "password": "hush-hush"}
    assert b"hush-hush" not in encode(compilation.config)
    assert "hush-hush" not in repr(compilation.verdicts)


def test_another_password_makes_another_file() -> None:
    names = {
        compile_with(secret("s", password=word), ldap=LDAP | BIND)[1].ldap.credentials_file for word in ("one", "two")
    }
    assert len(names) == 2


@pytest.mark.parametrize(
    ("objects", "sources", "reason", "text"),
    [
        ((), {"ldap": LDAP | BIND}, Reason.REF_NOT_FOUND, "ldap.bindPasswordSecretRef: there is no Secret s"),
        ((secret("s", other="x"),), {"ldap": LDAP | BIND}, Reason.REF_NOT_FOUND, "Secret s has no key password"),
        ((secret("s", password="\n"),), {"ldap": LDAP | BIND}, Reason.INVALID_REF, "the password is empty"),
        ((), {"ldap": LDAP | {"filter": "(uid={user}"}}, Reason.INVALID, "ldap.filter: is no search filter"),
        ((), {"ldap": LDAP | {"filter": "(uid={user})(a={b})"}}, Reason.INVALID, "{b} stands for nothing"),
        ((), {"ldap": LDAP | BUNDLE}, Reason.REF_NOT_FOUND, "ldap.caBundleConfigMapRef: there is no ConfigMap ca"),
        (
            (config_map("ca", **{"ca.crt": "no certificate"}),),
            {"oauth2": OAUTH2 | BUNDLE},
            Reason.INVALID_REF,
            "oauth2.caBundleConfigMapRef: ConfigMap ca key ca.crt holds no PEM certificate",
        ),
    ],
)
def test_what_cannot_be_used_refuses_the_connector_and_says_which_field(objects, sources, reason, text) -> None:
    found, message = refused(*objects, **sources)
    assert found is reason
    assert text in message


def test_a_ca_bundle_is_part_of_the_configuration() -> None:
    pem = create_authority("test", now=1_790_000_000.0).trust_pem.decode()
    bundle = config_map("ca", **{"ca.crt": pem})
    _, part = compile_with(bundle, ldap=LDAP | BUNDLE, oauth2=OAUTH2 | BUNDLE)
    assert part.ldap.ca_bundle == part.oauth2.ca_bundle == pem


def test_an_issuer_compiles_with_safe_defaults() -> None:
    compilation, part = compile_with(oauth2=OAUTH2)
    assert not warned(compilation, "r", "spec.authentication")
    assert part.oauth2.algorithms == ("RS256", "PS256", "ES256", "EdDSA")
    assert part.oauth2.configuration_url == "https://id.example/.well-known/openid-configuration"
    _, part = compile_with(oauth2=OAUTH2 | {"jwksURL": "https://id.example/keys"})
    assert part.oauth2.configuration_url == ""


def test_service_accounts_compile_with_lower_case_addresses() -> None:
    compilation, part = compile_with(serviceAccounts=ACCOUNTS)
    assert not warned(compilation, "r", "spec.authentication")
    (entry,) = part.service_accounts.allow
    assert (entry.namespace, entry.name, entry.addresses) == ("shop", "orders", ("orders@example.com",))
    assert (part.has_passwords, part.has_tokens) == (True, True)


@pytest.mark.parametrize("sources", [{"ldap": LDAP}, {"oauth2": OAUTH2}, {"serviceAccounts": ACCOUNTS}])
def test_a_source_that_no_mechanism_uses_gets_a_warning(sources) -> None:
    compilation = compiled(rconn(authMechanisms=["TLS"], authentication=sources))
    assert warned(compilation, "r", "spec.authentication: AUTH is not offered: add BasicAuthRequireTLS")


@pytest.mark.parametrize("sources", [{"oauth2": OAUTH2}, {"serviceAccounts": ACCOUNTS}])
def test_tokens_without_tls_get_a_warning(sources) -> None:
    compilation = compiled(rconn(authMechanisms=["BasicAuth"], authentication=sources))
    assert warned(compilation, "r", "tokens are taken after TLS only")


def test_a_limit_that_is_over_before_one_answer_gets_a_warning() -> None:
    compilation, _ = compile_with(ldap=LDAP | {"timeout": "2s"})
    assert warned(compilation, "r", "spec.authentication.ldap.timeout: is over before operationTimeout")


URLS = st.one_of(
    st.text(max_size=30).map("ldap://".__add__),
    st.from_regex(r"ldaps?://[a-z0-9.:\[\]-]{1,20}(:[0-9]{0,6})?/?", fullmatch=True),
)


@given(URLS)
def test_any_url_is_refused_with_its_field_or_gives_a_server(url: str) -> None:
    resource = rconn(**SUBMISSION, authentication={"ldap": LDAP | {"urls": [url]}})
    if isinstance(resource, Invalid):
        assert any("ldap.urls[0]" in str(problem) for problem in resource.problems)
    else:
        (part,) = compiled(resource).config.receive_connectors
        (server,) = part.authentication.ldap.servers
        assert 0 < server.port < 65536
