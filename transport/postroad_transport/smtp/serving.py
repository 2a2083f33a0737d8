"""Everything sessions serve from, built beside the old one at a reload and swapped in one assignment."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from postroad_transport.auth.authenticator import Authenticator, build
from postroad_transport.auth.ban_store import BanStore
from postroad_transport.auth.bans import ConnectorBans
from postroad_transport.auth.sources import Sources
from postroad_transport.config import ReceiveConnector, TierConfig, TlsMode, TlsTrust
from postroad_transport.config.files import read_secret
from postroad_transport.message import Content, Envelope
from postroad_transport.policy.authentication import EXPS_GSSAPI, check_auth
from postroad_transport.policy.certificate import Selection, names_served, select
from postroad_transport.policy.connectors import ConnectorPolicy
from postroad_transport.policy.direct_trust import VERB, check_anonymous_tls
from postroad_transport.policy.principals import initial_principals
from postroad_transport.policy.proof import PeerProof
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.tarpit import turned_away
from postroad_transport.policy.tier import TierPolicy
from postroad_transport.policy.verdict import Allow
from postroad_transport.smtp.received import message_id
from postroad_transport.spool.store import Store
from postroad_transport.telemetry.events import EventLog
from postroad_transport.telemetry.metrics import Metrics
from postroad_transport.tls.crl_store import CrlStore
from postroad_transport.tls.direct_trust import TrustContexts, trust_contexts
from postroad_transport.tls.presenting import Presented, present
from postroad_transport.tls.staple_store import StapleStore

OnCommitted = Callable[[Envelope, Content], None]


class PreparedConnector:
    """A receive connector with all that its sessions need, ready-made. Read-only."""

    def __init__(
        self,
        policy: ConnectorPolicy,
        *,
        selection: Selection,
        presented: Presented | None,
        authenticator: Authenticator,
        bans: ConnectorBans,
        metrics: Metrics,
        server_trust: TrustContexts | None = None,
    ) -> None:
        config = policy.config
        self.policy = policy
        self.config = config
        self.selection = selection
        self.presented = presented
        self.tls_context = presented and presented.context
        self.server_trust = server_trust
        self.authenticator = authenticator
        self.asks_for_certificate = asks_for_certificate(config)
        self.bans = bans
        self.principals = initial_principals(config)
        self.tls_modes = {binding.port: binding.tls for binding in config.bindings}
        self.greeting = f"220 {config.fqdn} {config.banner or 'ESMTP Postroad'}\r\n".encode()
        self.helo_reply = f"250 {config.fqdn}\r\n".encode()
        self.extensions = frozenset(config.extensions)
        self._ehlo = {
            (mode, tls, exch50, certified): _ehlo_reply(
                config, self._offers(mode, tls=tls, exch50=exch50, certified=certified)
            )
            for mode in TlsMode
            for tls in (False, True)
            for exch50 in (False, True)
            for certified in {False, self.asks_for_certificate and tls}
        }
        # Then a client that may not log in has nothing to do here.
        self.is_for_logins_only = (
            bool(authenticator) and server_trust is None and not policy.access(self.principals).may_submit
        )
        self.sessions = metrics.sessions.labels(config.name)
        self.sessions_open = metrics.sessions_open.labels(config.name)
        self.messages_received = metrics.messages_received.labels(config.name)
        self.bytes_received = metrics.bytes_received.labels(config.name)
        self.accept_seconds = metrics.accept_seconds.labels(config.name)

    def offers_starttls(self, mode: TlsMode, *, tls: bool) -> bool:
        """Tell whether STARTTLS is offered (spec.md 3: only with a certificate)."""
        return self.tls_context is not None and mode is TlsMode.STARTTLS and not tls

    def offers_auth(self, *, tls: bool, certified: bool = False) -> list[str]:
        """Return the mechanisms that are offered (spec.md 2.1); `certified`: to whom showed a certificate."""
        facts = SessionFacts(remote_ip="", local_port=0, tls=tls, client_certificate=certified)
        return [name for name in self.authenticator.names if isinstance(check_auth(self.policy, facts, name), Allow)]

    def ehlo_reply(self, mode: TlsMode, facts: SessionFacts) -> bytes:
        """Return the whole reply to EHLO: what this session, as it is now, may use."""
        return self._ehlo[mode, facts.tls, self.policy.access(facts.principals).exch50, facts.client_certificate]

    def _offers(self, mode: TlsMode, *, tls: bool, exch50: bool, certified: bool) -> list[str]:
        offers = ["STARTTLS"] if self.offers_starttls(mode, tls=tls) else []
        if self.server_trust is not None and mode is TlsMode.STARTTLS and not tls:
            offers.append(VERB)
        mechanisms = self.offers_auth(tls=tls, certified=certified)
        offers += (name for name in mechanisms if name == EXPS_GSSAPI)
        if sasl := [name for name in mechanisms if name != EXPS_GSSAPI]:
            offers.append("AUTH " + " ".join(sasl))
        if exch50:
            offers.append("XEXCH50")
        return offers


def _ehlo_reply(config: ReceiveConnector, more: list[str]) -> bytes:
    offered = set(config.extensions)
    if "CHUNKING" not in offered or "8BITMIME" not in offered:
        offered.discard("BINARYMIME")
    if "SIZE" in offered:
        offered.remove("SIZE")
        offered.add(f"SIZE {config.limits.message_size}")
    lines = [config.fqdn, *sorted(offered), *more]
    return b"".join(
        f"250{'-' if number < len(lines) else ' '}{line}\r\n".encode() for number, line in enumerate(lines, 1)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a worker serves. A session keeps the one it began with.

    ``on_committed`` is called synchronously, right after the commit and before the 250, and must not raise.
    Times are seconds; ``clock`` gives seconds since the epoch.
    """

    tier: TierPolicy
    connectors: dict[str, PreparedConnector]
    store: Store
    metrics: Metrics
    events: EventLog
    on_committed: OnCommitted
    crls: CrlStore = field(default_factory=CrlStore)
    clock: Callable[[], float] = time.time
    random_bits: Callable[[int], int] = field(default=Random().getrandbits)  # noqa: S311 - no secret
    """For identifiers, which need to differ; seeded by the system, with one system call instead of one each."""
    line_length_limit: int = 65_536
    """Bytes of a line in a message; 0: none."""
    minimum_rate: float = 100.0
    """Bytes per second below which a sender of content is cut once its idle time is used up."""

    @property
    def hostname(self) -> str:
        """The server's own name."""
        return self.tier.config.hostname

    def new_message_id(self) -> str:
        """Return a fresh identifier."""
        return message_id(self.clock(), self.random_bits(40))

    def turned_away(self, tarpit: float) -> float:
        """Return the seconds until a client that is turned away now hears of it; see :mod:`..policy.tarpit`."""
        return turned_away(tarpit, self.random_bits(16) / 2**16)

    def resuming(self) -> dict[ssl.SSLContext, bytes]:
        """Return the TLS contexts whose clients may resume sessions, each with its identity."""
        presented = (connector.presented for connector in self.connectors.values())
        return {item.context: item.resumes_as for item in presented if item is not None and item.resumes_as}

    def announce(self) -> None:
        """Report what certificate selection found (spec.md 3): to be called when this begins to be served."""
        for connector in self.connectors.values():
            for event in connector.selection.events:
                self.metrics.certificate_events.labels(connector.config.name, str(event)).inc()
                self.events.emit(
                    "certificate.selection",
                    connector=connector.config.name,
                    name=connector.config.fqdn,
                    code=event,
                    certificate=connector.selection.certificate and connector.selection.certificate.name,
                    beside=[certificate.name for certificate in connector.selection.beside] or None,
                )
            for problem in connector.presented.unusable if connector.presented else ():
                self.events.emit("certificate.unusable", connector=connector.config.name, problem=problem)
            for problem in connector.authenticator.problems:
                self.events.emit("accounts.problem", connector=connector.config.name, problem=problem)


def prepare(
    config: TierConfig,
    directory: Path,
    *,
    store: Store,
    metrics: Metrics,
    events: EventLog,
    on_committed: OnCommitted,
    sources: Sources,
    bans: BanStore | None = None,
    crls: CrlStore | None = None,
    staples: StapleStore | None = None,
    clock: Callable[[], float] = time.time,
) -> Serving:
    """Build what is to be served from a configuration and the secrets beside it in `directory`.

    Reads secret files, changes nothing, announces nothing. Without `bans` nobody is banned.

    Raises
    ------
    ConfigError
        A certificate, a key or an accounts file cannot be used.
    """
    tier = TierPolicy(config)
    now = clock()
    trust = trust_contexts(config.direct_trust, directory)
    crls = crls or CrlStore(clock=clock)
    names = names_served(config.certificates, now=now)
    connectors = {}
    for policy in tier.connectors.connectors:
        connector = policy.config
        selection = select(connector.fqdn or config.hostname, config.certificates, connector.auth_mechanisms, now=now)
        authenticator = build(
            connector, partial(read_secret, directory), sources.lease(), metrics, judge=partial(_judge, crls, clock)
        )
        presented = present(
            connector,
            selection,
            names,
            directory,
            asks=asks_for_certificate(connector),
            logs_in=bool(authenticator),
            staples=staples,
        )
        trusts = isinstance(check_anonymous_tls(connector, config, TlsMode.STARTTLS, tls=False), Allow)
        connectors[connector.name] = PreparedConnector(
            policy,
            selection=selection,
            presented=presented,
            authenticator=authenticator,
            bans=ConnectorBans(
                connector.name, connector.authentication.bans, bans, metrics=metrics, events=events, clock=clock
            ),
            metrics=metrics,
            server_trust=trust if trusts else None,
        )
    return Serving(
        tier=tier,
        connectors=connectors,
        store=store,
        metrics=metrics,
        events=events,
        on_committed=on_committed,
        crls=crls,
        clock=clock,
    )


def asks_for_certificate(connector: ReceiveConnector) -> bool:
    """Tell whether clients are asked for a certificate: for domain security, or to log in with it."""
    return bool(connector.secure_domains) or connector.authentication.client_certificates is not None


async def _judge(crls: CrlStore, clock: Callable[[], float], chain: Sequence[bytes], trust: TlsTrust) -> PeerProof:
    from postroad_transport.tls.peer import verify_peer  # here, since few connectors need OpenSSL's bindings

    return await verify_peer(chain, trust, "", crls, clock=clock)
