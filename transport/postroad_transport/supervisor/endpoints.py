"""The supervisor's HTTP endpoints: what Prometheus, the kubelet, the operator and the queue command ask.

On TCP, read-only: ``/metrics``, ``/healthz``, ``/readyz``, ``/configz``. On the control socket, for whoever
may open it (mode 0600), the same and the queue: ``GET /queue``, ``GET /queue/ID``,
``POST /queue/{retry,hold,release,delete}``, ``POST /queue/ID/{retry,hold,release,delete}``, ``POST /reload``;
and the bans: ``GET /bans``, ``POST /bans/lift?subject=``.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from postroad_transport.supervisor.child import WorkerUnreachableError
from postroad_transport.supervisor.process import ReloadRefusedError, Supervisor

_SUPERVISOR = web.AppKey("supervisor", Supervisor)


class _Collected:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value) + b"\n", status=status, content_type="application/json")


async def _metrics(request: web.Request) -> web.Response:
    registry = CollectorRegistry()
    registry.register(_Collected(await request.app[_SUPERVISOR].collect()))
    return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _healthz(request: web.Request) -> web.Response:
    """Alive while the supervisor's loop turns; workers are its own business."""
    return web.Response(text="ok\n")


async def _readyz(request: web.Request) -> web.Response:
    workers = await request.app[_SUPERVISOR].status()
    missing = [worker["index"] for worker in workers if "error" in worker]
    if missing or not workers:
        return web.Response(status=503, text=f"not ready: workers {missing} do not serve\n")
    return web.Response(text="ok\n")


async def _configz(request: web.Request) -> web.Response:
    supervisor = request.app[_SUPERVISOR]
    workers = await supervisor.status()
    hashes = {worker.get("hash") for worker in workers}
    config = supervisor.config
    return _json(
        {
            "hash": hashes.pop() if len(hashes) == 1 else None,
            "wanted": supervisor.config_hash,
            "lastError": supervisor.last_error,
            "tier": config.tier if config else None,
            "generations": config.generations if config else {},
            "thumbprints": [certificate.thumbprint for certificate in config.certificates] if config else [],
            "workers": workers,
        }
    )


async def _reload(request: web.Request) -> web.Response:
    try:
        return _json({"ok": True, "hash": await request.app[_SUPERVISOR].reload()})
    except ReloadRefusedError as error:
        return _json({"ok": False, "error": str(error)}, status=409)


async def _everywhere(request: web.Request, method: str, path: str) -> list[Any]:
    """Ask every worker; leave out those that do not know the message."""

    async def ask(child: Any) -> Any:
        try:
            return await child.call(method, path, **request.query)
        except (WorkerUnreachableError, LookupError):
            return None

    answers = await asyncio.gather(*(ask(child) for child in request.app[_SUPERVISOR].children))
    return [answer for answer in answers if answer is not None]


async def _queue_list(request: web.Request) -> web.Response:
    messages = [message for answer in await _everywhere(request, "GET", "/queue") for message in answer]
    messages.sort(key=lambda message: message["receivedAt"])
    return _json(messages[: int(request.query.get("limit", "1000"))])


async def _queue_one(request: web.Request) -> web.Response:
    answers = await _everywhere(request, request.method, request.path)
    if not answers:
        return _json({"error": f"no message {request.match_info['id']} in the queue"}, status=404)
    return _json(answers[0])


async def _queue_many(request: web.Request) -> web.Response:
    answers = await _everywhere(request, "POST", request.path)
    return _json({"changed": sum(answer["changed"] for answer in answers)})


async def _bans(request: web.Request) -> web.Response:
    return _json([ban._asdict() for ban in await request.app[_SUPERVISOR].bans()])


async def _lift_bans(request: web.Request) -> web.Response:
    try:
        lifted = await request.app[_SUPERVISOR].lift_bans(request.query.get("subject", ""))
    except OSError as error:
        return _json({"error": str(error)}, status=503)
    return _json({"lifted": lifted})


def application(supervisor: Supervisor, *, control: bool) -> web.Application:
    """Return the endpoints; those that change something only with `control`."""
    app = web.Application()
    app[_SUPERVISOR] = supervisor
    app.add_routes(
        [
            web.get("/metrics", _metrics),
            web.get("/healthz", _healthz),
            web.get("/readyz", _readyz),
            web.get("/configz", _configz),
        ]
    )
    if control:
        app.add_routes(
            [
                web.post("/reload", _reload),
                web.get("/bans", _bans),
                web.post("/bans/lift", _lift_bans),
                web.get("/queue", _queue_list),
                web.get("/queue/{id}", _queue_one),
                web.post("/queue/{action:retry|hold|release|delete}", _queue_many),
                web.post("/queue/{id}/{action:retry|hold|release|delete}", _queue_one),
            ]
        )
    return app
