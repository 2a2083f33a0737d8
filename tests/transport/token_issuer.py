"""An OpenID provider of the tests' own: discovery, keys that rotate, tokens of every kind, over HTTPS."""

from __future__ import annotations

import asyncio
import ssl
import time
from functools import cache
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "mail.example.com"


@cache
def rsa_key(_name: str) -> rsa.RSAPrivateKey:
    """Return a key that is always the same for a name: making one takes long."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Issuer:
    """Serves ``/.well-known/openid-configuration`` and ``/keys``; `requests` says how often each was asked."""

    def __init__(self) -> None:
        self.rsa = rsa_key("issuer")
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.ed = ed25519.Ed25519PrivateKey.generate()
        self.url = ""
        self.requests: list[str] = []
        self.published: list[dict[str, Any]] = [
            self.jwk(RSAAlgorithm, self.rsa, "rsa"),
            self.jwk(ECAlgorithm, self.ec, "ec", alg="ES256"),
            self.jwk(OKPAlgorithm, self.ed, "ed", alg="EdDSA"),
            {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
            {"kty": "unheard", "kid": "odd"},
        ]
        self.broken = False
        self.hang: asyncio.Event | None = None
        self._runner: web.AppRunner | None = None

    @staticmethod
    def jwk(kind: Any, key: Any, key_id: str, **more: str) -> dict[str, Any]:
        return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig", **more}

    def token(self, key: Any = None, algorithm: str = "RS256", *, kid: str | None = "rsa", **claims: Any) -> str:
        now = int(time.time())
        defaults = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "email": "Alice@Example.com",
            "iat": now,
            "exp": now + 300,
            "scope": "openid mail",
        }
        payload = {name: value for name, value in (defaults | claims).items() if value is not None}
        headers = {"kid": kid} if kid is not None else {}
        return jwt.encode(payload, key or self.rsa, algorithm, headers)

    async def start(self, context: ssl.SSLContext) -> None:
        application = web.Application()
        application.add_routes([web.get("/{path:.*}", self._answer)])
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        self.url = f"https://localhost:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        self.requests.append(path)
        if self.hang is not None:
            await self.hang.wait()
        if self.broken:
            return web.Response(status=503)
        if path == ".well-known/openid-configuration":
            return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})
        if path == "keys":
            return web.json_response({"keys": self.published})
        if path == "moved":
            raise web.HTTPFound(f"{self.url}/keys")
        return web.Response(status=404)
