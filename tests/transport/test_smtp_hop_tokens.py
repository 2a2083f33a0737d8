"""Access tokens for smart hosts: had from an issuer, kept while they are good, dropped when they are refused."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from aiohttp import web
from smtp_peer import EXTENSIONS, Peer, deliver, hop_to, limits, settings
from trust_kit import party

from postroad_transport.config import AuthMechanism, TokenEndpoint
from postroad_transport.config.files import ConfigError
from postroad_transport.delivery.access_token import AccessTokens, OAuthClient
from postroad_transport.delivery.hop import Result

CLIENT = OAuthClient(username="relay@example.test", client_id="id", client_secret="s3cret")


class Issuer:
    """A token endpoint; ``answers`` are used up one by one, the last one stays."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.forms: list[dict[str, str]] = []

    async def _token(self, request: web.Request) -> web.Response:
        self.forms.append(dict(await request.post()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, int):
            return web.json_response({"error": "invalid_client", "error_description": "s3cret"}, status=answer)
        return web.json_response(answer)

    @contextlib.asynccontextmanager
    async def serving(self, *scopes: str):
        app = web.Application()
        app.router.add_post("/token", self._token)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            port = runner.addresses[0][1]
            yield TokenEndpoint(url=f"http://127.0.0.1:{port}/token", scopes=scopes)
        finally:
            await runner.cleanup()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def good(number: int, **more: object) -> dict[str, object]:
    return {"access_token": f"token-{number}", "token_type": "Bearer", "expires_in": 3600, **more}


async def test_token_is_asked_for_in_the_clients_own_name_and_kept_until_shortly_before_its_end():
    issuer, clock = Issuer(good(1), good(2)), Clock()
    async with issuer.serving("mail.send", "offline") as endpoint:
        tokens = AccessTokens(endpoint, clock=clock)
        assert [await tokens.token(CLIENT) for _ in range(3)] == ["token-1"] * 3
        clock.now = 3541.0
        assert await tokens.token(CLIENT) == "token-2"
        await tokens.close()
    assert issuer.forms[0] == {
        "grant_type": "client_credentials",
        "client_id": "id",
        "client_secret": "s3cret",
        "scope": "mail.send offline",
    }
    assert len(issuer.forms) == 2


async def test_refresh_token_is_used_and_replaced_by_the_one_that_comes_back():
    client = OAuthClient(username="u", client_id="id", refresh_token="first")
    issuer = Issuer(good(1, refresh_token="second", expires_in=1), good(2, expires_in="1"), good(3))
    async with issuer.serving() as endpoint:
        tokens = AccessTokens(endpoint)
        assert [await tokens.token(client) for _ in range(3)] == ["token-1", "token-2", "token-3"]
        await tokens.close()
    assert [form["refresh_token"] for form in issuer.forms] == ["first", "second", "second"]
    assert "client_secret" not in issuer.forms[0]


async def test_new_credentials_never_get_the_old_ones_token():
    issuer = Issuer(good(1), good(2))
    async with issuer.serving() as endpoint:
        tokens = AccessTokens(endpoint)
        assert await tokens.token(CLIENT) == "token-1"
        assert await tokens.token(OAuthClient(username="u", client_id="other")) == "token-2"
        await tokens.close()


@pytest.mark.parametrize("answer", [400, 401, 500, {"token": "x"}, {"access_token": 1}, []])
async def test_issuer_that_gives_none_is_a_reason_without_a_secret(answer):
    async with Issuer(answer).serving() as endpoint:
        tokens = AccessTokens(endpoint)
        with pytest.raises(ConfigError, match="no access token: ") as caught:
            await tokens.token(CLIENT)
        assert "s3cret" not in str(caught.value)
        await tokens.close()


async def test_issuer_that_is_away_is_a_reason():
    tokens = AccessTokens(TokenEndpoint(url="http://127.0.0.1:9/token"))
    with pytest.raises(ConfigError, match="no access token: "):
        await tokens.token(CLIENT)
    await tokens.close()


def test_secrets_do_not_show():
    assert "s3cret" not in repr(CLIENT)


async def test_mail_goes_with_the_issuers_token_and_a_refused_one_is_replaced(tmp_path):
    issuer = Issuer(good(1), good(2))
    secret = json.dumps({"username": "u", "clientId": "id", "clientSecret": "s3cret"}).encode()
    given = settings(read_secret=lambda name: secret)
    answers = {"AUTH": [b"535 5.7.8 expired\r\n", b"235 2.7.0 ok\r\n"]}
    offer, context = (*EXTENSIONS, "AUTH XOAUTH2", "STARTTLS"), party("smart").listening(tmp_path)
    async with issuer.serving() as endpoint, Peer(extensions=offer, answers=answers, tls_context=context) as peer:
        hop = hop_to(
            peer.port,
            given=given,
            auth_mechanism=AuthMechanism.BASIC_AUTH,
            credentials_file="c.json",
            tokens=endpoint,
            limits=limits(command_timeout=10),
        )
        results = [(await deliver(hop))[0].result for _ in range(2)]
        await hop.close()
        said = [base64.b64decode(line.split()[2]) for line in peer.commands if line.startswith("AUTH XOAUTH2")]
    assert results == [Result.DEFERRED, Result.DELIVERED]
    assert [f"token-{number}".encode() in line for number, line in enumerate(said, 1)] == [True, True]


async def test_mail_waits_where_there_is_no_token():
    secret = json.dumps({"username": "u", "clientId": "id"}).encode()
    given = settings(read_secret=lambda name: secret)
    async with Issuer(400).serving() as endpoint, Peer(extensions=(*EXTENSIONS, "AUTH XOAUTH2")) as peer:
        hop = hop_to(
            peer.port,
            given=given,
            auth_mechanism=AuthMechanism.BASIC_AUTH,
            credentials_file="c.json",
            tokens=endpoint,
        )
        (outcome,) = await deliver(hop)
        await hop.close()
        assert outcome.result is Result.DEFERRED
        assert "no access token: http://127.0.0.1:" in outcome.reply
        assert "answers 400" in outcome.reply
        assert not peer.taken
