"""The operator's own HTTP endpoints: ``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import generate_latest

from postroad_operator.handlers.cluster import Cluster
from postroad_operator.handlers.metrics import OperatorMetrics


@asynccontextmanager
async def endpoints(
    address: str,
    port: int,
    cluster: Cluster,
    metrics: OperatorMetrics,
    leading: Callable[[], bool],
    *,
    dead_after: float,
) -> AsyncIterator[int]:
    """Serve the endpoints; yield the port. Raises OSError when it is taken.

    The health check fails when the watch has shown nothing for `dead_after` seconds.
    """

    async def healthz(_request: web.Request) -> web.Response:
        silent = time.monotonic() - cluster.last_heard
        if silent > dead_after:
            return web.Response(status=503, text=f"the watch has shown nothing for {silent:.0f} s\n")
        return web.Response(text="ok\n")

    async def show(_request: web.Request) -> web.Response:
        metrics.leader.set(leading())
        metrics.watch_age.set(time.monotonic() - cluster.last_heard)
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", healthz), web.get("/metrics", show)])
    # No idle connection may hold up the end of the process.
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
