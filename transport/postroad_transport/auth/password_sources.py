"""Several sources of passwords as one."""

from __future__ import annotations

from collections.abc import Sequence

from postroad_transport.auth.accounts import Account, Accounts, AuthUnavailableError
from postroad_transport.auth.exchange import Channel, PasswordSource
from postroad_transport.auth.fair_queue import ANYBODY, Origin
from postroad_transport.policy.bans import address_subject


class PasswordSources:
    """htpasswd lines first, then others in their order.

    A name that stands in the htpasswd lines is theirs alone: whoever may make accounts in a directory cannot take
    over a listed one. Of the others, the first that takes the password says who it is. One that is down does not
    keep the rest from being asked; if nobody then takes the password, the answer is that nobody knows.
    """

    def __init__(
        self, accounts: Accounts | None, others: Sequence[PasswordSource] = (), origin: Origin = ANYBODY
    ) -> None:
        self._accounts = accounts
        self._others = tuple(others)
        self._origin = origin

    def asked_on(self, channel: Channel) -> PasswordSources:
        """Return the same sources, for one client: whose turn it is depends on who asks."""
        origin = Origin(address_subject(channel.remote_ip), channel.known, channel.suspect)
        return PasswordSources(self._accounts, self._others, origin)

    async def verify(self, username: str, password: str) -> Account | None:
        """Return the account, None where user or password is wrong. Raises AuthUnavailableError."""
        if self._accounts is not None and (not self._others or username in self._accounts):
            return await self._accounts.verify(username, password, self._origin)
        down: AuthUnavailableError | None = None
        for source in self._others:
            try:
                account = await source.verify(username, password, self._origin)
            except AuthUnavailableError as error:
                down = error
                continue
            if account is not None and not self._is_listed(account.name):
                return account
        if down is not None:
            raise down
        return None

    def _is_listed(self, name: str) -> bool:
        return self._accounts is not None and name in self._accounts
