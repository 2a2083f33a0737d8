"""AUTH (RFC 4954) and X-EXPS: a SASL exchange over the connection, and the reply to a failure delayed.

AUTH makes the session an account's, X-EXPS a legacy server's (spec.md 2.1). All else is common to both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

from postroad_transport.auth.accounts import AuthUnavailableError
from postroad_transport.auth.authenticator import Authenticator
from postroad_transport.auth.ban_store import ACCOUNT, ADDRESS
from postroad_transport.auth.bans import Standing
from postroad_transport.auth.check_gate import OverloadedError
from postroad_transport.auth.exchange import Accepted, Channel, ErrorChallenge, Exchange, Rejected
from postroad_transport.auth.names import MAX_NAME
from postroad_transport.auth.sasl import Challenge, SaslError, decode
from postroad_transport.policy.authentication import EXPS, EXPS_GSSAPI, check_auth
from postroad_transport.policy.principals import LEGACY_SERVERS, authenticated_principals
from postroad_transport.policy.receive import check_login
from postroad_transport.policy.verdict import Refuse
from postroad_transport.smtp import replies
from postroad_transport.smtp.content import ContentVerbs
from postroad_transport.smtp.lines import Flaw
from postroad_transport.tls.binding import binding

MAX_FAILED_LOGINS = 3
"""Failed attempts on one connection; the connection is closed after the last."""
STEP_TIMEOUT = 60.0
"""Seconds after which a step of a mechanism is given up, should its source have no limit of its own."""


PERMISSION = "permission"
"""Why a login fails whose credentials were good: no guess, hence never a reason for a ban."""


class AccountClosedError(Exception):
    """The account is closed to the client's address for the time being."""


class Authentication(ContentVerbs):
    """Mixin with AUTH and X-EXPS."""

    _failed_logins: int
    _standing: Standing

    def verb_auth(self, argument: bytes) -> bytes | Awaitable[bytes]:
        """RFC 4954 section 4."""
        return self._take_login("AUTH", argument, replies.AUTH_SYNTAX)

    def verb_x_exps(self, argument: bytes) -> bytes | Awaitable[bytes]:
        """Take ``X-EXPS``: a legacy server's AUTH."""
        return self._take_login(EXPS, argument, replies.EXPS_SYNTAX, prefix=f"{EXPS} ")

    def _take_login(self, verb: str, argument: bytes, syntax: bytes, *, prefix: str = "") -> bytes | Awaitable[bytes]:
        """Begin an exchange. `prefix` makes the mechanism's name what it is called everywhere else."""
        facts, connector = self.facts, self.connector
        if not self.session.extended_smtp:
            return replies.EHLO_FIRST
        if self.session.authenticated:
            return replies.ALREADY_AUTHENTICATED
        if self._begun:
            return replies.NOT_IN_TRANSACTION
        words = argument.split()
        name = prefix + (words[0].decode("ascii", "replace").upper() if words else "")
        verdict = check_auth(connector.policy, facts, name)
        if isinstance(verdict, Refuse):
            return self.refusal(verb, verdict)
        if not connector.authenticator:
            return replies.AUTH_NOT_OFFERED
        if not 1 <= len(words) <= 2:
            return syntax
        self._standing = connector.bans.standing(facts.remote_ip)
        if self._standing is Standing.BANNED:
            connector.bans.refused(ADDRESS)
            self._ending = True
            self._reply_due = self.loop.time() + self.serving.turned_away(connector.config.limits.tarpit)
            return self._refused_login(replies.BANNED)
        return self._authenticate_with(connector.authenticator, name, words[1] if len(words) == 2 else None)

    async def _authenticate_with(self, authenticator: Authenticator, name: str, response: bytes | None) -> bytes:
        try:
            outcome = await self._exchange(authenticator.begin(name, self._channel()), name, response)
        except SaslError as error:
            return error.reply.encode()
        except OverloadedError:
            self._count_login(name, "overloaded")
            tarpit = self.connector.config.limits.tarpit
            self._reply_due += self.serving.turned_away(tarpit) - tarpit
            return await self._refused_login(replies.AUTH_UNAVAILABLE)
        except (AuthUnavailableError, TimeoutError):
            self._count_login(name, "unavailable")
            return replies.AUTH_UNAVAILABLE
        except AccountClosedError:
            self._failed_logins += 1
            self._count_login(name, "closed")
            self.connector.bans.refused(ACCOUNT)
            return await self._refused_login(replies.ACCOUNT_CLOSED)
        if outcome is None:
            return replies.AUTH_LINE_TOO_LONG
        if isinstance(outcome, Rejected):
            return await self._refused_login()
        return await self._log_in(name, outcome)

    def _channel(self) -> Channel:
        ip = self.facts.remote_ip
        known, suspect = self.connector.bans.is_known(ip), self._standing is Standing.SUSPECT
        tls = self.transport.get_extra_info("ssl_object")
        if tls is None:
            return Channel(ip, known=known, suspect=suspect)
        presented = self.connector.presented
        chain: tuple[bytes, ...] = ()
        if self.facts.client_certificate:
            from postroad_transport.tls.peer import presented_chain  # here, since few connectors need it

            chain = tuple(presented_chain(tls))
        return Channel(
            remote_ip=ip,
            tls=True,
            known=known,
            suspect=suspect,
            client_chain=chain,
            binding=lambda kind: binding(tls, kind, presented and presented.end_point(tls)),
        )

    async def _exchange(self, exchange: Exchange, name: str, response: bytes | None) -> Accepted | Rejected | None:
        """Go through the exchange; a failure is on record when it is returned. None: a line that is none.

        Raises
        ------
        AccountClosedError
            The account is closed to this address; nothing is said or counted of the credentials.
        SaslError, AuthUnavailableError
            See :meth:`Exchange.step`.
        """
        step = await self._step(exchange, None if response is None else decode(response, initial=True))
        while isinstance(step, Challenge):
            if isinstance(step, ErrorChallenge):
                # Before the client can answer or hang up, so that neither saves it the count.
                await self._note_failure(name, step.rejected)
            self._check_open(step.username)
            self._writer.write(step.encode())
            line = self._input.next_line()
            while line is None:
                await self._more_input()
                line = self._input.next_line()
            if isinstance(step, ErrorChallenge):
                return step.rejected
            if isinstance(line, Flaw):
                return None
            self._timer.postpone(self._timeout_duration)
            step = await self._step(exchange, decode(line))
        self._check_open(step.username)
        if isinstance(step, Rejected):
            await self._note_failure(name, step)
        else:
            self._check_open(step.account.name)
        return step

    def _check_open(self, username: str) -> None:
        if username and self.connector.bans.closes(self.facts.remote_ip, username):
            raise AccountClosedError

    async def _step(self, exchange: Exchange, response: bytes | None) -> Challenge | Accepted | Rejected:
        self._reply_due = self.loop.time() + self.connector.config.limits.tarpit
        async with asyncio.timeout(STEP_TIMEOUT):
            return await exchange.step(response)

    async def _log_in(self, used: str, accepted: Accepted) -> bytes:
        account = accepted.account
        if used == EXPS_GSSAPI:
            # A server, as by X-ANONYMOUSTLS: it has no addresses of its own, and MAIL says what it may not do.
            facts = replace(self.facts, principals=LEGACY_SERVERS, auth_mechanism=used)
        else:
            facts = replace(
                self.facts,
                principals=authenticated_principals(account.name),
                account=account.name,
                account_addresses=account.addresses,
                account_owns_name=account.owns_name,
                auth_mechanism=used,
            )
            verdict = check_login(self.connector.policy, facts)
            if isinstance(verdict, Refuse):
                self.refusal("AUTH", verdict, account.name)
                await self._note_failure(used, Rejected(account.name, PERMISSION))
                return await self._refused_login()
        self.facts = facts
        self.session.authenticated = True
        self._count_login(used, "ok")
        # By each name that guesses could be counted against.
        for name in {account.name, accepted.username} - {""}:
            await self.connector.bans.succeeded(facts.remote_ip, name)
        return replies.AUTHENTICATED

    async def _refused_login(self, reply: bytes = replies.AUTH_UNSUCCESSFUL) -> bytes:
        # Also on the way out: a new connection must not be the cheaper way to guess. The delay counts from when the
        # credentials came in, so that it hides how long they took to check.
        await self._flushed()
        await asyncio.sleep(max(0.0, self._reply_due - self.loop.time()))
        if self._failed_logins >= MAX_FAILED_LOGINS:
            self._ending = True
            return reply + replies.TOO_MANY_LOGINS
        return reply

    async def _note_failure(self, used: str, rejected: Rejected) -> None:
        self._failed_logins += 1
        self._count_login(used, "failed")
        self.serving.events.emit(
            "auth.failed",
            connector=self.connector.config.name,
            client=self.facts.remote_ip,
            account=rejected.username[:MAX_NAME] or None,
            mechanism=used,
            reason=rejected.reason,
        )
        if rejected.reason != PERMISSION:
            await self.connector.bans.failed(self.facts.remote_ip, rejected.username)

    def _count_login(self, used: str, result: str) -> None:
        self.serving.metrics.authentications.labels(self.connector.config.name, used, result).inc()
