"""An issuer's signing keys (RFC 7517): fetched, kept, renewed as the issuer rotates them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from typing import Any

import jwt

from postroad_transport.auth.accounts import AuthUnavailableError

log = logging.getLogger("postroad.auth")

#: Seconds after which keys are fetched again, while the old ones serve.
REFRESH = 900.0
#: Seconds for which keys serve that cannot be renewed.
KEEP = 86_400.0
#: Seconds between two fetches that unknown key ids ask for.
PAUSE = 10.0
#: A set has a few keys; more are passed over.
MAX_KEYS = 64

Fetch = Callable[[], Awaitable[Mapping[str, Any]]]


class Step(Enum):
    """What to do when keys are wanted."""

    USE = auto()
    """Use those that are there."""
    USE_AND_RENEW = auto()
    """Use them; fetch in the background."""
    FETCH = auto()
    """Fetch first."""
    UNAVAILABLE = auto()
    """There are none, or the one wanted may be among those that could not be fetched."""


def decide(now: float, *, fetched: float | None, tried: float | None, failing: bool, known: bool) -> Step:
    """Say what to do.

    Parameters
    ----------
    now
        Seconds of any clock that does not go back.
    fetched
        When the keys were fetched; None: never.
    tried
        When a fetch was begun last; None: never.
    failing
        Whether that one failed.
    known
        Whether the key that is wanted is there.
    """
    resting = tried is not None and now < tried + PAUSE
    if fetched is None or now >= fetched + KEEP:
        return Step.UNAVAILABLE if resting and failing else Step.FETCH
    if known:
        return Step.USE_AND_RENEW if now >= fetched + REFRESH and not resting else Step.USE
    if not resting:
        return Step.FETCH
    return Step.UNAVAILABLE if failing else Step.USE


class KeySet:
    """The keys of one issuer."""

    def __init__(self, fetch: Fetch, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._fetched: float | None = None
        self._tried: float | None = None
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    async def keys(self, key_id: str | None, algorithm: str) -> tuple[jwt.PyJWK, ...]:
        """Return the keys that may have made a signature: by key id, or where the token has none, by algorithm.

        Raises
        ------
        AuthUnavailableError
            The issuer's keys cannot be had now.
        """
        found = self._matching(key_id, algorithm)
        step = decide(
            self._clock(), fetched=self._fetched, tried=self._tried, failing=self._failing, known=bool(found)
        )
        if step is Step.USE:
            return found
        if step is Step.UNAVAILABLE:
            raise AuthUnavailableError("the issuer's keys cannot be had")
        task = self._task
        if task is None:
            task = self._task = asyncio.create_task(self._renew())
        if step is Step.USE_AND_RENEW:
            return found
        # Shielded: others wait for the same keys when this session goes away.
        await asyncio.shield(task)
        if found := self._matching(key_id, algorithm):
            return found
        if self._failing:
            raise AuthUnavailableError("the issuer's keys cannot be had")
        return ()

    async def close(self) -> None:
        """Stop what is under way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _matching(self, key_id: str | None, algorithm: str) -> tuple[jwt.PyJWK, ...]:
        made = (key.using(algorithm) for key in self._keys if key_id is None or key.key_id == key_id)
        return tuple(key for key in made if key is not None)

    async def _renew(self) -> None:
        """Fetch; never raises, so that nobody has to wait for it."""
        self._tried = self._clock()
        try:
            self._keys = read_keys(await self._fetch())
        except AuthUnavailableError as error:
            if not self._failing:
                log.warning("an issuer's keys cannot be had: %s", error)
            self._failing = True
        else:
            self._fetched = self._clock()
            self._failing = False
        finally:
            self._task = None


class Key:
    """One entry of a JWK set. A key that names no algorithm serves every one of its type (RFC 7517 section 4.4)."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.key_id = entry.get("kid")
        self._entry = entry
        self._made: dict[str, jwt.PyJWK | None] = {}

    def using(self, algorithm: str) -> jwt.PyJWK | None:
        """Return the key for `algorithm`, which must be one of those that are believed; None: it is not for that."""
        if algorithm not in self._made:
            key = None
            if self._entry.get("alg", algorithm) == algorithm:
                with contextlib.suppress(jwt.PyJWTError, TypeError, ValueError):
                    key = jwt.PyJWK(self._entry, algorithm)
            self._made[algorithm] = key
        return self._made[algorithm]


def read_keys(document: Mapping[str, Any]) -> tuple[Key, ...]:
    """Return the signing keys of a JWK set (RFC 7517 section 5).

    Raises
    ------
    AuthUnavailableError
        It is no JWK set.
    """
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise AuthUnavailableError("the answer is no JWK set")
    # A shared key in a public document is no secret; one for encryption signs nothing.
    return tuple(
        Key(entry)
        for entry in entries[:MAX_KEYS]
        if isinstance(entry, dict) and entry.get("kty") != "oct" and entry.get("use", "sig") == "sig"
    )
