"""Access tokens for smart hosts that take no passwords: OAuth 2 as client (RFC 6749 sections 4.4 and 6)."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable

import msgspec

from postroad_transport.auth.accounts import AuthUnavailableError
from postroad_transport.auth.client_tls import client_context
from postroad_transport.auth.json_http import JsonHttp
from postroad_transport.config import TokenEndpoint
from postroad_transport.config.files import ConfigError

#: Seconds for one request.
TIMEOUT = 20.0
#: Seconds before its end from which a token is not used any more.
MARGIN = 60.0
#: Seconds that a token counts as good where the answer does not say (RFC 6749 section 5.1 only recommends it).
UNTOLD_LIFETIME = 300.0


class OAuthClient(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What to ask for tokens with. Without a refresh token the client asks in its own name."""

    username: str
    client_id: str
    client_secret: str = ""
    refresh_token: str = ""

    def __repr__(self) -> str:
        return f"OAuthClient(username={self.username!r}, client_id={self.client_id!r})"


class _Answer(msgspec.Struct):
    access_token: str
    expires_in: float = UNTOLD_LIFETIME
    refresh_token: str = ""


class AccessTokens:
    """Gets tokens from one endpoint for one client, and keeps the last while it is good."""

    def __init__(self, endpoint: TokenEndpoint, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._http = JsonHttp(self._context, timeout=TIMEOUT)
        self._lock = asyncio.Lock()
        self._client: OAuthClient | None = None
        self._refresh_token = ""
        self._token = ""
        self._good_until = 0.0

    async def token(self, client: OAuthClient) -> str:
        """Return a token that is good for a while.

        Raises
        ------
        ConfigError
            None can be had for now; the message holds nothing secret.
        """
        async with self._lock:
            if client != self._client:
                self._client, self._refresh_token, self._token = client, client.refresh_token, ""
            if not self._token or self._clock() >= self._good_until:
                await self._fetch(client)
            return self._token

    def forget(self) -> None:
        """Forget the token: it was refused."""
        self._token = ""

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.close()

    async def _fetch(self, client: OAuthClient) -> None:
        form = {"grant_type": "client_credentials", "client_id": client.client_id}
        if self._refresh_token:
            form |= {"grant_type": "refresh_token", "refresh_token": self._refresh_token}
        if client.client_secret:
            form["client_secret"] = client.client_secret
        if self._endpoint.scopes:
            form["scope"] = " ".join(self._endpoint.scopes)
        try:
            found = await self._http.request("POST", self._endpoint.url, form=form)
            answer = msgspec.convert(found, _Answer, strict=False)
        except AuthUnavailableError as error:
            raise ConfigError(f"no access token: {error}") from None
        except msgspec.ValidationError:
            raise ConfigError(f"no access token: {self._endpoint.url} answers without one") from None
        # The issuer may replace the refresh token (RFC 6749 section 6).
        self._refresh_token = answer.refresh_token or self._refresh_token
        self._token = answer.access_token
        self._good_until = self._clock() + answer.expires_in - MARGIN

    def _context(self) -> ssl.SSLContext:
        return client_context(self._endpoint.ca_bundle)
