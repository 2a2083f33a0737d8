"""Logins by access token: an OpenID provider of our own, curl as the client."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import shutil
import ssl
import time

import jwt
import pytest
from conftest import Tier
from cryptography.hazmat.primitives import serialization
from jwt.algorithms import RSAAlgorithm
from login_kit import NAME, Pki, over_tls, submission
from token_issuer import AUDIENCE, Issuer, rsa_key
from trust_kit import party

from postroad_transport.auth import jwks
from postroad_transport.config import Authentication
from postroad_transport.config.directories import OAuth2

MESSAGE = b"From: alice@example.com\r\nSubject: x\r\n\r\nhello\r\n"
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed (Debian: curl)")
needs_msmtp = pytest.mark.skipif(shutil.which("msmtp") is None, reason="msmtp is not installed (Debian: msmtp)")


@pytest.fixture
def pki(tmp_path) -> Pki:
    return Pki.make(tmp_path)


@pytest.fixture
async def issuer(pki):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.chain_file, pki.key_file)
    issuer = Issuer()
    await issuer.start(context)
    yield issuer
    await issuer.stop()


@pytest.fixture
def make(make_tier, pki, issuer):
    async def make(**fields) -> Tier:
        defaults = {
            "issuer": issuer.url,
            "audiences": (AUDIENCE,),
            "algorithms": ("RS256", "PS256", "ES256", "EdDSA"),
            "account_claim": "sub",
            "addresses_claim": "email",
            "ca_bundle": pki.authority.pem,
            "timeout": 2.0,
        }
        return await submission(make_tier, pki, Authentication(oauth2=OAuth2(**defaults | fields)))

    return make


async def bearer(tier: Tier, pki: Pki, token: str, user: str = "alice") -> str:
    """Log in by XOAUTH2 and return the last reply."""
    line, _ = await over_tls(tier, pki)
    reply = await line.ask(
        "AUTH XOAUTH2 " + base64.b64encode(f"user={user}\x01auth=Bearer {token}\x01\x01".encode()).decode()
    )
    if reply[:3] == "334":
        assert json.loads(base64.b64decode(reply[4:]))["status"] == "401"
        reply = await line.ask("")
    line.close()
    return reply


async def run(*command: object) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(MESSAGE)
    return process.returncode, said.decode()


async def curl(tier: Tier, pki: Pki, token: str, _: str, *, sender: str = "alice@example.com") -> tuple[int, str]:
    """Send a message as curl does, which takes OAUTHBEARER where that is offered."""
    return await run(
        *("curl", "--silent", "--show-error", "--verbose", "--max-time", 20, "--ssl-reqd"),
        *("--url", f"smtp://{NAME}:{tier.ports[0]}/client.example", "--cacert", pki.ca_file),
        *("--user", "alice@example.com", "--oauth2-bearer", token),
        *("--mail-from", sender, "--mail-rcpt", "x@else.example", "--upload-file", "-"),
    )


async def msmtp(tier: Tier, pki: Pki, token: str, mechanism: str) -> tuple[int, str]:
    """Send a message as msmtp does; the token is its password."""
    return await run(
        *("msmtp", "--file=/dev/null", "--debug", f"--host={NAME}", f"--port={tier.ports[0]}", "--timeout=20"),
        *("--tls=on", "--tls-starttls=on", f"--tls-trust-file={pki.ca_file}", f"--auth={mechanism.lower()}"),
        *("--user=alice@example.com", f"--passwordeval=echo {token}", "--from=alice@example.com", "x@else.example"),
    )


#: Client, mechanism, and with what exit status it says that it was refused.
CLIENTS = [
    pytest.param((curl, "OAUTHBEARER", 67), id="curl", marks=needs_curl),
    pytest.param((msmtp, "OAUTHBEARER", 77), id="msmtp-OAUTHBEARER", marks=needs_msmtp),
    pytest.param((msmtp, "XOAUTH2", 77), id="msmtp-XOAUTH2", marks=needs_msmtp),
]


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_sends_with_a_token_and_is_who_the_token_says(make, pki, issuer, client):
    tier = await make()
    send, mechanism, _ = client
    status, said = await send(tier, pki, issuer.token(), mechanism)
    assert status == 0, said
    ((envelope, _),) = tier.store.messages
    assert envelope.account == "alice"
    assert tier.count("postroad_authentications_total", mechanism=mechanism, result="ok") == 1


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_is_refused_with_a_token_that_is_not_good(make, pki, issuer, client):
    tier = await make()
    send, mechanism, refused = client
    status, said = await send(tier, pki, issuer.token(exp=int(time.time()) - 3600), mechanism)
    assert status == refused, said
    assert "535 5.7.3" in said
    assert tier.count("postroad_authentications_total", mechanism=mechanism, result="failed") == 1


@needs_curl
async def test_curl_may_not_send_as_somebody_else(make, pki, issuer):
    tier = await make()
    status, said = await curl(tier, pki, issuer.token(), "XOAUTH2", sender="bob@example.com")
    assert status != 0
    assert "550 5.7.1" in said


async def test_tokens_are_offered_after_tls_only(make, pki):
    tier = await make()
    line = await tier.connect()
    await line.reply()
    assert "OAUTH" not in await line.ask("EHLO client.example")
    assert (await line.ask("AUTH XOAUTH2 eA=="))[:3] == "538"
    _, offered = await over_tls(tier, pki)
    assert "AUTH OAUTHBEARER XOAUTH2" in offered


@pytest.mark.parametrize(
    ("kind", "algorithm", "kid"),
    [
        ("rsa", "RS256", "rsa"),
        ("rsa", "PS256", "rsa"),
        ("ec", "ES256", "ec"),
        ("ed", "EdDSA", "ed"),
        ("rsa", "RS256", None),
    ],
)
async def test_every_kind_of_key_and_a_token_without_key_id_work(make, pki, issuer, kind, algorithm, kid):
    token = issuer.token(getattr(issuer, kind), algorithm, kid=kid)
    assert (await bearer(await make(), pki, token))[:3] == "235"


def hmac_signed(payload: str, key: bytes, kid: str) -> str:
    """Sign as PyJWT would refuse to."""
    header = json.dumps({"alg": "HS256", "kid": kid}).encode()
    signed = f"{base64.urlsafe_b64encode(header).decode().rstrip('=')}.{payload}"
    mac = hmac.digest(key, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def forged(issuer: Issuer) -> dict[str, str]:
    public = issuer.rsa.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    stranger = rsa_key("stranger")
    good = issuer.token()
    header, payload, signature = good.split(".")
    other = issuer.token(sub="root").split(".")[1]
    now = int(time.time())
    return {
        "no signature": jwt.encode({"iss": issuer.url}, "", "none"),
        "signed with the public key": hmac_signed(payload, public, "rsa"),
        "signed with the shared key": hmac_signed(payload, b"secret", "shared"),
        "a stranger's key": issuer.token(stranger),
        "other claims": f"{header}.{other}.{signature}",
        "no signature left": f"{header}.{payload}.",
        "another audience": issuer.token(aud="other.example.com"),
        "no audience": issuer.token(aud=None),
        "another issuer": issuer.token(iss="https://other.example.com"),
        "expired": issuer.token(exp=now - 60),
        "never expires": issuer.token(exp=None),
        "not yet": issuer.token(nbf=now + 600),
        "no name": issuer.token(sub=None),
        "a name that is none": issuer.token(sub="a\nb"),
        "an algorithm that is not on the list": issuer.token(algorithm="RS512"),
        "not the scope": issuer.token(scope="openid"),
        "no token": "abc",
        "deep": ".".join((header, base64.urlsafe_b64encode(b"[" * 6000).decode().rstrip("="), signature)),
    }


async def test_no_forged_or_foreign_token_logs_in(make, pki, issuer):
    tier = await make(required_scopes=("mail",))
    for name, token in forged(issuer).items():
        assert (await bearer(tier, pki, token))[:3] == "535", name
    assert (await bearer(tier, pki, issuer.token()))[:3] == "235"


@pytest.mark.parametrize(("user", "reply"), [("alice", "235"), ("ALICE@example.com", "235"), ("bob", "535")])
async def test_the_user_that_the_client_names_must_be_the_token_s(make, pki, issuer, user, reply):
    assert (await bearer(await make(), pki, issuer.token(), user))[:3] == reply


async def test_a_clock_that_is_a_little_off_does_not_matter(make, pki, issuer):
    assert (await bearer(await make(), pki, issuer.token(exp=int(time.time()) - 5)))[:3] == "235"


async def test_keys_are_fetched_once_and_again_for_a_new_key_but_not_for_each_forgery(make, pki, issuer, monkeypatch):
    monkeypatch.setattr(jwks, "PAUSE", 0.0)
    tier = await make()
    for _ in range(3):
        assert (await bearer(tier, pki, issuer.token()))[:3] == "235"
    assert issuer.requests == [".well-known/openid-configuration", "keys"]
    new = rsa_key("new")
    issuer.published = [Issuer.jwk(RSAAlgorithm, new, "new")]
    monkeypatch.setattr(jwks, "PAUSE", 3600.0)
    assert (await bearer(tier, pki, issuer.token(new, kid="new")))[:3] == "535"
    assert len(issuer.requests) == 2
    monkeypatch.setattr(jwks, "PAUSE", 0.0)
    assert (await bearer(tier, pki, issuer.token(new, kid="new")))[:3] == "235"
    assert (await bearer(tier, pki, issuer.token()))[:3] == "535"


async def test_known_keys_outlive_the_issuer_and_unknown_ones_are_a_temporary_failure(make, pki, issuer, monkeypatch):
    monkeypatch.setattr(jwks, "PAUSE", 0.0)
    tier = await make()
    issuer.broken = True
    assert (await bearer(tier, pki, issuer.token()))[:9] == "454 4.7.0"
    issuer.broken = False
    assert (await bearer(tier, pki, issuer.token()))[:3] == "235"
    issuer.broken = True
    assert (await bearer(tier, pki, issuer.token()))[:3] == "235"
    assert (await bearer(tier, pki, issuer.token(kid="new")))[:9] == "454 4.7.0"


async def test_an_issuer_that_hangs_holds_no_login_longer_than_its_limit(make, pki, issuer):
    tier = await make(timeout=0.5)
    issuer.hang = asyncio.Event()
    try:
        async with asyncio.timeout(15):
            replies = await asyncio.gather(*(bearer(tier, pki, issuer.token()) for _ in range(8)))
    finally:
        issuer.hang.set()
    assert {reply[:9] for reply in replies} == {"454 4.7.0"}
    assert issuer.requests == [".well-known/openid-configuration"]


@pytest.mark.parametrize(
    "fields",
    [
        {"ca_bundle": party("stranger", authority=True).pem},
        {"issuer": "https://localhost:1"},
    ],
    ids=["unknown CA", "nobody listens"],
)
async def test_an_issuer_that_cannot_be_trusted_or_reached_is_a_temporary_failure(make, pki, issuer, fields):
    tier = await make(**fields)
    token = issuer.token(iss=fields.get("issuer", issuer.url))
    assert (await bearer(tier, pki, token))[:9] == "454 4.7.0"


async def test_a_redirect_is_not_followed(make, pki, issuer):
    assert (await bearer(await make(jwks_url=f"{issuer.url}/moved"), pki, issuer.token()))[:9] == "454 4.7.0"
    assert issuer.requests == ["moved"]


async def test_keys_may_be_given_by_url(make, pki, issuer):
    assert (await bearer(await make(jwks_url=f"{issuer.url}/keys"), pki, issuer.token()))[:3] == "235"
    assert issuer.requests == ["keys"]


async def test_no_log_line_holds_a_token(make, pki, issuer, caplog):
    caplog.set_level("DEBUG")
    tier = await make()
    tokens = [issuer.token(), issuer.token(exp=1), issuer.token(kid="unknown")]
    for token in tokens:
        await bearer(tier, pki, token)
    logged = tier.events() + caplog.text
    assert not [token for token in tokens if token in logged or token.split(".")[1] in logged]
