"""Kubernetes service accounts, by their tokens: who they are, and what they may send as."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.fair_queue import ANYBODY, Origin
from postroad_transport.auth.lookups import Lookups
from postroad_transport.auth.names import SERVICE_ACCOUNT
from postroad_transport.auth.oauth2 import peek
from postroad_transport.auth.recent import Recent
from postroad_transport.auth.token_review import TokenReviewer
from postroad_transport.config.directories import ServiceAccounts

#: Seconds for which an answer is remembered: a token that is revoked (its pod deleted) works that much longer.
REMEMBER = 30.0
REMEMBER_REFUSED = 5.0
REMEMBER_ENTRIES = 10_000


class ServiceAccountSource:
    """Knows which service account a token belongs to, and what that may send as.

    It is a source of passwords, too: the token in place of the password. What is not a token of a service account,
    issued for the audience, is never shown to the API server: it may be somebody's password.
    """

    def __init__(
        self,
        config: ServiceAccounts,
        reviewer: TokenReviewer | None,
        *,
        lookups: Lookups | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._reviewer = reviewer
        self._wall_clock = wall_clock
        self._lookups = lookups or Lookups("serviceAccounts")
        self._recent: Recent[str] = Recent(REMEMBER_ENTRIES, clock=clock)

    async def verify(self, username: str, password: str, _: Origin = ANYBODY, /) -> Account | None:
        """Take the token as the password. Raises AuthUnavailableError."""
        return await self.verify_token(password, username)

    async def verify_token(self, token: str, username: str) -> Account | None:
        """Return the token's account; None: it is not good, not allowed here, or another's than `username`.

        Any user name will do that does not name another service account. Raises AuthUnavailableError.
        """
        seen = peek(token)
        claimed = seen[1] if seen else {}
        now = self._wall_clock()
        if not is_candidate(claimed, self._config.audience, now):
            return None
        if username.startswith(SERVICE_ACCOUNT) and username != claimed["sub"]:
            return None
        user = self._recent.get(token)
        if user is not None:
            return allowed(user, self._config) if user == claimed["sub"] else None
        return await self._lookups.run(self._look_up(token, claimed["sub"], claimed["exp"] - now))

    async def close(self) -> None:
        """Let go of connections."""
        if self._reviewer is not None:
            await self._reviewer.close()

    async def _look_up(self, token: str, subject: str, lifetime: float) -> Account | None:
        if self._reviewer is None:
            raise AuthUnavailableError("this process runs in no cluster")
        user = await self._reviewer.review(token, self._config.audience)
        self._recent.put(user, min(REMEMBER, lifetime) if user else REMEMBER_REFUSED, token)
        return allowed(user, self._config) if user == subject else None


def is_candidate(claims: Mapping[str, Any], audience: str, now: float) -> bool:
    """Tell whether unverified claims are worth a review: a service account's, for `audience`, not expired."""
    subject, audiences, expiry = claims.get("sub"), claims.get("aud"), claims.get("exp")
    return (
        isinstance(subject, str)
        and subject.startswith(SERVICE_ACCOUNT)
        and isinstance(audiences, list | str)
        and audience in ([audiences] if isinstance(audiences, str) else audiences)
        and isinstance(expiry, int | float)
        and now < expiry
    )


def allowed(user: str, config: ServiceAccounts) -> Account | None:
    """Return the account of service account `user` with all that the entries about it give; None: there is none."""
    namespace, _, name = user.removeprefix(SERVICE_ACCOUNT).partition(":")
    entries = [entry for entry in config.allow if entry.namespace == namespace and entry.name in ("", name)]
    if not entries:
        return None
    return Account(user, tuple(dict.fromkeys(address for entry in entries for address in entry.addresses)))
