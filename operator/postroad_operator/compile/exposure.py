"""Services that hide clients' addresses: who connects through them seems to come from a node.

With ``externalTrafficPolicy: Cluster``, which is what a Service has that says nothing, a node hands a connection on
to a pod of any node and puts its own address in place of the client's. A PROXY header would still name the client.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from postroad_operator.compile.snapshot import TierSettings
from postroad_operator.resources.labels import COMPONENT, TIER, TRANSPORT
from postroad_operator.resources.receive_connector import ReceiveConnectorSpec


@dataclass(frozen=True, slots=True)
class Exposure:
    """A Service that lets clients in from outside and hides their addresses.

    ``targets`` are the ports of its pods that it leads to: numbers, or names of their containers' ports.
    """

    namespace: str
    name: str
    selector: Mapping[str, str]
    targets: tuple[int | str, ...]


class Endpoint(Protocol):
    """A transport pod, as far as Services look at it. ``ports`` are its containers' named ports."""

    @property
    def tier(self) -> str: ...  # noqa: D102 (the class says it)
    @property
    def labels(self) -> Mapping[str, str]: ...  # noqa: D102 (the same)
    @property
    def ports(self) -> Mapping[str, int]: ...  # noqa: D102 (the same)


def exposure_of(document: Mapping[str, Any]) -> Exposure | None:
    """Read a v1 Service; None for one that hides nobody. Total: whatever the document holds."""
    metadata, spec = _mapping(document.get("metadata")), _mapping(document.get("spec"))
    outside = spec.get("type") in ("LoadBalancer", "NodePort") or bool(spec.get("externalIPs"))
    # A selector that is empty selects nothing.
    selector = {str(key): str(value) for key, value in _mapping(spec.get("selector")).items()}
    if not outside or spec.get("externalTrafficPolicy") == "Local" or not selector:
        return None
    ports = spec.get("ports")
    targets = [
        port.get("targetPort") or port.get("port")
        for port in (ports if isinstance(ports, list) else ())
        if isinstance(port, Mapping) and port.get("protocol", "TCP") == "TCP"
    ]
    return Exposure(
        str(metadata.get("namespace", "")),
        str(metadata.get("name", "")),
        selector,
        tuple(target for target in targets if isinstance(target, int | str)),
    )


def hidden_ports(tier: str, exposures: Iterable[Exposure], pods: Iterable[Endpoint]) -> dict[int, tuple[str, ...]]:
    """Return the ports of a tier's pods on which clients' addresses are hidden, and the Services that hide them.

    Without pods a Service counts when its selector names the tier: the first pod reads what is published before it.
    """
    mine = [pod for pod in pods if pod.tier == tier]
    found: defaultdict[int, set[str]] = defaultdict(set)
    for exposure in exposures:
        selected = [pod for pod in mine if exposure.selector.items() <= pod.labels.items()]
        if not selected and (mine or not _names(exposure.selector, tier)):
            continue
        for target in exposure.targets:
            numbers = {target} if isinstance(target, int) else {pod.ports.get(target, 0) for pod in selected}
            for number in numbers - {0}:
                found[number].add(exposure.name)
    return {port: tuple(sorted(names)) for port, names in sorted(found.items())}


class Hiding(NamedTuple):
    """Why a connector does not see its clients' addresses, and what would show them. Parts of sentences."""

    why: str
    remedy: str


def hiding(spec: ReceiveConnectorSpec, settings: TierSettings) -> Hiding | None:
    """Return what hides the clients of a connector on any port without PROXY protocol; None where nothing does."""
    bare = [(index, binding.port) for index, binding in enumerate(spec.bindings) if binding.proxy_protocol is None]
    if bare and not settings.client_addresses_visible:
        return Hiding(
            "the tier does not see its clients' addresses",
            "Let the load balancer name its clients (spec.bindings[].proxyProtocol)",
        )
    for index, port in bare:
        if services := settings.hidden_ports.get(port):
            names = f"{'Service' if len(services) == 1 else 'Services'} {', '.join(services)}"
            return Hiding(
                f"{names} (externalTrafficPolicy: Cluster) shows nodes' addresses, not clients', on port {port}",
                f"Set externalTrafficPolicy: Local in {names}, or let the load balancer name its clients"
                f" (spec.bindings[{index}].proxyProtocol)",
            )
    return None


def _names(selector: Mapping[str, str], tier: str) -> bool:
    return selector.get(TIER) == tier and selector.get(COMPONENT, TRANSPORT) == TRANSPORT


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}
