"""The admission webhook's HTTPS server: an event loop and a thread of its own.

A review takes about a millisecond, but the operator's loop may be busy for a few hundred with thousands of statuses;
the API server and whoever typed kubectl would wait for it. kopf's own server does not serve here: it closes all
connections to take a new certificate, and every replica would write a configuration of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from aiohttp import web

from postroad_operator.admission import Operation, Request, RequestError, Review, request_of, review
from postroad_operator.handlers.index import Index
from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.publish import ApiError, KubernetesApi
from postroad_operator.resources import API_VERSION, Resource, parse

_log = logging.getLogger(__name__)

PATH = "/validate"
#: Largest body: two versions of the largest object that the API server stores, and what is around them.
_MAX_BODY = 8 * 2**20
#: Others whose present state is asked for before a conflict is believed.
_MAX_RIVALS = 8
#: Seconds that the thread has to start and to end.
_PATIENCE = 10.0


class ServingContext:
    """A TLS context whose certificate can be replaced while it serves: new connections get the new one."""

    def __init__(self) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    def load(self, chain: bytes, key: bytes) -> None:
        """Serve this certificate (PEM). Raises ssl.SSLError, OSError; then the old one stays."""
        # The ssl module reads keys from files only; the directory is private and gone at once.
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "pair.pem")
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(key.rstrip(b"\n") + b"\n" + chain)
            self.context.load_cert_chain(path)


class Reviewer:
    """Answers AdmissionReviews over what the watches have shown."""

    def __init__(self, index: Index, metrics: OperatorMetrics) -> None:
        self._index = index
        self._metrics = metrics

    async def answer(self, api: KubernetesApi, request: Request) -> Review:
        """Judge a change. Reads, and writes nothing, dry run or not."""
        found = self._review(request, {})
        if found.rivals:
            # The watch may be a moment behind: one that was just deleted or changed is no rival any more.
            found = self._review(request, await _current(api, found.rivals))
        return found

    def _review(self, request: Request, fresh: dict[str, Resource | None]) -> Review:
        document = request.after if request.operation is not Operation.DELETE else request.before
        spec = (document or {}).get("spec")
        tier = spec.get("tier", "default") if isinstance(spec, dict) else "default"
        with self._index.world(tier if isinstance(tier, str) else "default") as world:
            return review(world, request, fresh=fresh)

    async def handle(self, api: KubernetesApi, body: object) -> web.Response:
        """Answer one HTTP request."""
        started = time.perf_counter()
        try:
            request = request_of(body)
        except RequestError as error:
            return web.Response(status=400, text=f"{error}\n")
        try:
            found = await self.answer(api, request)
        except Exception:
            # The API server goes by its failurePolicy; what went wrong is for our log only.
            _log.exception("a review failed")
            self._metrics.reviews.labels(request.kind, "failed").inc()
            return web.Response(status=500, text="the review failed\n")
        verdict = "refused" if not found.allowed else "warned" if found.warnings else "allowed"
        self._metrics.reviews.labels(request.kind, verdict).inc()
        self._metrics.review_seconds.observe(time.perf_counter() - started)
        return web.json_response(found.answer(request.uid))


async def _current(api: KubernetesApi, sources: tuple[str, ...]) -> dict[str, Resource | None]:
    """Return resources as the API server has them now; one that cannot be read is left as it is known."""
    fresh: dict[str, Resource | None] = {}
    for source in sources[:_MAX_RIVALS]:
        kind, namespace, name = source.split("/")
        try:
            document = await api.get(kind, namespace, name)
        except ApiError as error:
            _log.info("%s", error)
            continue
        if document is None or document["metadata"].get("deletionTimestamp"):
            fresh[source] = None
        else:
            parsed = parse({**document, "apiVersion": API_VERSION, "kind": kind})
            if isinstance(parsed, Resource):
                fresh[source] = parsed
    return fresh


class WebhookServer:
    """The server's thread. ``connect`` makes the client that it asks the API server with; called in the thread."""

    def __init__(
        self,
        reviewer: Reviewer,
        serving: ServingContext,
        connect: Callable[[], KubernetesApi],
        address: str,
        port: int,
    ) -> None:
        self._reviewer = reviewer
        self._serving = serving
        self._connect = connect
        self._address = address
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._api: KubernetesApi | None = None

    @property
    def api(self) -> KubernetesApi:
        """The client of the thread, once it has started."""
        if self._api is None:
            raise RuntimeError("the webhook has not started")
        return self._api

    async def start(self) -> int:
        """Start; return the port. Raises OSError when it is taken."""
        self._thread.start()
        return await asyncio.wait_for(asyncio.wrap_future(self._started), _PATIENCE)

    async def stop(self) -> None:
        """End the thread; reviews that have begun are answered."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            await asyncio.to_thread(self._thread.join, _PATIENCE)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            else:
                _log.exception("the webhook has ended")
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._api = api = self._connect()

        async def validate(request: web.Request) -> web.Response:
            try:
                body = await request.json()
            except ValueError:
                return web.Response(status=400, text="not JSON\n")
            return await self._reviewer.handle(api, body)

        app = web.Application(client_max_size=_MAX_BODY)
        app.add_routes([web.post(PATH, validate)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._address, self._port, ssl_context=self._serving.context).start()
            self._started.set_result(runner.addresses[0][1])
            await self._stop.wait()
        finally:
            await runner.cleanup()
            await api.close()
