"""What a worker answers its supervisor, over HTTP on a Unix socket."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from aiohttp import web


class Controlled(Protocol):
    """The worker as its control endpoints see it."""

    def status(self) -> dict[str, Any]:
        """Return the worker's state."""

    def metrics(self) -> list[Any]:
        """Return the worker's metrics, brought up to date."""

    async def reload(self, *, trial: bool) -> str:
        """Load (on trial: only check) a configuration; return an empty string or why it cannot be served."""

    async def queue_list(self, filters: dict[str, str]) -> list[Any]:
        """Return queued messages as plain data."""

    async def queue_show(self, message_id: str) -> Any:
        """Return one message as plain data; raise KeyError when there is none."""

    async def queue_change(
        self, action: str, *, message_id: str = "", destination: str = "", notify: bool = False
    ) -> int:
        """Retry, hold, release or delete; return how many messages that touched; KeyError for an unknown id.

        With `notify` the senders of what is deleted are told.
        """


_WORKER: web.AppKey[Controlled] = web.AppKey("worker")


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def _status(request: web.Request) -> web.Response:
    return _json(request.app[_WORKER].status())


async def _metrics(request: web.Request) -> web.Response:
    return _json(request.app[_WORKER].metrics())


async def _reload(request: web.Request) -> web.Response:
    error = await request.app[_WORKER].reload(trial=request.query.get("mode") == "trial")
    return _json({"ok": not error, "error": error})


async def _list(request: web.Request) -> web.Response:
    return _json(await request.app[_WORKER].queue_list(dict(request.query)))


async def _show(request: web.Request) -> web.Response:
    try:
        return _json(await request.app[_WORKER].queue_show(request.match_info["id"]))
    except KeyError as error:
        raise web.HTTPNotFound from error


async def _change(request: web.Request) -> web.Response:
    try:
        changed = await request.app[_WORKER].queue_change(
            request.match_info["action"],
            message_id=request.match_info.get("id", ""),
            destination=request.query.get("destination", ""),
            notify="notify" in request.query,
        )
    except KeyError as error:
        raise web.HTTPNotFound from error
    return _json({"changed": changed})


def application(worker: Controlled) -> web.Application:
    """Return the worker's control endpoints."""
    app = web.Application()
    app[_WORKER] = worker
    app.add_routes(
        [
            web.get("/status", _status),
            web.get("/metrics", _metrics),
            web.post("/reload", _reload),
            web.get("/queue", _list),
            web.get("/queue/{id}", _show),
            web.post("/queue/{action:retry|hold|release|delete}", _change),
            web.post("/queue/{id}/{action:retry|hold|release|delete}", _change),
        ]
    )
    return app
