"""The operator as one process: kopf watches, the election decides who writes, the loop writes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import kopf

from postroad_operator.compile import TierSettings
from postroad_operator.handlers.admission import WebhookSettings, index_for, webhook
from postroad_operator.handlers.ask import PodClient
from postroad_operator.handlers.cluster import INPUTS, Cluster
from postroad_operator.handlers.events import Recorder
from postroad_operator.handlers.health import endpoints
from postroad_operator.handlers.leader import Election, Times
from postroad_operator.handlers.loop import Reconciler
from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.handlers.tiers import Compiler
from postroad_operator.handlers.writer import Writer
from postroad_operator.publish import ApiError, KubernetesApi, Owner
from postroad_transport.auth.token_review import ApiServer

_log = logging.getLogger(__name__)

LEASE = "postroad-operator"
#: Seconds between readings of the credentials: a service account's token is replaced within the hour.
_LOGIN = 60.0


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """What one operator process is told. ``settings.namespace`` is where it publishes and keeps its Lease."""

    settings: TierSettings
    all_namespaces: bool = False
    tiers: tuple[str, ...] = ("default",)
    owner: tuple[str, str] | None = None
    """Kind and name, in its namespace, of the object that the published ones go with."""
    address: str = "0.0.0.0"  # noqa: S104 (probes and scrapes come from other machines)
    port: int = 9926
    lease_duration: float = 12.0
    """Seconds until a standby takes over from a leader that says nothing."""
    webhook: WebhookSettings | None = None


class Backoffs:
    """Seconds between attempts of kopf's requests, without end.

    With a number of attempts a watch ends when rights are missing, or the API server is ill, for longer than they
    take; nothing starts it again.
    """

    def __iter__(self) -> Iterator[float]:
        """Start from the shortest."""
        return itertools.chain((1.0, 1.0, 2.0, 3.0, 5.0), itertools.repeat(10.0))


class NoClusterError(Exception):
    """There are no credentials, or the API server refuses them."""


def log_in(environment: Mapping[str, str] = os.environ) -> kopf.ConnectionInfo:
    """Return the pod's service account, else what the kubeconfig says. Raises NoClusterError."""
    settings = kopf.OperatorSettings()
    try:
        connection = kopf.login_with_service_account(settings=settings)
        if connection is None:
            connection = kopf.login_with_kubeconfig(settings=settings)
        elif (server := ApiServer.of_pod(environment)) is not None:
            # kopf dials a name; the address that the kubelet gives needs no cluster DNS.
            connection = replace(connection, server=server.url)
    except (OSError, ValueError, KeyError, kopf.LoginError) as error:
        raise NoClusterError(f"the credentials cannot be read: {error}") from error
    if connection is None:
        raise NoClusterError("there is neither a service account nor a kubeconfig ($KUBECONFIG, ~/.kube/config)")
    return connection


async def operate(options: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT. Raises NoClusterError, OSError (the HTTP port is taken)."""
    api = KubernetesApi(log_in())
    pods = PodClient()
    try:
        await _operate(options, api, pods)
    finally:
        await pods.close()
        await api.close()


async def _operate(options: OperatorSettings, api: KubernetesApi, pods: PodClient) -> None:
    namespace = options.settings.namespace
    metrics = OperatorMetrics()
    cluster = Cluster(namespace, LEASE)
    registry = kopf.OperatorRegistry()
    cluster.register(registry)

    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        # Kinds and namespaces are known and may not be listed with the chart's rights; kopf would try for a minute.
        settings.scanning.disabled = True
        settings.watching.server_timeout = 300
        settings.networking.request_timeout = 30
        settings.networking.error_backoffs = Backoffs()

    async def login(**_: Any) -> kopf.ConnectionInfo:
        return log_in()

    kopf.on.startup(registry=registry, id="settings")(configure)
    kopf.on.login(registry=registry, id="login")(login)

    leading = asyncio.Event()

    def changed(now_leading: bool) -> None:
        (leading.set if now_leading else leading.clear)()
        cluster.changed.set()

    identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    times = Times(options.lease_duration)
    election = Election(api, namespace, LEASE, identity, changed, times)
    recorder = Recorder(api, metrics, identity)
    watch_namespace = None if options.all_namespaces else namespace
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(
            endpoints(
                options.address,
                options.port,
                cluster,
                metrics,
                lambda: election.leading,
                dead_after=times.dead,
            )
        )
        _log.info("endpoints on port %d", port)
        clients = [api]
        if options.webhook is not None:
            reviewing = webhook(
                options.webhook,
                address=options.address,
                namespace=namespace,
                index=index_for(cluster, options.settings),
                api=api,
                connect=lambda: KubernetesApi(log_in()),
                metrics=metrics,
                leading=lambda: election.leading,
            )
            clients.append(await stack.enter_async_context(reviewing))
        await _wait_for_kinds(api, watch_namespace)
        reconciler = Reconciler(
            api=api,
            cluster=cluster,
            compiler=Compiler(api, options.settings, metrics, options.tiers),
            writer=Writer(api, metrics, lambda: election.leading, recorder),
            pods=pods,
            metrics=metrics,
            settings=options.settings,
            watch_namespace=watch_namespace,
            owner=await _owner(api, namespace, options.owner),
        )
        background = [
            asyncio.create_task(election.run(), name="election"),
            asyncio.create_task(_lead(reconciler, leading), name="reconciler"),
            asyncio.create_task(recorder.run(), name="events"),
            asyncio.create_task(_log_in_again(clients), name="credentials"),
        ]
        # On its way out kopf waits for tasks that were made after its start, then ends them; these were made before.
        watching = asyncio.create_task(
            kopf.operator(
                registry=registry,
                standalone=True,
                clusterwide=options.all_namespaces,
                namespaces=() if options.all_namespaces else (namespace,),
            ),
            name="watch",
        )
        try:
            done, _ = await asyncio.wait([watching, *background], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in [*background[::-1], watching]:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*background, watching, return_exceptions=True)


async def _wait_for_kinds(api: KubernetesApi, namespace: str | None) -> None:
    """Wait until the API server is there and lists every kind: kopf looks only once which kinds there are."""
    said = ""
    while True:
        try:
            for kind in INPUTS:
                await api.identities(kind, namespace)
        except ApiError as error:
            if str(error) != said:
                said = str(error)
                _log.warning("waiting: %s (are the CRDs installed, and may they be listed?)", said)
            await asyncio.sleep(1.0)
        else:
            return


async def _lead(reconciler: Reconciler, leading: asyncio.Event) -> None:
    """Reconcile while this replica leads."""
    while True:
        await leading.wait()
        await reconciler.run(leading)
        # It may have found that it must not write a moment before the election says so.
        await asyncio.sleep(0.5)


async def _log_in_again(clients: Sequence[KubernetesApi]) -> None:
    while True:
        await asyncio.sleep(_LOGIN)
        try:
            connection = log_in()
            for client in clients:
                client.renew(connection)
        except NoClusterError as error:
            _log.warning("%s", error)


async def _owner(api: KubernetesApi, namespace: str, wanted: tuple[str, str] | None) -> Owner | None:
    if wanted is None:
        return None
    kind, name = wanted
    try:
        found = await api.get(kind, namespace, name)
    except ApiError as error:
        raise NoClusterError(str(error)) from error
    if found is None:
        raise NoClusterError(f"there is no {kind} {name} in namespace {namespace} to own what is published")
    return Owner("apps/v1", kind, name, found["metadata"]["uid"])
