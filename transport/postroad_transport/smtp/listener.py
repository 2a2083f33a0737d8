"""The listening sockets: one per address and port of the bindings, kept over reloads where the port stays.

A port whose connectors use implicit TLS or the PROXY protocol is accepted from by hand: the PROXY header has to
be read before TLS begins, and which certificate is presented depends on the client's address.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from postroad_transport.config import TierConfig, TlsMode
from postroad_transport.smtp.proxy import ProxyHeaderError, read_header
from postroad_transport.smtp.reception import Reception
from postroad_transport.smtp.serving import PreparedConnector, Serving
from postroad_transport.smtp.sessions import Sessions

PROXY_HEADER_TIMEOUT = 5.0
TLS_HANDSHAKE_TIMEOUT = 30.0
ACCEPT_RETRY = 0.1
"""Seconds to wait where the kernel has no descriptor left for a new connection."""


@dataclass(frozen=True, slots=True)
class PortPlan:
    """How one port is to be served. ``port`` as configured: 0 lets the kernel choose."""

    port: int
    implicit_tls: bool = False
    trusted_proxies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bound:
    """One listening socket, for ``run.json`` and the like."""

    connectors: tuple[str, ...]
    address: str
    port: int
    tls: str


def plan(config: TierConfig) -> dict[int, PortPlan]:
    """Return how each bound port is served: what its connectors' bindings say, taken together."""
    plans: dict[int, PortPlan] = {}
    for connector in config.receive_connectors:
        for binding in connector.bindings:
            known = plans.get(binding.port, PortPlan(binding.port))
            proxies = binding.proxy_protocol.trusted_ranges if binding.proxy_protocol else ()
            plans[binding.port] = PortPlan(
                binding.port,
                known.implicit_tls or binding.tls is TlsMode.IMPLICIT,
                tuple(dict.fromkeys(known.trusted_proxies + proxies)),
            )
    return plans


class _Port:
    """The sockets of one port, and what accepts from them."""

    def __init__(self, sessions: Sessions, plan: PortPlan) -> None:
        self.plan = plan
        self.sockets: list[socket.socket] = []
        self._sessions = sessions
        self._trusted = [ipaddress.ip_network(text) for text in plan.trusted_proxies]
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, addresses: Sequence[str], *, reuse_port: bool, backlog: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            for address in addresses:
                self.sockets.append(_listen(address, self.plan.port, reuse_port=reuse_port))
            for sock in self.sockets:
                if self.plan.implicit_tls or self.plan.trusted_proxies:
                    sock.listen(backlog)
                    self._spawn(self._accept(loop, sock))
                else:
                    factory = _Factory(self._sessions, self.plan.port, loop)
                    self._servers.append(await loop.create_server(factory, sock=sock, backlog=backlog))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop listening. Sessions go on."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        while True:
            try:
                sock, peer = await loop.sock_accept(listening)
            except OSError:
                if listening.fileno() < 0:
                    return
                await asyncio.sleep(ACCEPT_RETRY)
                continue
            self._spawn(self._admit(loop, sock, peer[:2]))

    async def _admit(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, peer: tuple[str, int]) -> None:
        """Read the PROXY header, finish the TLS handshake, hand the connection to a session."""
        metrics = self._sessions.serving.metrics
        handed_over = False
        try:
            peer = await self._client(sock, peer)
            connector = self._connector(peer) if self.plan.implicit_tls else None
            # From here on the socket belongs to the transport.
            handed_over = True
            if connector is None:
                await loop.connect_accepted_socket(_Factory(self._sessions, self.plan.port, loop, peer), sock)
            else:
                await self._shake_hands(loop, sock, peer, connector)
        except ProxyHeaderError:
            metrics.sessions_refused.labels("proxy_header").inc()
        except _NotServedError as error:
            # Nothing that could be said in clear would be understood here.
            metrics.sessions_refused.labels(error.reason).inc()
            await asyncio.sleep(error.delay)
        except OSError:
            metrics.sessions_refused.labels("disconnected").inc()
        finally:
            if not handed_over:
                sock.close()

    async def _shake_hands(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        peer: tuple[str, int],
        connector: PreparedConnector,
    ) -> None:
        # Else clients that never finish would be beyond the caps.
        release = self._sessions.reserve(connector, peer[0])
        try:
            await loop.connect_accepted_socket(
                _Factory(self._sessions, self.plan.port, loop, peer, release),
                sock,
                ssl=connector.tls_context,
                ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT,
            )
        except OSError as error:
            self._sessions.tls_failed(connector.config.name, peer[0], error)
        finally:
            release()

    async def _client(self, sock: socket.socket, peer: tuple[str, int]) -> tuple[str, int]:
        """Return the client's address: the peer's, or the one a trusted proxy names."""
        if not self._is_trusted(peer[0]):
            return peer
        try:
            async with asyncio.timeout(PROXY_HEADER_TIMEOUT):
                return await read_header(sock) or peer
        except TimeoutError:
            raise ProxyHeaderError("no header in time") from None

    def _connector(self, peer: tuple[str, int]) -> PreparedConnector:
        """Return the connector, with a certificate, for a client. Raises _NotServedError where it gets no session."""
        serving = self._sessions.serving
        policy = serving.tier.connectors.select(self.plan.port, peer[0])
        if policy is None:
            raise _NotServedError("no_connector")
        connector = serving.connectors[policy.config.name]
        refusal = self._sessions.admission(connector, peer[0])
        if refusal is not None:
            raise _NotServedError(refusal.reason, refusal.delay)
        if connector.tls_context is None:
            raise _NotServedError("no_certificate")
        return connector

    def _is_trusted(self, address: str) -> bool:
        if not self._trusted:
            return False
        ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in network for network in self._trusted)


class _NotServedError(Exception):
    """The client gets no session on an implicit TLS port: `reason`, a label value, and when it hears of it."""

    def __init__(self, reason: str, delay: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.delay = delay


class _Factory:
    """Makes the session of a connection."""

    __slots__ = ("_loop", "_peer", "_port", "_release", "_sessions")

    def __init__(
        self,
        sessions: Sessions,
        port: int,
        loop: asyncio.AbstractEventLoop,
        peer: tuple[str, int] | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        self._sessions = sessions
        self._port = port
        self._loop = loop
        self._peer = peer
        self._release = release

    def __call__(self) -> Reception:
        return Reception(self._sessions, self._port, peer=self._peer, loop=self._loop, release=self._release)


class Listeners:
    """The listening side of a worker.

    Parameters
    ----------
    addresses : sequence of str
        Local addresses to bind, of either family; ``0.0.0.0`` and ``::`` for all.
    reuse_port : bool
        Let several workers bind the same port; the kernel spreads connections (SO_REUSEPORT).
    """

    def __init__(
        self,
        addresses: Sequence[str] = ("0.0.0.0", "::"),  # noqa: S104 (a mail server is there to be reached)
        *,
        reuse_port: bool = True,
        backlog: int = 2048,
    ) -> None:
        self._addresses = tuple(addresses)
        self._reuse_port = reuse_port
        self._backlog = backlog
        self._ports: dict[PortPlan, _Port] = {}
        self.sessions: Sessions | None = None

    async def apply(self, serving: Serving) -> None:
        """Serve `serving`: open ports that are new, swap, close ports that are gone. Sessions go on as they are.

        A port whose TLS mode or proxies change is opened anew. When this raises, nothing has changed.

        Raises
        ------
        OSError
            A port cannot be bound.
        """
        sessions = Sessions(serving) if self.sessions is None else self.sessions
        wanted = set(plan(serving.tier.config).values())
        opened: dict[PortPlan, _Port] = {}
        try:
            for port_plan in sorted(wanted - self._ports.keys(), key=lambda item: item.port):
                opened[port_plan] = port = _Port(sessions, port_plan)
                await port.open(self._addresses, reuse_port=self._reuse_port, backlog=self._backlog)
        except BaseException:
            for port in opened.values():
                port.close()
            raise
        self.sessions = sessions
        sessions.serving = serving
        for gone in self._ports.keys() - wanted:
            self._ports.pop(gone).close()
        self._ports.update(opened)
        serving.announce()

    def bound(self) -> list[Bound]:
        """Return what listens where."""
        if self.sessions is None:
            return []
        connectors = self.sessions.serving.tier.config.receive_connectors
        found = []
        for port_plan, port in sorted(self._ports.items(), key=lambda item: item[0].port):
            here = [
                (connector.name, binding.tls)
                for connector in connectors
                for binding in connector.bindings
                if binding.port == port_plan.port
            ]
            for sock in port.sockets:
                address, number = sock.getsockname()[:2]
                found.append(Bound(tuple(name for name, _ in here), address, number, str(here[0][1])))
        return found

    def close(self) -> None:
        """Stop listening. Sessions go on."""
        for port in self._ports.values():
            port.close()
        self._ports.clear()

    async def drain(self, grace: float) -> int:
        """Stop listening, let sessions come to an end; return how many had to be aborted after `grace` seconds."""
        self.close()
        return await self.sessions.drain(grace) if self.sessions is not None else 0


def _listen(address: str, port: int, *, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock
