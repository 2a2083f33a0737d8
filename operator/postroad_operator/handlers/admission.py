"""The webhook put together: its index, its server, its certificate. Every replica serves, not only the leader."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from postroad_operator.compile import TierSettings
from postroad_operator.handlers.cluster import Cluster
from postroad_operator.handlers.index import Index
from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.handlers.serving import ServingCertificate
from postroad_operator.handlers.webhook import Reviewer, ServingContext, WebhookServer
from postroad_operator.publish import KubernetesApi

_log = logging.getLogger(__name__)

#: Seconds that one thread may run while another waits.
_SWITCH = 0.001


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where the webhook listens and where its certificate is.

    ``hosts`` are the names that the API server dials. ``configuration`` names the ValidatingWebhookConfiguration that
    the leader keeps up to date, making the certificate too; empty: both are somebody else's (cert-manager's).
    """

    port: int
    hosts: tuple[str, ...]
    secret: str
    configuration: str = ""


def index_for(cluster: Cluster, settings: TierSettings) -> Index:
    """Return the index of reviews, filled by the cluster's watches from now on."""
    cluster.index = Index(settings)
    return cluster.index


@contextlib.asynccontextmanager
async def webhook(
    options: WebhookSettings,
    *,
    address: str,
    namespace: str,
    index: Index,
    api: KubernetesApi,
    connect: Callable[[], KubernetesApi],
    metrics: OperatorMetrics,
    leading: Callable[[], bool],
) -> AsyncIterator[KubernetesApi]:
    """Serve for as long as the context lasts; yield the client of the webhook's own thread.

    Raises
    ------
    OSError
        The port is taken.
    """
    # A compilation in another thread would otherwise keep a review waiting 5 ms each time it lets go.
    sys.setswitchinterval(_SWITCH)
    serving = ServingContext()
    server = WebhookServer(Reviewer(index, metrics), serving, connect, address, options.port)
    certificate = ServingCertificate(
        api=api,
        serving=serving,
        metrics=metrics,
        leading=leading,
        namespace=namespace,
        name=options.secret,
        hosts=options.hosts,
        configuration=options.configuration,
    )
    try:
        _log.info("the webhook is on port %d", await server.start())
        task = asyncio.create_task(certificate.run(), name="webhook certificate")
        try:
            yield server.api
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    finally:
        await server.stop()
