"""An SMTP or LMTP session as client (RFC 5321, 2033, 2920, 3030, 3207, 4954): open it, send, quit.

Opening either ends in a session that may send, or in a :class:`SessionError` after which nothing was sent.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from postroad_transport.config import AuthMechanism, SendLimits
from postroad_transport.config.files import ConfigError
from postroad_transport.delivery import smtp_login
from postroad_transport.delivery.outbound_tls import TlsDemand
from postroad_transport.delivery.peer_check import PeerCheck
from postroad_transport.delivery.peer_reply import PeerReply
from postroad_transport.delivery.smtp_connection import SmtpConnection
from postroad_transport.delivery.smtp_login import Credentials, LoginError, Terms
from postroad_transport.delivery.smtp_transaction import Attempt, SmtpTransactions
from postroad_transport.message import Content, Envelope, Recipient
from postroad_transport.policy.direct_trust import VERB
from postroad_transport.policy.proof import Flaw
from postroad_transport.tls.client import client_context, verify_name
from postroad_transport.tls.direct_trust import (
    REFUSED_BY_PEER,
    UNKNOWN_CERTIFICATE,
    TrustContexts,
    trust_failure,
)


class SessionError(Exception):
    """No session with this host for now. ``reply`` is a 4xx line that says why."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        self.reply = reply


class _HandshakeFailedError(Exception):
    """STARTTLS was agreed and the handshake failed."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of one host."""

    host: str
    address: str
    port: int

    @property
    def label(self) -> str:
        """``host[address]:port``."""
        return f"{self.host}[{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """How to open sessions with one host.

    ``credentials`` is called when they are needed and raises ``ConfigError``. ``on_handshake`` is told the TLS
    version (empty when it failed) and ``ok`` or a reason; ``on_login`` the mechanism (empty where there was none to
    use) and ``ok`` or a reason. ``server_trust`` is what ``ExchangeServer`` needs; ``on_server`` is told who the peer
    proved to be (empty: nobody) and ``ok`` or a reason. ``check`` verifies the peer where its certificate has to be
    valid.
    """

    fqdn: str
    lmtp: bool
    tls: TlsDemand
    trust: str
    mechanism: AuthMechanism
    credentials: Callable[[], Awaitable[Credentials]]
    limits: SendLimits
    on_handshake: Callable[[str, str], None]
    on_login: Callable[[str, str], None]
    server_trust: TrustContexts | None = None
    on_server: Callable[[str, str], None] = lambda principal, result: None
    check: PeerCheck | None = None


async def open_session(endpoint: Endpoint, plan: SessionPlan) -> SmtpSession:
    """Connect, greet, negotiate TLS and log in.

    When an opportunistic handshake fails, a second connection is made in clear (spec.md 4).

    Raises
    ------
    SessionError
        The host cannot be used for now; nothing was sent.
    """
    try:
        return await _open(endpoint, plan, plan.tls)
    except _HandshakeFailedError as error:
        if plan.tls.required:
            if plan.check is not None:
                plan.check.tell(Flaw.NO_TLS)
            raise SessionError(f"454 4.7.5 TLS handshake with {endpoint.label} failed: {error}") from None
        return await _open(endpoint, plan, plan.tls.in_clear())


async def _open(endpoint: Endpoint, plan: SessionPlan, tls: TlsDemand) -> SmtpSession:
    connection = await _connect(endpoint, plan.limits.connect_timeout)
    session = SmtpSession(endpoint, plan, connection)
    try:
        await session.begin(tls)
    except SessionError:
        session.quit()
        raise
    except BaseException:
        connection.abort()
        raise
    return session


async def _connect(endpoint: Endpoint, seconds: float) -> SmtpConnection:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            _, connection = await loop.create_connection(SmtpConnection, endpoint.address, endpoint.port)
    except TimeoutError:
        raise SessionError(f"451 4.4.1 connect to {endpoint.label}: no answer in {seconds:g} s") from None
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else type(error).__name__
        raise SessionError(f"451 4.4.1 connect to {endpoint.label}: {reason}") from None
    return connection


class SmtpSession:
    """An open session. One transaction at a time; kept and used again while :attr:`usable`."""

    def __init__(self, endpoint: Endpoint, plan: SessionPlan, connection: SmtpConnection) -> None:
        self.endpoint = endpoint
        self.opened = asyncio.get_running_loop().time()
        self.principal = ""
        """Which servers of the organisation the peer has proved to be one of; empty: none."""
        self._plan = plan
        self._connection = connection
        self._label = endpoint.label
        self._transactions = SmtpTransactions(connection, endpoint.label, plan.limits, lmtp=plan.lmtp)

    @property
    def usable(self) -> bool:
        """Whether another transaction may be tried."""
        return not self._connection.failure and self._connection.quiet

    @property
    def transactions(self) -> int:
        """Transactions run so far."""
        return self._transactions.count

    @property
    def extensions(self) -> dict[str, str]:
        """EHLO keywords in upper case, with their parameters."""
        return self._transactions.extensions

    async def begin(self, demand: TlsDemand) -> None:
        """Greet, negotiate TLS, log in. Raises SessionError."""
        greeting = await self._reply("waiting for the greeting")
        if greeting.code != 220:
            raise SessionError(f"451 4.3.2 {self._label} refuses sessions: {greeting.line}")
        await self._hello()
        if self._plan.mechanism is AuthMechanism.EXCHANGE_SERVER:
            await self._authenticate_servers()
            return
        if demand.wanted:
            if await self._start_tls(demand):
                await self._hello()
            elif demand.required:
                if self._plan.check is not None:
                    self._plan.check.tell(Flaw.NO_TLS)
                raise SessionError(f"454 4.7.10 {self._label} offers no usable STARTTLS, and TLS is required")
        await self._log_in()

    async def _hello(self) -> None:
        verb = "LHLO" if self._plan.lmtp else "EHLO"
        reply = await self._command(f"{verb} {self._plan.fqdn}")
        if reply.code >= 500 and not self._plan.lmtp:
            reply = await self._command(f"HELO {self._plan.fqdn}")
            reply = PeerReply(reply.code, reply.lines[:1])
        if reply.code != 250:
            raise SessionError(f"451 4.3.2 {self._label} refuses {verb}: {reply.line}")
        self.extensions.clear()
        for line in reply.lines[1:]:
            keyword, _, parameters = line.decode("ascii", "replace").upper().replace("AUTH=", "AUTH ").partition(" ")
            known = self.extensions.get(keyword)
            self.extensions[keyword] = f"{known} {parameters}" if known else parameters

    async def _start_tls(self, demand: TlsDemand) -> bool:
        if "STARTTLS" not in self.extensions:
            return False
        try:
            context = self._context(demand)
        except ConfigError as error:
            raise SessionError(f"454 4.7.0 {error}") from None
        if (await self._agree_to("STARTTLS")).code != 220:
            return False
        try:
            await self._connection.start_tls(context, self.endpoint.host, self._plan.limits.connect_timeout)
        except (ssl.SSLError, OSError, TimeoutError, ValueError) as error:
            self._plan.on_handshake("", "failed")
            raise _HandshakeFailedError(_why(error)) from None
        if demand.names and not verify_name(self._connection.peer_certificate(), demand.names):
            self._plan.on_handshake(self._connection.tls, "name")
            raise SessionError(
                f"454 4.7.5 the certificate of {self._label} is for none of: {', '.join(demand.names)}"
            )
        if self._plan.check is not None:
            await self._verify(self._plan.check)
        self._plan.on_handshake(self._connection.tls, "ok")
        return True

    def _context(self, demand: TlsDemand) -> ssl.SSLContext:
        plan, check = self._plan, self._plan.check
        if check is None:
            return client_context(demand.level, trust=plan.trust, policy=demand.policy)
        if check.domain is None:
            trust = check.trust
            authorities = plan.trust + trust.authorities
            return client_context(demand.level, trust=authorities, system=trust.system, policy=demand.policy)
        if check.identity is None:
            check.tell(Flaw.LOCAL)
            raise ConfigError(f"no certificate here holds the name {plan.fqdn}, to present to {check.domain.domain}")
        return check.identity

    async def _verify(self, check: PeerCheck) -> None:
        proof = await check.verify(self._connection.presented_chain())
        if proof.flaw is not None:
            self._plan.on_handshake(self._connection.tls, str(proof.flaw))
            needed = f" ({check.domain.domain} needs mutual TLS)" if check.domain else ""
            raise SessionError(f"454 4.7.5 {self._label} does not prove itself: {proof.detail}{needed}")

    async def _agree_to(self, verb: str) -> PeerReply:
        """Ask for TLS. Clear text behind the 220 would be taken for a reply inside TLS (as in CVE-2011-0411)."""
        reply = await self._command(verb)
        if reply.code == 220 and not self._connection.quiet:
            raise SessionError(f"451 4.5.0 {self._label} sends clear text after agreeing to {verb}")
        return reply

    async def _authenticate_servers(self) -> None:
        """Prove each side to the other by direct trust (spec.md 4). Nothing else will do. Raises SessionError."""
        trust, told = self._plan.server_trust, self._plan.on_server
        if trust is None:
            raise SessionError(f"454 4.7.0 this tier has no certificate yet that it could present to {self._label}")
        if VERB not in self.extensions:
            told("", "not_offered")
            raise SessionError(f"454 4.7.0 {self._label} does not offer {VERB}, and ExchangeServer needs it")
        reply = await self._agree_to(VERB)
        if reply.code != 220:
            told("", "not_offered")
            raise SessionError(f"454 4.7.0 {self._label} refuses {VERB}: {reply.line}")
        try:
            await self._connection.start_tls(trust.client, self.endpoint.host, self._plan.limits.connect_timeout)
        except (ssl.SSLError, OSError, TimeoutError, ValueError) as error:
            self._plan.on_handshake("", "failed")
            told("", result := trust_failure(error))
            why = (
                "presents a certificate that no subscription holds" if result == UNKNOWN_CERTIFICATE else _why(error)
            )
            raise SessionError(f"454 4.7.5 {VERB} with {self._label} failed: {why}") from None
        self._plan.on_handshake(self._connection.tls, "ok")
        presented = self._connection.certificate_der()
        self.principal = trust.principal(presented)
        if not self.principal:
            told("", UNKNOWN_CERTIFICATE)
            raise SessionError(f"454 4.7.5 no subscription holds the certificate that {self._label} presents")
        try:
            await self._hello()
        except SessionError as error:
            # TLS 1.3 tells a client only now that the server does not take its certificate.
            told("", REFUSED_BY_PEER)
            raise SessionError(
                f"454 4.7.5 {self._label} ends the session after this server's certificate was presented"
                f" ({trust.thumbprint}): is it in a subscription there? {error.reply}"
            ) from None
        told(self.principal, "ok")

    async def _log_in(self) -> None:
        mechanism = self._plan.mechanism
        if mechanism not in (AuthMechanism.BASIC_AUTH, AuthMechanism.BASIC_AUTH_REQUIRE_TLS):
            return
        try:
            credentials = await self._plan.credentials()
        except ConfigError as error:
            self._plan.on_login("", "no-credentials")
            raise SessionError(f"454 4.7.0 no credentials for {self._label}: {error}") from None
        certificate = self._connection.certificate_der()
        offered = self.extensions.get("AUTH", "").split()
        tls = bool(self._connection.tls)
        names = smtp_login.choose(offered, credentials, tls=tls, bound=certificate is not None)
        if not names:
            self._plan.on_login("", "not-offered")
            where = "" if tls else " without TLS"
            raise SessionError(f"454 4.7.0 {self._label} offers {_offer(offered)}: no way to log in{where}")
        terms = Terms(self.endpoint.host, self.endpoint.port, certificate)
        for name in names:
            try:
                reply = await self._authenticate(name, smtp_login.run(name, credentials, terms))
            except LoginError as error:
                self._plan.on_login(name, "broken")
                raise SessionError(f"454 4.7.0 authentication at {self._label} failed: {error}") from None
            if reply.code == 235:
                self._plan.on_login(name, "ok")
                self._transactions.tells_submitter = True
                return
            self._plan.on_login(name, "refused" if reply.code >= 500 else "deferred")
        raise SessionError(f"454 4.7.0 authentication at {self._label} failed: {name}: {reply.line}")

    async def _authenticate(self, name: str, answers: smtp_login.Run) -> PeerReply:
        """Run one mechanism to its end. Raises LoginError where the server does not keep to it."""
        verb, given, reply = f"AUTH {name}", 0, None
        if not smtp_login.has_initial_response(name):
            reply = await self._command(verb)
        while reply is None or reply.code == 334:
            # In a thread: deriving a SCRAM key takes as long as the server has chosen.
            answer = await asyncio.to_thread(smtp_login.advance, answers, _challenge(reply) if given else None)
            reply = await self._command(f"{verb} {_base64(answer)}" if reply is None else _base64(answer), verb=verb)
            given += 1
        if reply.code == 235 and given < smtp_login.answers_needed(name):
            raise LoginError(f"{name}: the server never proved that it knows the password")
        return reply

    async def _command(self, line: str, *, verb: str = "") -> PeerReply:
        """Say `line`; `verb` stands for it in errors where the line holds a secret."""
        self._connection.write(line.encode() + b"\r\n")
        return await self._reply(f"answering {verb or line}")

    async def _reply(self, stage: str) -> PeerReply:
        replies = await self._connection.replies(1, self._plan.limits.command_timeout)
        if not replies or replies[0].code == 421:
            raise SessionError(f"{self._connection.failure} ({self._label}, {stage})")
        return replies[0]

    async def send(self, envelope: Envelope, recipients: Sequence[Recipient], content: Content) -> list[Attempt]:
        """Run one transaction; see :meth:`SmtpTransactions.send`."""
        return await self._transactions.send(envelope, recipients, content)

    def quit(self) -> None:
        """Say QUIT and close; the reply is of no interest."""
        if not self._connection.failure:
            self._connection.write(b"QUIT\r\n")
        self._connection.finish()

    def abort(self) -> None:
        """Close now."""
        self._connection.abort()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _why(error: Exception) -> str:
    return getattr(error, "verify_message", "") or getattr(error, "reason", "") or type(error).__name__


def _challenge(reply: PeerReply | None) -> bytes:
    """Return the challenge, empty where it is not base64: only SCRAM reads it, and makes nothing of that."""
    try:
        return base64.b64decode(reply.lines[0], validate=True) if reply else b""
    except binascii.Error:
        return b""


def _offer(mechanisms: Sequence[str]) -> str:
    return f"only AUTH {' '.join(mechanisms)}"[:200] if mechanisms else "no AUTH"
