"""Access tokens of an OAuth 2 issuer that are JWTs: RFC 7519, RFC 8725 (best practices), RFC 9068."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import jwt

from postroad_transport.auth import claims
from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.client_tls import client_context
from postroad_transport.auth.json_http import JsonHttp
from postroad_transport.auth.jwks import KeySet
from postroad_transport.auth.lookups import Lookups
from postroad_transport.config.directories import OAuth2


class OAuth2Source:
    """Knows whom an issuer's access tokens belong to. Tokens are verified here; only keys are fetched."""

    def __init__(
        self, config: OAuth2, *, lookups: Lookups | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._http = JsonHttp(lambda: client_context(config.ca_bundle), timeout=config.timeout)
        self._lookups = lookups or Lookups("oauth2")
        self._keys = KeySet(self._fetch, clock=clock)

    async def verify_token(self, token: str, username: str) -> Account | None:
        """Return the token's account, None where it is not good or not `username`'s. Raises AuthUnavailableError."""
        config = self._config
        unverified = peek(token)
        if unverified is None:
            return None
        header, unverified_claims = unverified
        algorithm = header.get("alg")
        # Another issuer's token must not make this one's keys be fetched.
        if algorithm not in config.algorithms or unverified_claims.get("iss") != config.issuer:
            return None
        key_id = header.get("kid")
        return await self._lookups.run(
            self._look_up(token, username, key_id if isinstance(key_id, str) else None, algorithm)
        )

    async def close(self) -> None:
        """Let go of connections and tasks."""
        await self._keys.close()
        await self._http.close()

    async def _look_up(self, token: str, username: str, key_id: str | None, algorithm: str) -> Account | None:
        try:
            async with asyncio.timeout(self._config.timeout):
                keys = await self._keys.keys(key_id, algorithm)
        except TimeoutError as error:
            raise AuthUnavailableError("the issuer's keys do not come in time") from error
        for key in keys:
            verified = self._verify(token, key)
            if verified is not None:
                account = claims.account(verified, self._config)
                return account if account is not None and claims.is_claimed(username, account) else None
        return None

    def _verify(self, token: str, key: jwt.PyJWK) -> Mapping[str, Any] | None:
        config = self._config
        try:
            return jwt.decode(
                token,
                key,
                algorithms=config.algorithms,
                audience=config.audiences,
                issuer=config.issuer,
                leeway=config.leeway,
                options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None

    async def _fetch(self) -> Mapping[str, Any]:
        url = self._config.jwks_url
        if not url:
            document = await self._http.request("GET", self._config.configuration_url)
            if document.get("issuer") != self._config.issuer:
                raise AuthUnavailableError(f"{self._config.issuer} says that it is another issuer")
            url = document.get("jwks_uri", "")
            if not isinstance(url, str) or not is_safe_url(url):
                raise AuthUnavailableError(f"{self._config.issuer} names no https jwks_uri")
        return await self._http.request("GET", url)


def is_safe_url(url: str) -> bool:
    """Tell whether keys may be fetched from `url`: https, or http where it stays on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.username is not None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in ("localhost", "127.0.0.1", "::1"))


def peek(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Return header and claims of a JWT without believing them; None: it is none."""
    try:
        parts = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return None
    return parts["header"], parts["payload"]
