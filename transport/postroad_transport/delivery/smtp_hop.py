"""The next hop by SMTP or LMTP: hosts in order, kept connections, one outcome per recipient.

One attempt: take a kept connection, else open one to the first host that answers; run the transaction; what came
back DEFERRED goes on to the next host, what is left at the end is deferred. Recipients go in groups of at most
:data:`RECIPIENTS` (RFC 5321 section 4.5.3.1.8).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from postroad_transport.config import (
    AuthMechanism,
    DnsRouting,
    Host,
    Lmtp,
    Principal,
    SendLimits,
    SmartHostRouting,
    SmtpHost,
)
from postroad_transport.delivery.credentials import CredentialSource
from postroad_transport.delivery.failover import DeadHosts, Pacer
from postroad_transport.delivery.hop import Hop, Outcome, Result
from postroad_transport.delivery.outbound_tls import TlsDemand, tls_demand
from postroad_transport.delivery.peer_check import PeerCheck
from postroad_transport.delivery.smtp_client import (
    Endpoint,
    SessionError,
    SessionPlan,
    SmtpSession,
    open_session,
)
from postroad_transport.delivery.smtp_transaction import Attempt, StaleSessionError
from postroad_transport.message import Content, Envelope, Recipient, content_size
from postroad_transport.policy.headers import outbound
from postroad_transport.policy.principals import send_permissions
from postroad_transport.policy.reply import Reply
from postroad_transport.routing.locate import locate_exchangers, locate_hosts
from postroad_transport.routing.mx import NoExchanger
from postroad_transport.routing.resolver import Resolver, SystemResolver
from postroad_transport.routing.table import Route
from postroad_transport.telemetry.metrics import Metrics
from postroad_transport.tls.crl_store import CrlStore
from postroad_transport.tls.direct_trust import TrustContexts

RECIPIENTS = 100
"""Recipients of one transaction."""
HOSTS = 5
"""Endpoints tried in one attempt."""
IDLE_SECONDS = 10.0
"""How long a connection that nobody uses is kept."""
SESSION_SECONDS = 300.0
"""How long a busy connection is kept: then a better host that was down gets its turn again."""
DEAD_SECONDS = 60.0
"""How long an endpoint that could not be reached goes to the end of the line."""


@dataclass(frozen=True, slots=True)
class HopSettings:
    """What every SMTP hop of a worker shares.

    ``hostname`` is given in EHLO where no send connector has a name. ``resolver`` gives the resolver for a
    connector's ``resolvers`` (empty: the system's), the same one each time, for its cache:
    ``functools.cache(DnsResolver)`` will do. ``read_secret`` returns the content of a secret file by name and
    raises ``ConfigError`` or ``KeyError``. ``local_names`` and ``local_endpoints`` (``(address, port)`` pairs) are
    this tier's own: mail is never routed back to them by MX. ``trust_bundle`` is PEM. ``server_trust`` is for
    sessions with the organisation's servers; None: the tier has nothing to present. ``crls`` says what was revoked;
    ``identities`` are the contexts by send connector that present this tier to secured domains.
    """

    hostname: str
    resolver: Callable[[tuple[str, ...]], Resolver]
    metrics: Metrics
    read_secret: Callable[[str], bytes]
    trust_bundle: str = ""
    server_trust: TrustContexts | None = None
    crls: CrlStore = field(default_factory=CrlStore)
    identities: Mapping[str, ssl.SSLContext] = field(default_factory=dict)
    local_endpoints: frozenset[tuple[str, int]] = frozenset()
    local_names: frozenset[str] = frozenset()
    system_resolver: Resolver = field(default_factory=SystemResolver)
    random: Random = field(default_factory=Random)
    clock: Callable[[], float] = time.monotonic
    idle_seconds: float = IDLE_SECONDS
    dead_seconds: float = DEAD_SECONDS


class SmtpHop(Hop):
    """Delivers to one destination over kept SMTP or LMTP connections; :meth:`deliver` may be called concurrently.

    Parameters
    ----------
    route
        A route whose target is SmtpHost, Lmtp, SmartHostRouting or DnsRouting.
    settings
        What all hops share.

    Attributes
    ----------
    concurrency
        Transactions run at once (``limits.connections``), 0 when there is no limit; more calls wait their turn.
    """

    def __init__(self, route: Route, settings: HopSettings) -> None:
        connector = route.send_connector
        self._route = route
        self._settings = settings
        self._limits = connector.limits if connector is not None else SendLimits()
        self._fqdn = connector.fqdn if connector is not None else settings.hostname
        self._logs_in = isinstance(route.target, SmartHostRouting | Lmtp) and connector is not None
        self._mechanism = connector.auth_mechanism if self._logs_in and connector else AuthMechanism.NONE
        self.concurrency = self._limits.connections
        self._turns = asyncio.Semaphore(self.concurrency) if self.concurrency else None
        self._credentials = CredentialSource(connector, settings.read_secret)
        self._pacer = Pacer(self._limits.rate)
        self._dead = DeadHosts(settings.dead_seconds)
        self._idle: dict[SmtpSession, asyncio.TimerHandle] = {}
        self._open = settings.metrics.outbound_connections.labels(route.connector)
        self._closed = False

    async def deliver(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: Content
    ) -> Sequence[Outcome]:
        """Try once. Return one outcome per recipient, in order; never raises for anything a peer does."""
        size = content_size(content)
        if 0 < self._limits.message_size < size:
            refusal = f"552 5.3.4 message of {size} bytes exceeds the limit of {self._limits.message_size}"
            return [Outcome(Result.FAILED, refusal)] * len(recipients)
        if self._turns is None:
            return await self._paced(envelope, recipients, content)
        async with self._turns:
            return await self._paced(envelope, recipients, content)

    async def close(self) -> None:
        """Say QUIT on idle connections and close them; those in use close when their transaction ends."""
        self._closed = True
        for session, timer in self._idle.items():
            timer.cancel()
            self._discard(session)
        self._idle.clear()
        await self._credentials.close()

    async def _paced(self, envelope: Envelope, recipients: Sequence[Recipient], content: Content) -> list[Outcome]:
        wait = self._pacer.reserve(self._settings.clock())
        if wait:
            await asyncio.sleep(wait)
        outcomes: list[Outcome] = []
        for start in range(0, len(recipients), RECIPIENTS):
            outcomes += await self._try_hosts(envelope, recipients[start : start + RECIPIENTS], content)
        return outcomes

    async def _try_hosts(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: Content
    ) -> list[Outcome]:
        """Go from host to host until no recipient gains by going on."""
        outcomes: list[Outcome | None] = [None] * len(recipients)
        pending = list(range(len(recipients)))
        tried: set[Endpoint] = set()
        while True:
            found = await self._session(tried)
            if not isinstance(found, SmtpSession):
                # Keep what a host has said about a recipient; it tells more than "no other host".
                return [outcome or found for outcome in outcomes]
            tried.add(found.endpoint)
            attempts = await self._send(found, envelope, [recipients[index] for index in pending], content)
            if attempts is None:
                tried.discard(found.endpoint)
                continue
            for index, attempt in zip(pending, attempts, strict=True):
                outcomes[index] = attempt.outcome
            pending = [
                index
                for index, attempt in zip(pending, attempts, strict=True)
                if attempt.elsewhere and attempt.outcome.result is Result.DEFERRED
            ]
            if not pending:
                return [outcome for outcome in outcomes if outcome is not None]

    async def _send(
        self, session: SmtpSession, envelope: Envelope, recipients: Sequence[Recipient], content: Content
    ) -> list[Attempt] | None:
        """Run one transaction; None when a kept session turned out stale."""
        try:
            attempts = await session.send(envelope, recipients, self._leaving(session, content))
        except StaleSessionError:
            self._discard(session)
            return None
        except BaseException:
            session.abort()
            self._discard(session)
            raise
        self._keep(session)
        return attempts

    def _leaving(self, session: SmtpSession, content: Content) -> Content:
        """Return what may leave to the kind of server that the peer proved to be (spec.md 1.2)."""
        connector = self._route.send_connector
        if connector is None or connector.auth_mechanism is not AuthMechanism.EXCHANGE_SERVER:
            return content
        return outbound(content, send_permissions(connector, session.principal or Principal.ANONYMOUS)).content

    # Connections

    async def _session(self, tried: set[Endpoint]) -> SmtpSession | Outcome:
        """Return a kept session, else a new one, to an endpoint not in `tried`; else why there is none."""
        for session in reversed(self._idle):
            if session.endpoint not in tried:
                self._idle.pop(session).cancel()
                if session.usable:
                    return session
                self._discard(session)
                return await self._session(tried)
        located = await self._locate()
        if isinstance(located, NoExchanger):
            result = Result.FAILED if located.reply.code >= 500 else Result.DEFERRED
            return Outcome(result, located.reply.line)
        last = Outcome(Result.DEFERRED, "451 4.4.1 no further host to try")
        for endpoint in self._dead.order(located, self._settings.clock()):
            if endpoint in tried:
                continue
            if len(tried) >= HOSTS:
                break
            tried.add(endpoint)
            try:
                session = await open_session(endpoint, self._plan(endpoint))
            except SessionError as error:
                self._dead.died(endpoint, self._settings.clock())
                last = Outcome(Result.DEFERRED, error.reply, endpoint.label)
            else:
                self._dead.answered(endpoint)
                self._open.inc()
                return session
        return last

    async def _locate(self) -> list[Endpoint] | NoExchanger:
        settings = self._settings
        match self._route.target:
            case DnsRouting() as target:
                try:
                    resolver = settings.resolver(target.resolvers)
                except ValueError as error:
                    return NoExchanger(Reply(451, "4.3.5", f"DNS resolver of {self._route.connector}: {error}"))
                found = await locate_exchangers(
                    self._route.destination.removeprefix("dns:"),
                    resolver,
                    is_local=lambda name: (
                        name in settings.local_names
                        or name in (settings.hostname, self._fqdn)
                        or (name, target.port) in settings.local_endpoints
                    ),
                    random=settings.random,
                )
                if isinstance(found, NoExchanger):
                    return found
                return [Endpoint(host, address, target.port) for host, address in found]
            case SmartHostRouting(hosts=hosts):
                configured = hosts
            case Lmtp(host=host, port=port) | SmtpHost(host=host, port=port):
                configured = (Host(host=host, port=port),)
            case _:
                return NoExchanger(Reply(451, "4.3.5", f"{self._route.destination} is not an SMTP destination"))
        located = await locate_hosts(configured, settings.system_resolver)
        if isinstance(located, NoExchanger):
            return located
        return [Endpoint(host, address, port) for host, address, port in located]

    def _check(self, demand: TlsDemand) -> PeerCheck | None:
        connector, settings = self._route.send_connector, self._settings
        if connector is None or not demand.verified:
            return None
        return PeerCheck(
            trust=connector.tls_trust,
            bundle=settings.trust_bundle,
            crls=settings.crls,
            domain=demand.secured,
            identity=settings.identities.get(connector.name),
            told=partial(self._count_proof, demand.secured.domain if demand.secured else ""),
        )

    def _count_proof(self, domain: str, result: str) -> None:
        metrics, name = self._settings.metrics, self._route.connector
        metrics.domain_security.labels("out", name, domain, result).inc()
        if result == "ok":
            metrics.domain_security_success.labels("out", name, domain).set(time.time())

    def _plan(self, endpoint: Endpoint) -> SessionPlan:
        demand = tls_demand(self._route, endpoint.host)
        return SessionPlan(
            fqdn=self._fqdn,
            lmtp=isinstance(self._route.target, Lmtp),
            tls=demand,
            check=self._check(demand),
            trust=self._settings.trust_bundle,
            mechanism=self._mechanism,
            credentials=self._credentials.get,
            limits=self._limits,
            on_handshake=self._count_handshake,
            on_login=self._count_login,
            server_trust=self._settings.server_trust,
            on_server=self._count_server,
        )

    def _count_handshake(self, version: str, result: str) -> None:
        self._settings.metrics.tls_handshakes.labels("out", version, result).inc()

    def _count_login(self, mechanism: str, result: str) -> None:
        if result == "refused":
            self._credentials.refused()
        self._settings.metrics.outbound_logins.labels(self._route.connector, mechanism, result).inc()

    def _count_server(self, principal: str, result: str) -> None:
        self._settings.metrics.direct_trust_handshakes.labels("out", principal, result).inc()

    def _keep(self, session: SmtpSession) -> None:
        limit = self._limits.messages_per_connection
        loop = asyncio.get_running_loop()
        worn_out = 0 < limit <= session.transactions or loop.time() - session.opened > SESSION_SECONDS
        if self._closed or worn_out or not session.usable:
            self._discard(session)
            return
        self._idle[session] = loop.call_later(self._settings.idle_seconds, self._expire, session)

    def _expire(self, session: SmtpSession) -> None:
        del self._idle[session]
        self._discard(session)

    def _discard(self, session: SmtpSession) -> None:
        session.quit()
        self._open.dec()


def make_hop(route: Route, settings: HopSettings) -> SmtpHop:
    """Return the hop for a route whose target is SmtpHost, Lmtp, SmartHostRouting or DnsRouting.

    Raises
    ------
    TypeError
        The target is not delivered to by SMTP or LMTP.
    """
    if not isinstance(route.target, SmtpHost | Lmtp | SmartHostRouting | DnsRouting):
        raise TypeError(f"{route.destination} is not an SMTP or LMTP destination")
    return SmtpHop(route, settings)
