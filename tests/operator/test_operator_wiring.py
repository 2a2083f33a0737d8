"""The operator whole, on an API server that kmock plays: watch, compile, apply, ask, status. Runs everywhere.

What kmock does not play is left to the tests on a real one: validation, server-side apply and its owners, conflicts
of versions, rights, streams that end.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp import web
from kmock import KubernetesEmulator, Server, method, resource

from postroad_operator.compile import TierSettings
from postroad_operator.handlers.service import OperatorSettings, operate

NAMESPACE = "mail"
OURS = "postroad.dev/v1alpha1"
KINDS = {
    f"{OURS}/receiveconnectors": "ReceiveConnector",
    f"{OURS}/sendconnectors": "SendConnector",
    f"{OURS}/accepteddomains": "AcceptedDomain",
    f"{OURS}/transportcertificates": "TransportCertificate",
    "v1/configmaps": "ConfigMap",
    "v1/secrets": "Secret",
    "v1/pods": "Pod",
    "v1/services": "Service",
    "coordination.k8s.io/v1/leases": "Lease",
    "events.k8s.io/v1/events": "Event",
    # kopf begins with these.
    "v1/namespaces": "Namespace",
    "apiextensions.k8s.io/v1/customresourcedefinitions": "CustomResourceDefinition",
}
DOMAIN = {"domain": "mail.example", "deliver": {"maildir": {"path": "mail/{local}"}}}


@attrs.define(kw_only=True)
class ApiServer(KubernetesEmulator):
    """kmock's server, with what its writes lack: versions, generations, identities, an apply that creates."""

    version: int = attrs.field(default=0, init=False)
    forbidden: set[str] = attrs.field(factory=set, init=False)
    """Plurals whose writes are refused."""

    async def _handle(self, request: Any) -> Any:
        if request.resource is None or request.method not in (method.POST, method.PUT, method.PATCH):
            return await super()._handle(request)
        if request.resource.plural in self.forbidden:
            return web.json_response({"kind": "Status", "reason": "Forbidden"}, status=403)
        body = request.data
        key = (request.resource, NAMESPACE, body["metadata"]["name"])
        if request.subresource:
            body = {**self.objects[key].raw, "status": body["status"]}
        await self.put(request.resource, body)
        return web.json_response(self.objects[key].raw)

    async def put(self, kind: resource, body: dict[str, Any]) -> None:
        """Create an object, or replace it, as a user does."""
        key, body = (kind, NAMESPACE, body["metadata"]["name"]), copy.deepcopy(body)
        async with self._lock:
            known = key in self.objects and not self.objects[key].deleted
            before = self.objects[key].raw if known else {}
            had = before.get("metadata", {})
            self.version += 1
            body["metadata"] |= {
                "namespace": NAMESPACE,
                "uid": had.get("uid", f"uid-{self.version}"),
                "resourceVersion": str(self.version),
                "generation": had.get("generation", 0) + ("spec" in body and body["spec"] != before.get("spec")),
            }
            if known:
                self.objects[key].patch(body)
            else:
                self.objects[key] = body
            event = {"type": "MODIFIED" if known else "ADDED", "object": self.objects[key].raw}
            await self._buses[kind].put(event)


@attrs.define
class World:
    """The server, and what a user does and sees."""

    api: ApiServer
    metrics: str = ""
    served: str = ""
    """The hash that the pod says it serves."""

    def kind(self, name: str) -> resource:
        return resource(next(path for path, kind in KINDS.items() if kind == name))

    async def apply(self, kind: str, name: str, **fields: Any) -> None:
        await self.api.put(self.kind(kind), {"kind": kind, "metadata": {"name": name}, **fields})

    async def delete(self, kind: str, name: str) -> None:
        group = self.kind(kind)
        root = f"/apis/{group.group}/{group.version}" if group.group else "/api/v1"
        async with self.api.delete(f"{root}/namespaces/{NAMESPACE}/{group.plural}/{name}") as response:
            assert response.status == 200

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        key = (self.kind(kind), NAMESPACE, name)
        return self.api.objects[key].raw if key in self.api.objects and not self.api.objects[key].deleted else None

    def condition(self, kind: str, name: str, which: str) -> dict[str, Any]:
        conditions = ((self.get(kind, name) or {}).get("status") or {}).get("conditions") or ()
        return next((dict(item) for item in conditions if item["type"] == which), {})

    def published(self) -> dict[str, str]:
        found = self.get("ConfigMap", "postroad-default") or {}
        return dict(found.get("metadata", {}).get("annotations") or {})

    async def until(self, true: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.02)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """An operator, one pod, one domain."""
    async with ApiServer() as api, Server(api) as server:
        for path, kind in KINDS.items():
            api.resources[path] = {
                "kind": kind,
                "singular": kind.lower(),
                "namespaced": True,
                "verbs": {"list", "watch"},
            }
        config = {
            "clusters": [{"name": "c", "cluster": {"server": str(server.url)}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        world = World(api)
        async with pod(world) as port:
            await world.apply("AcceptedDomain", "mail", spec=DOMAIN)
            await world.apply("Pod", "p", **_pod(port))
            settings = TierSettings(namespace=NAMESPACE, hostname="mx.example")
            options = OperatorSettings(settings, address="127.0.0.1", port=0, lease_duration=2.0)
            running = asyncio.create_task(operate(options))
            try:
                await world.until(lambda: running.done() or world.condition("AcceptedDomain", "mail", "Accepted"))
                yield world
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running


@contextlib.asynccontextmanager
async def pod(world: World) -> AsyncIterator[int]:
    """Play a transport pod that says that it serves ``world.served``."""

    async def configz(_request: web.Request) -> web.Response:
        return web.json_response({"hash": world.served, "generations": {}})

    app = web.Application()
    app.add_routes([web.get("/configz", configz)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _pod(port: int) -> dict[str, Any]:
    ports = [{"name": "metrics", "containerPort": port}]
    return {
        "metadata": {
            "name": "p",
            "labels": {"app.kubernetes.io/component": "transport", "postroad.dev/tier": "default"},
        },
        "spec": {"containers": [{"ports": ports}]},
        "status": {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }


async def test_a_resource_is_compiled_published_asked_for_and_programmed(world: World) -> None:
    assert world.published()["postroad.dev/resources"] == "1"
    assert world.condition("AcceptedDomain", "mail", "Programmed")["status"] == "False"
    wanted = world.published()["postroad.dev/config-hash"]
    await world.until(lambda: (world.get("Pod", "p") or {})["metadata"].get("annotations"))
    assert (world.get("Pod", "p") or {})["metadata"]["annotations"]["postroad.dev/config-hash"] == wanted
    world.served = wanted
    await world.until(lambda: world.condition("AcceptedDomain", "mail", "Programmed")["status"] == "True")
    assert "1 of 1 ready pods" in world.condition("AcceptedDomain", "mail", "Programmed")["message"]


async def test_a_change_and_a_deletion_are_published(world: World) -> None:
    before = world.published()["postroad.dev/config-hash"]
    await world.apply("AcceptedDomain", "other", spec={**DOMAIN, "domain": "other.example"})
    await world.until(lambda: world.published()["postroad.dev/resources"] == "2")
    await world.delete("AcceptedDomain", "other")
    await world.until(lambda: world.published()["postroad.dev/config-hash"] == before)


async def test_a_bad_resource_says_why_and_heals_with_what_it_refers_to(world: World) -> None:
    spec = {
        "bindings": [{"port": 587}],
        "authMechanisms": ["BasicAuthRequireTLS", "TLS"],
        "authentication": {"htpasswdSecretRef": {"name": "accounts", "key": "htpasswd"}},
    }
    await world.apply("ReceiveConnector", "r", spec=spec)
    await world.until(lambda: world.condition("ReceiveConnector", "r", "Accepted").get("reason") == "RefNotFound")
    assert world.published()["postroad.dev/resources"] == "1"
    await world.apply(
        "Secret",
        "accounts",
        data={"htpasswd": "YTokMmIkMDQkNnRjZElaRTdrNzQ5S21LaU9CYnZ0ZTlUOS41T1pvenBucy96ZlBGQldKYjlYS2pXbGouSS4K"},
    )
    await world.until(lambda: world.condition("ReceiveConnector", "r", "Accepted")["status"] == "True")
    assert world.published()["postroad.dev/resources"] == "2"


async def test_what_somebody_deletes_is_put_back(world: World) -> None:
    before = world.published()
    await world.delete("ConfigMap", "postroad-default")
    await world.until(lambda: world.published() == before)


async def test_what_the_api_server_forbids_is_told_and_heals(world: World) -> None:
    world.api.forbidden.add("configmaps")
    await world.apply("AcceptedDomain", "mail", spec={**DOMAIN, "domain": "moved.example"})
    await world.until(lambda: world.condition("AcceptedDomain", "mail", "Programmed")["reason"] == "Blocked")
    assert "configmaps/postroad-default: 403" in world.condition("AcceptedDomain", "mail", "Programmed")["message"]
    world.api.forbidden.clear()
    await world.until(lambda: world.condition("AcceptedDomain", "mail", "Programmed")["reason"] == "Waiting")


async def test_one_writer_keeps_the_lease_and_gives_it_back(world: World) -> None:
    lease = world.get("Lease", "postroad-operator")
    assert lease is not None
    assert lease["spec"]["holderIdentity"]
    version = lease["metadata"]["resourceVersion"]
    await world.until(
        lambda: (world.get("Lease", "postroad-operator") or {})["metadata"]["resourceVersion"] != version
    )
