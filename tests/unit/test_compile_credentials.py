"""Credentials of send connectors: which keys a Secret may have, and what becomes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from compile_kit import compiled, sconn, secret, verdict, warned

from postroad_operator.compile import Compilation, Reason
from postroad_transport.config import TokenEndpoint

HOSTS = [{"host": "smtp.example", "port": 587}]
OAUTH2 = {"tokenURL": "https://login.example/token", "scopes": ["mail.send"]}


def connector(secrets: dict[str, str], **spec: Any) -> Compilation:
    fields = {"smartHostAuthMechanism": "BasicAuthRequireTLS", "authSecretRef": {"name": "login"}} | spec
    return compiled(sconn(smartHosts=HOSTS, **fields), secret("login", **secrets))


def written(compilation: Compilation) -> dict[str, str]:
    (part,) = compilation.config.send_connectors
    content: dict[str, str] = json.loads(compilation.secret_files[part.credentials_file])
    return content


@pytest.mark.parametrize(
    ("secrets", "content"),
    [
        ({"username": "u", "password": "p\n"}, {"username": "u", "password": "p"}),
        ({"username": "u", "accessToken": "t"}, {"username": "u", "accessToken": "t"}),
        ({"username": "u", "password": "p", "accessToken": "t"}, {"username": "u", "accessToken": "t"}),
    ],
)
def test_password_or_token_goes_into_a_secret_file(secrets, content):
    assert written(connector(secrets)) == content


def test_client_of_an_issuer_goes_into_a_secret_file_and_the_endpoint_into_the_configuration():
    made = connector({"username": "u", "clientID": "i", "clientSecret": "s"}, oauth2=OAUTH2)
    assert written(made) == {"username": "u", "clientId": "i", "clientSecret": "s"}
    (part,) = made.config.send_connectors
    assert part.tokens == TokenEndpoint(url="https://login.example/token", scopes=("mail.send",))
    refreshing = connector({"username": "u", "clientID": "i", "refreshToken": "r"}, oauth2=OAUTH2)
    assert written(refreshing) == {"username": "u", "clientId": "i", "refreshToken": "r"}


@pytest.mark.parametrize(
    ("secrets", "oauth2", "reason", "says"),
    [
        ({"username": "u"}, None, Reason.REF_NOT_FOUND, "has no key password"),
        ({"password": "p"}, None, Reason.REF_NOT_FOUND, "has no key username"),
        ({"username": "u", "password": "\n"}, None, Reason.INVALID_REF, "holds nothing in password"),
        ({"username": "u", "password": "p"}, OAUTH2, Reason.REF_NOT_FOUND, "has no key clientID"),
        ({"username": "u", "clientID": "i"}, OAUTH2, Reason.REF_NOT_FOUND, "no key clientSecret or refreshToken"),
    ],
)
def test_secret_that_lacks_something_refuses_the_connector(secrets, oauth2, reason, says):
    made = verdict(connector(secrets, **({"oauth2": oauth2} if oauth2 else {})), "s")
    assert (made.accepted, made.reason) == (False, reason)
    assert says in made.message


def test_credentials_in_clear_are_warned_of():
    login = {"username": "u", "password": "p"}
    assert warned(connector(login, smartHostAuthMechanism="BasicAuth"), "s", "in clear: set requireTLS")
    assert not warned(connector(login, smartHostAuthMechanism="BasicAuth", requireTLS=True), "s", "in clear")
    assert not warned(connector(login), "s", "in clear")
