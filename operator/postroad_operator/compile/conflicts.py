"""Conflicts between receive connectors: who listens where, for whom, is decided once and for the older one."""

from __future__ import annotations

from postroad_operator.compile.verdict import Reason, RefusedError
from postroad_transport.config import ProxyProtocol, ReceiveConnector, TlsMode


class PortClaims:
    """Ports and ranges taken so far. Feed it connectors from the oldest to the newest."""

    def __init__(self) -> None:
        self._ranges: dict[tuple[int, str], str] = {}
        self._listeners: dict[int, tuple[bool, ProxyProtocol | None, str]] = {}

    def claim(self, connector: ReceiveConnector) -> None:
        """Take the connector's ports and ranges.

        Different ranges may share a port (the most specific wins), the same range may not. What happens before a
        connector is chosen, PROXY header and implicit TLS, must be the same for all on the port.

        Raises
        ------
        RefusedError
            An older connector has one of them; nothing is taken.
        """
        bindings = [(index, binding) for index, binding in enumerate(connector.bindings) if binding.port]
        for index, binding in bindings:
            field = f"spec.bindings[{index}]"
            implicit, proxy, owner = self._listeners.get(
                binding.port, (binding.tls is TlsMode.IMPLICIT, binding.proxy_protocol, "")
            )
            if implicit is not (binding.tls is TlsMode.IMPLICIT):
                raise _conflict(f"{field}.tls", f"port {binding.port} is {'' if implicit else 'not '}Implicit", owner)
            if proxy != binding.proxy_protocol:
                raise _conflict(f"{field}.proxyProtocol", f"port {binding.port} has other trustedRanges", owner)
            for network in connector.remote_ip_ranges:
                if owner := self._ranges.get((binding.port, network), ""):
                    raise _conflict(
                        f"{field}.port, spec.remoteIPRanges", f"port {binding.port} for {network} is taken", owner
                    )
        for _, binding in bindings:
            self._listeners.setdefault(
                binding.port, (binding.tls is TlsMode.IMPLICIT, binding.proxy_protocol, connector.source)
            )
            self._ranges.update(((binding.port, network), connector.source) for network in connector.remote_ip_ranges)


def _conflict(field: str, what: str, owner: str) -> RefusedError:
    return RefusedError(Reason.CONFLICT, f"{field}: {what} by {owner}, which is older: change or remove one of them")
