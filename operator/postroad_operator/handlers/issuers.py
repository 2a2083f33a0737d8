"""cert-manager Certificates for TransportCertificates with ``issuerRef``: made, put right, followed, taken back.

They are asked for rather than watched: cert-manager may come and go while the operator runs, and what it issues shows
in its Secrets, which are watched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from postroad_operator.certificates import CertificateError, IssuerState, certificate_document
from postroad_operator.certificates.adapter import issued_name
from postroad_operator.certificates.cert_manager import (
    KIND,
    NOT_INSTALLED,
    REQUEST_KIND,
    belongs,
    differs,
    issuer_state,
    request_name,
)
from postroad_operator.handlers.cluster import Watched
from postroad_operator.publish import ApiError, KubernetesApi
from postroad_operator.resources import TransportCertificate

_log = logging.getLogger(__name__)

#: Seconds between looks at a certificate that cert-manager is at work on, that is refused, that is ready.
AT_WORK, REFUSED, READY = 1.0, 10.0, 60.0


@dataclass(frozen=True, slots=True)
class _Look:
    uid: str
    generation: int
    state: IssuerState
    again: float
    """Monotonic time of the next look."""


class Issuers:
    """Follows the cert-manager Certificates of all tiers."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._looks: dict[str, _Look] = {}

    async def follow(self, certificates: Iterable[Watched]) -> dict[str, IssuerState]:
        """Return how far cert-manager is with each of `certificates` that has ``issuerRef``, by source."""
        states: dict[str, IssuerState] = {}
        for watched in certificates:
            resource = watched.parsed
            if not isinstance(resource, TransportCertificate):
                continue
            if resource.spec.issuer_ref is None:
                if watched.status.get("secretName"):
                    await self._take_back(resource)
                self._looks.pop(resource.source, None)
                continue
            states[resource.source] = await self._state(resource)
        return states

    def wait(self) -> float:
        """Return after how many seconds one of them has to be looked at again."""
        now = time.monotonic()
        return min((max(0.0, look.again - now) for look in self._looks.values()), default=float("inf"))

    def forget(self, alive: Iterable[str]) -> None:
        """Drop what is known of all but these sources."""
        kept = set(alive)
        self._looks = {source: look for source, look in self._looks.items() if source in kept}

    async def _state(self, resource: TransportCertificate) -> IssuerState:
        identity = resource.metadata.uid, resource.metadata.generation
        known = self._looks.get(resource.source)
        if known is not None and (known.uid, known.generation) == identity and time.monotonic() < known.again:
            return known.state
        state = await self._look(resource)
        again = REFUSED if state.refusal else READY if state.ready else AT_WORK
        self._looks[resource.source] = _Look(*identity, state, time.monotonic() + again)
        return state

    async def _look(self, resource: TransportCertificate) -> IssuerState:
        namespace, name = resource.metadata.namespace, issued_name(resource.metadata.name)
        try:
            wanted = certificate_document(resource)
        except CertificateError as error:
            return IssuerState(refusal="; ".join(error.problems))
        try:
            observed = await self._api.get(KIND, namespace, name)
            if observed is not None and not belongs(observed, resource):
                return IssuerState(
                    refusal=f"spec.issuerRef: there is a Certificate {name} of somebody else in namespace"
                    f" {namespace}: rename one of them"
                )
            if observed is None or differs(observed, wanted):
                observed = await self._api.apply(wanted)
        except ApiError as error:
            return _refused(error, name)
        state = issuer_state(observed)
        return (
            state if state.ready else issuer_state(observed, await self._request(namespace, request_name(observed)))
        )

    async def _request(self, namespace: str, name: str) -> dict[str, Any] | None:
        try:
            return await self._api.get(REQUEST_KIND, namespace, name)
        except ApiError as error:
            # It only explains; the certificate comes without it.
            _log.debug("%s", error)
            return None

    async def _take_back(self, resource: TransportCertificate) -> None:
        """Delete the Certificate that an earlier ``issuerRef`` asked for: it would be renewed for ever."""
        namespace, name = resource.metadata.namespace, issued_name(resource.metadata.name)
        try:
            observed = await self._api.get(KIND, namespace, name)
            if observed is not None and belongs(observed, resource):
                await self._api.delete(KIND, namespace, name, observed["metadata"]["uid"])
        except ApiError as error:
            _log.info("%s", error)


def _refused(error: ApiError, name: str) -> IssuerState:
    if error.code == 404:
        return IssuerState(refusal=NOT_INSTALLED)
    if error.code in (401, 403):
        return IssuerState(refusal=f"spec.issuerRef: the operator may not manage cert-manager Certificates ({error})")
    if error.code in (400, 422):
        return IssuerState(refusal=f"spec.issuerRef: the Certificate {name} is refused ({error})")
    # Its webhook, or the API server, is away: no reason to hold up the rest of the tier.
    return IssuerState(message=f"the Certificate {name} cannot be written now ({error}); trying again")
