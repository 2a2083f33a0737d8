"""AUTH (RFC 4954): the exchange, the check off the event loop, the delay after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

from postroad_transport.auth.accounts import Accounts, AuthUnavailableError
from postroad_transport.auth.sasl import Challenge, Credentials, SaslError, SaslServer, mechanism
from postroad_transport.policy.principals import authenticated_principals
from postroad_transport.policy.receive import check_auth, check_login
from postroad_transport.policy.verdict import Refuse
from postroad_transport.smtp import replies
from postroad_transport.smtp.content import ContentVerbs
from postroad_transport.smtp.lines import Flaw

MAX_FAILED_LOGINS = 3
"""Failed attempts on one connection; the connection is closed after the last."""


class Authentication(ContentVerbs):
    """Mixin with AUTH."""

    _failed_logins: int

    def verb_auth(self, argument: bytes) -> bytes | Awaitable[bytes]:
        """RFC 4954 section 4."""
        facts, connector = self.facts, self.connector
        if not self.session.extended_smtp:
            return replies.EHLO_FIRST
        if facts.account:
            return replies.ALREADY_AUTHENTICATED
        if self._begun:
            return replies.NOT_IN_TRANSACTION
        verdict = check_auth(connector.policy, facts)
        if isinstance(verdict, Refuse):
            return self.refusal("AUTH", verdict)
        if not connector.accounts:
            return replies.AUTH_NOT_OFFERED
        words = argument.split()
        if not 1 <= len(words) <= 2:
            return replies.AUTH_SYNTAX
        return self._authenticate_with(connector.accounts, words[0], words[1] if len(words) == 2 else None)

    async def _authenticate_with(self, accounts: Accounts, name: bytes, response: bytes | None) -> bytes:
        try:
            server = mechanism(name.decode("ascii", "replace"))
            credentials = await self._exchange(server, response)
        except SaslError as error:
            if error.reply.code == 535:
                return await self._login_failed(name.decode("ascii", "replace").upper(), "")
            return error.reply.encode()
        if credentials is None:
            return replies.AUTH_LINE_TOO_LONG
        return await self._log_in(accounts, credentials)

    async def _exchange(self, server: SaslServer, response: bytes | None) -> Credentials | None:
        """Ask until the mechanism has its credentials. None: the client sent a line that is none."""
        step = server.step(response)
        while isinstance(step, Challenge):
            self._writer.write(step.encode())
            line = self._input.next_line(self.input_line_limit)
            while line is None:
                await self._more_input()
                line = self._input.next_line(self.input_line_limit)
            if isinstance(line, Flaw):
                return None
            self._timer.postpone(self._timeout_duration)
            step = server.step(line)
        return step

    async def _log_in(self, accounts: Accounts, credentials: Credentials) -> bytes:
        try:
            account = await accounts.verify(credentials.username, credentials.password)
        except AuthUnavailableError:
            self._count_login(credentials.mechanism, "unavailable")
            return replies.AUTH_UNAVAILABLE
        if account is None:
            return await self._login_failed(credentials.mechanism, credentials.username)
        facts = replace(
            self.facts,
            principals=authenticated_principals(account.name),
            account=account.name,
            account_addresses=account.addresses,
            auth_mechanism=credentials.mechanism,
        )
        verdict = check_login(self.connector.policy, facts)
        if isinstance(verdict, Refuse):
            self.refusal("AUTH", verdict, account.name)
            return await self._login_failed(credentials.mechanism, account.name)
        self.facts = facts
        self.session.authenticated = True
        self._count_login(credentials.mechanism, "ok")
        return replies.AUTHENTICATED

    async def _login_failed(self, used: str, username: str) -> bytes:
        self._count_login(used, "failed")
        self.serving.events.emit(
            "auth.failed",
            connector=self.connector.config.name,
            client=self.facts.remote_ip,
            account=username or None,
            mechanism=used,
        )
        self._failed_logins += 1
        # Also on the way out: a new connection must not be the cheaper way to guess.
        await self._flushed()
        await asyncio.sleep(self.connector.config.limits.tarpit)
        if self._failed_logins >= MAX_FAILED_LOGINS:
            self._ending = True
            return replies.AUTH_UNSUCCESSFUL + replies.TOO_MANY_LOGINS
        return replies.AUTH_UNSUCCESSFUL

    def _count_login(self, used: str, result: str) -> None:
        self.serving.metrics.authentications.labels(self.connector.config.name, used, result).inc()
