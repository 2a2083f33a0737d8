"""JSON over HTTPS to one party, limited in time and size."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec

from postroad_transport.auth.accounts import AuthUnavailableError

#: Octets of an answer; key sets and reviews are a few KiB.
MAX_ANSWER = 1024 * 1024


class JsonHttp:
    """Asks one party. Connections are kept; a certificate that does not verify makes the CAs be read again.

    Redirects are not followed: who answers is in the configuration. Proxies of the environment are not used.
    """

    def __init__(self, context: Callable[[], ssl.SSLContext], *, timeout: float) -> None:
        """Take what makes the TLS context, and the seconds that one request may take."""
        self._context = context
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        form: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any]:
        """Return the JSON object that answers. `body` is sent as JSON, `form` as a form.

        Raises
        ------
        AuthUnavailableError
            No connection, no answer in time, another status than 2xx, or no JSON object. The text says which; it
            never holds what was sent.
        """
        if self._closed:
            raise AuthUnavailableError("closed")
        if form is None:
            kind, data = "application/json", None if body is None else msgspec.json.encode(body)
        else:
            kind, data = "application/x-www-form-urlencoded", urlencode(form).encode()
        try:
            session = self._session = self._session or self._open()
            async with session.request(
                method,
                url,
                data=data,
                headers={"Accept": "application/json", "Content-Type": kind, **(headers or {})},
                allow_redirects=False,
            ) as response:
                if not 200 <= response.status < 300:
                    raise AuthUnavailableError(f"{url} answers {response.status}")
                answer = await _limited(response.content)
        except aiohttp.ClientSSLError as error:
            await self._drop()
            raise AuthUnavailableError(f"{url}: TLS failed") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise AuthUnavailableError(f"{url}: {type(error).__name__}") from error
        try:
            return msgspec.json.decode(answer, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise AuthUnavailableError(f"{url} does not answer with a JSON object") from error

    async def close(self) -> None:
        """Let go of the connections; whoever asks afterwards gets AuthUnavailableError."""
        self._closed = True
        await self._drop()

    async def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._context(), limit=8),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
        )


async def _limited(stream: aiohttp.StreamReader) -> bytes:
    answer = await stream.read(MAX_ANSWER)
    chunks = [answer]
    size = len(answer)
    while answer:
        answer = await stream.read(MAX_ANSWER)
        size += len(answer)
        if size > MAX_ANSWER:
            raise AuthUnavailableError("the answer is too long")
        chunks.append(answer)
    return b"".join(chunks)
