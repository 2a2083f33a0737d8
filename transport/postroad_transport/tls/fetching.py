"""Asking the places that certificates name: http and https, no redirect, size and time limited."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import ClientSession

FETCH_SECONDS = 10.0
"""How long fetching from one place may take."""


class FetchError(Exception):
    """Nothing of use could be had; the message is a fixed word, for metrics."""


class Fetcher:
    """One worker's connections to such places."""

    def __init__(self) -> None:
        self._session: ClientSession | None = None

    async def get(self, url: str, *, limit: int) -> bytes:
        """Return what is there, `limit` bytes at most. Raises FetchError."""
        return await self._ask("GET", url, limit)

    async def post(self, url: str, data: bytes, media_type: str, *, limit: int) -> bytes:
        """Return the answer to `data`, `limit` bytes at most. Raises FetchError."""
        return await self._ask("POST", url, limit, data, {"Content-Type": media_type})

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(
        self, verb: str, url: str, limit: int, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> bytes:
        import aiohttp  # here, since only who has to do with authorities needs it

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS), cookie_jar=aiohttp.DummyCookieJar()
            )
        answer = bytearray()
        try:
            async with self._session.request(
                verb, url, data=data, headers=headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise FetchError("status")
                async for chunk in response.content.iter_chunked(65_536):
                    answer += chunk
                    if len(answer) > limit:
                        raise FetchError("too_big")
        except TimeoutError:
            raise FetchError("timeout") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise FetchError("unreachable") from None
        return bytes(answer)
