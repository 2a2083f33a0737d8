"""Receive connectors as lookups: which one takes a session, and what the session may do there.

Of the connectors bound to a port, the one with the most specific remote range that holds the client's
address takes the session. Ranges are hashed by prefix length, so a selection costs one dictionary lookup
for each length in use, however many connectors and ranges there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from postroad_transport.config import Grant, Permission, ReceiveConnector, TierConfig
from postroad_transport.policy.domain_security import secured_domains
from postroad_transport.policy.networks import Network, holds, parse_address, parse_network
from postroad_transport.policy.principals import effective_permissions
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.verdict import Allow, Refuse

_CACHED_PRINCIPAL_SETS = 4096


class Access:
    """What one set of principals may do on one connector.

    Each permission that a rule asks for is an attribute and each common verdict is ready, because hashing
    an enumeration member for every question would cost more than the question.
    """

    __slots__ = (
        "any_recipient",
        "any_sender",
        "authoritative_sender",
        "bypass_size",
        "exch50",
        "login",
        "mail_rules",
        "may_submit",
        "message_rules",
        "permissions",
        "relay",
        "submit",
    )

    def __init__(self, connector: ReceiveConnector, principals: frozenset[str]) -> None:
        permissions = effective_permissions(connector.grants, principals)
        self.permissions = permissions
        self.may_submit = Permission.SUBMIT in permissions
        self.any_recipient = Permission.ACCEPT_ANY_RECIPIENT in permissions
        self.any_sender = Permission.ACCEPT_ANY_SENDER in permissions
        self.authoritative_sender = Permission.ACCEPT_AUTHORITATIVE_DOMAIN_SENDER in permissions
        self.bypass_size = Permission.BYPASS_MESSAGE_SIZE_LIMIT in permissions
        self.exch50 = Permission.ACCEPT_EXCH50 in permissions
        self.login = Allow("login", because(connector, principals, Permission.SUBMIT))
        self.submit = Allow("submit", self.login.because)
        self.relay = Allow("relay", because(connector, principals, Permission.ACCEPT_ANY_RECIPIENT))
        self.mail_rules: tuple[Callable[..., Refuse | None], ...] | None = None
        self.message_rules: tuple[Callable[..., Refuse | None], ...] | None = None
        """The rules that can refuse something here, once :mod:`.receive` has asked for them."""


class ConnectorPolicy:
    """One receive connector and the permissions it grants (spec.md 1.3 to 1.6)."""

    __slots__ = ("_access", "config", "secure_domains")

    def __init__(self, config: ReceiveConnector) -> None:
        self.config = config
        self.secure_domains = secured_domains(config)
        """Partners' domains whose mail needs a client certificate (spec.md 4)."""
        self._access: dict[frozenset[str], Access] = {}

    def access(self, principals: frozenset[str]) -> Access:
        """Return what `principals` may do here; computed once for each set of principals."""
        found = self._access.get(principals)
        if found is None:
            if len(self._access) >= _CACHED_PRINCIPAL_SETS:
                self._access.clear()
            found = self._access[principals] = Access(self.config, principals)
        return found

    def permissions(self, session: SessionFacts) -> frozenset[Permission]:
        """Return what `session` may do here: the union over its principals, where a deny beats any allow."""
        return self.access(session.principals).permissions


def because(connector: ReceiveConnector, principals: frozenset[str], permission: Permission) -> str:
    """Name the field that decides whether `principals` hold `permission` here, as ``Kind/namespace/name field``."""
    return f"{connector.source} {decisive_field(connector.grants, principals, permission)}"


def decisive_field(grants: Iterable[Grant], principals: frozenset[str], permission: Permission) -> str:
    """Name the field whose grant decides on `permission`: the first deny, else the first allow, else none."""
    allowing = ""
    for grant in grants:
        if grant.permission is permission and grant.principal in principals:
            origin = grant.origin or "spec.grants"
            if grant.deny:
                return f"{origin} denies {permission} to {grant.principal}"
            allowing = allowing or f"{origin} allows {permission} to {grant.principal}"
    return allowing or f"no field allows {permission} to {', '.join(sorted(principals)) or 'nobody'}"


class Candidate(NamedTuple):
    """One connector as a selection saw it. ``range`` is the best of its ranges that holds the address."""

    connector: ReceiveConnector
    range: str
    chosen: bool
    reason: str


class _Ranges:
    """Longest-prefix match over one address family."""

    __slots__ = ("_tables",)

    def __init__(self) -> None:
        self._tables: list[tuple[int, dict[int, ConnectorPolicy]]] = []

    def add(self, network: Network, connector: ConnectorPolicy) -> None:
        shift = network.max_prefixlen - network.prefixlen
        key = int(network.network_address) >> shift
        for known, table in self._tables:
            if known == shift:
                table.setdefault(key, connector)
                return
        self._tables.append((shift, {key: connector}))
        self._tables.sort(key=lambda entry: entry[0])

    def find(self, address: int) -> ConnectorPolicy | None:
        for shift, table in self._tables:
            found = table.get(address >> shift)
            if found is not None:
                return found
        return None


class ConnectorTable:
    """Selects the connector of a session.

    Of two connectors with the same range on the same port the one that stands first counts; the compiler
    refuses the younger of the two.
    """

    __slots__ = ("_ports", "connectors")

    connectors: tuple[ConnectorPolicy, ...]
    """In the configuration's order."""

    def __init__(self, config: TierConfig) -> None:
        self.connectors = tuple(ConnectorPolicy(connector) for connector in config.receive_connectors)
        self._ports: dict[int, tuple[_Ranges, _Ranges]] = {}
        for connector in self.connectors:
            networks = [parse_network(text) for text in connector.config.remote_ip_ranges]
            for port in {binding.port for binding in connector.config.bindings}:
                v4, v6 = self._ports.setdefault(port, (_Ranges(), _Ranges()))
                for network in networks:
                    (v4 if network.version == 4 else v6).add(network, connector)

    def select(self, port: int, remote_ip: str) -> ConnectorPolicy | None:
        """Return the connector bound to `port` whose remote range holds `remote_ip` most specifically.

        Parameters
        ----------
        port
            As it stands in the binding: 0 where the kernel chose.
        remote_ip
            The client's address; an IPv4-mapped IPv6 address counts as IPv4, a zone is ignored.

        Returns
        -------
        ConnectorPolicy or None
            None where no connector takes sessions from there, or `remote_ip` is no address.
        """
        families = self._ports.get(port)
        if families is None:
            return None
        parsed = parse_address(remote_ip)
        if parsed is None:
            return None
        version, number = parsed
        return families[0 if version == 4 else 1].find(number)

    def explain_selection(self, port: int, remote_ip: str) -> tuple[Candidate, ...]:
        """Return every connector of the tier, in order, with the reason why it was or was not selected."""
        chosen = self.select(port, remote_ip)
        parsed = parse_address(remote_ip)
        best = _best_range(chosen.config, parsed) if chosen else ""
        return tuple(
            self._candidate(connector, port, parsed, remote_ip, chosen, best) for connector in self.connectors
        )

    @staticmethod
    def _candidate(
        connector: ConnectorPolicy,
        port: int,
        parsed: tuple[int, int] | None,
        remote_ip: str,
        chosen: ConnectorPolicy | None,
        best: str,
    ) -> Candidate:
        config = connector.config
        ports = sorted({binding.port for binding in config.bindings})
        held_by = _best_range(config, parsed)
        if connector is chosen:
            reason = f"{held_by} is the most specific range on port {port} that holds {remote_ip}"
        elif port not in ports:
            reason = f"bound to port {', '.join(map(str, ports)) or 'none'}, not {port}"
        elif parsed is None:
            reason = f"{remote_ip!r} is not an IP address"
        elif not held_by:
            reason = f"none of its remoteIPRanges holds {remote_ip}"
        elif parse_network(held_by).prefixlen == parse_network(best).prefixlen:
            reason = f"{held_by} belongs to an older connector on port {port}"
        else:
            reason = f"{held_by} is less specific than {best}"
        return Candidate(config, held_by, connector is chosen, reason)


def _best_range(connector: ReceiveConnector, address: tuple[int, int] | None) -> str:
    """Return the longest of the connector's ranges that holds the address; empty where none does."""
    if address is None:
        return ""
    holding = [text for text in connector.remote_ip_ranges if holds(parse_network(text), address)]
    return max(holding, key=lambda text: parse_network(text).prefixlen, default="")
