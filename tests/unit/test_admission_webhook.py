"""The webhook's server and its certificate, without an API server: TLS, renewal, what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from compile_kit import adom, tcert
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from postroad_operator.certificates import CertificateError
from postroad_operator.compile import IssuedCertificate, Snapshot, TierSettings, compile_tier
from postroad_operator.handlers.index import Index
from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.handlers.serving import ServingCertificate
from postroad_operator.handlers.webhook import Reviewer, ServingContext, WebhookServer
from postroad_operator.publish import ApiError, config_map
from postroad_operator.resources import Resource
from postroad_transport.config import Certificate

DAY = 86_400.0
START = 1_900_000_000.0
CONFIGURATION = "postroad-mail"


class FakeApi:
    """Objects by kind and name, with the few requests that are made here."""

    def __init__(self) -> None:
        hooks = [{"name": name, "clientConfig": {"url": "https://localhost"}} for name in ("a", "b")]
        self.objects: dict[tuple[str, str], dict[str, Any]] = {
            ("ValidatingWebhookConfiguration", CONFIGURATION): {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "metadata": {"name": CONFIGURATION, "uid": "u"},
                "webhooks": hooks,
            }
        }
        self.writes: list[str] = []
        self.asked: list[str] = []
        self.broken = False

    async def get(self, kind: str, _namespace: str | None, name: str) -> dict[str, Any] | None:
        self.asked.append(f"{kind}/{name}")
        if self.broken:
            raise ApiError(0, "GET: no answer")
        return copy.deepcopy(self.objects.get((kind, name)))

    async def create(self, document: dict[str, Any]) -> dict[str, Any]:
        return await self.replace(document)

    async def replace(self, document: dict[str, Any]) -> dict[str, Any]:
        self.writes.append(document["kind"])
        document["metadata"]["resourceVersion"] = str(len(self.writes))
        self.objects[document["kind"], document["metadata"]["name"]] = copy.deepcopy(document)
        return document

    async def apply(self, document: dict[str, Any]) -> None:
        self.writes.append(document["kind"])
        for hook, change in zip(self.hooks(), document["webhooks"], strict=True):
            assert hook["name"] == change["name"]
            hook["clientConfig"] |= change["clientConfig"]

    async def close(self) -> None:
        return None

    def hooks(self) -> list[dict[str, Any]]:
        return list(self.objects["ValidatingWebhookConfiguration", CONFIGURATION]["webhooks"])

    def bundle(self) -> bytes:
        (found,) = {hook["clientConfig"]["caBundle"] for hook in self.hooks()}
        return base64.b64decode(found)


class Loaded(ServingContext):
    def __init__(self) -> None:
        super().__init__()
        self.chains: list[bytes] = []

    def load(self, chain: bytes, key: bytes) -> None:
        super().load(chain, key)
        self.chains.append(chain)


def certificate(
    api: FakeApi, serving: ServingContext, *, leads: bool = True, made: bool = True
) -> ServingCertificate:
    client: Any = api
    return ServingCertificate(
        api=client,
        serving=serving,
        metrics=OperatorMetrics(),
        leading=lambda: leads,
        namespace="mail",
        name="postroad-webhook",
        hosts=("localhost", "postroad-webhook.mail.svc"),
        configuration=CONFIGURATION if made else "",
    )


def verifies(chain: bytes, bundle: bytes, moment: float) -> bool:
    """Tell whether a client that trusts `bundle` takes the certificate at `moment`."""
    leaf = x509.load_pem_x509_certificates(chain)[0]
    if not leaf.not_valid_before_utc.timestamp() <= moment < leaf.not_valid_after_utc.timestamp():
        return False
    for root in x509.load_pem_x509_certificates(bundle):
        try:
            leaf.verify_directly_issued_by(root)
        except (ValueError, InvalidSignature):
            continue
        return root.not_valid_after_utc.timestamp() > moment
    return False


async def test_the_leader_makes_it_and_has_it_trusted() -> None:
    api, serving = FakeApi(), Loaded()
    await certificate(api, serving).look(START)
    assert api.writes == ["Secret", "ValidatingWebhookConfiguration"]
    (chain,) = serving.chains
    assert verifies(chain, api.bundle(), START)
    names = x509.load_pem_x509_certificates(chain)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "postroad-webhook.mail.svc" in names.value.get_values_for_type(x509.DNSName)


async def test_nothing_is_written_twice_and_a_standby_loads_the_same() -> None:
    api, serving, other = FakeApi(), Loaded(), Loaded()
    keeper = certificate(api, serving)
    await keeper.look(START)
    writes = list(api.writes)
    await keeper.look(START + 300)
    await certificate(api, other, leads=False).look(START + 300)
    assert api.writes == writes
    assert other.chains == serving.chains


async def test_it_is_renewed_and_at_every_moment_of_twelve_years_trusted() -> None:
    api, serving = FakeApi(), Loaded()
    keeper = certificate(api, serving)
    bundles = set()
    before = b""
    for day in range(0, 365 * 12, 15):
        now = START + day * DAY
        await keeper.look(now)
        chain, bundle = serving.chains[-1], api.bundle()
        assert verifies(chain, bundle, now), day
        # An API server that has not seen the newest bundle yet still trusts what is served.
        assert not before or verifies(chain, before, now), day
        bundles.add(bundle)
        before = bundle
    assert len(serving.chains) > 40
    assert len(bundles) >= 3


async def test_a_bundle_that_somebody_changed_is_put_right() -> None:
    api, serving = FakeApi(), Loaded()
    keeper = certificate(api, serving)
    await keeper.look(START)
    bundle = api.bundle()
    api.hooks()[1]["clientConfig"]["caBundle"] = "AAAA"
    await keeper.look(START + 61)
    assert api.bundle() == bundle


async def test_without_its_configuration_it_serves_and_looks_again() -> None:
    api, serving = FakeApi(), Loaded()
    kept = api.objects.pop(("ValidatingWebhookConfiguration", CONFIGURATION))
    keeper = certificate(api, serving)
    with pytest.raises(ApiError, match="there is no"):
        await keeper.look(START)
    assert len(serving.chains) == 1
    api.objects["ValidatingWebhookConfiguration", CONFIGURATION] = kept
    await keeper.look(START + 5)
    assert verifies(serving.chains[0], api.bundle(), START)


async def test_cert_managers_secret_is_only_loaded() -> None:
    made, api, serving = FakeApi(), FakeApi(), Loaded()
    await certificate(made, Loaded()).look(START)
    ours = made.objects["Secret", "postroad-webhook"]["data"]
    (bundle,) = [base64.b64decode(text) for name, text in ours.items() if name.startswith("Webhook.")]
    split = bundle.index(b"-----BEGIN CERTIFICATE")
    data = {"tls.key": bundle[:split], "tls.crt": bundle[split:]}
    api.objects["Secret", "postroad-webhook"] = {
        "metadata": {"name": "postroad-webhook", "resourceVersion": "9"},
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }
    await certificate(api, serving, made=False).look(START)
    assert len(serving.chains) == 1
    assert api.writes == []


async def test_a_secret_that_turns_to_garbage_leaves_the_old_certificate() -> None:
    api, serving = FakeApi(), Loaded()
    await certificate(api, serving).look(START)
    api.objects["Secret", "postroad-webhook"]["data"] = {"tls.crt": "AAAA", "tls.key": "???"}
    api.objects["Secret", "postroad-webhook"]["metadata"]["resourceVersion"] = "99"
    with pytest.raises((CertificateError, ssl.SSLError)):
        await certificate(api, serving, leads=False).look(START + 5)
    assert len(serving.chains) == 1


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[int, ssl.SSLContext, FakeApi, Index, OperatorMetrics]]:
    """A running webhook, and a context that trusts it."""
    api, serving, metrics = FakeApi(), ServingContext(), OperatorMetrics()
    await certificate(api, serving).look(time.time())
    index = Index(TierSettings(namespace="default"))
    client: Any = api
    server = WebhookServer(Reviewer(index, metrics), serving, lambda: client, "127.0.0.1", 0)
    port = await server.start()
    try:
        yield port, ssl.create_default_context(cadata=api.bundle().decode()), api, index, metrics
    finally:
        await server.stop()


def body(item: Any, operation: str = "CREATE") -> bytes:
    document = item.model_dump(by_alias=True, mode="json", exclude_unset=True)
    request = {
        "uid": "u1",
        "kind": {"group": "postroad.dev", "version": "v1alpha1", "kind": item.kind},
        "operation": operation,
        "object": document,
        "dryRun": True,
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


async def post(port: int, context: ssl.SSLContext, content: bytes) -> tuple[int, bytes]:
    def send() -> tuple[int, bytes]:
        request = urllib.request.Request(f"https://localhost:{port}/validate", content, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    return await asyncio.to_thread(send)


async def test_it_answers_over_tls(served: Any) -> None:
    port, context, api, index, metrics = served
    code, content = await post(port, context, body(adom("a.example")))
    assert (code, json.loads(content)) == (
        200,
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": {"uid": "u1", "allowed": True},
        },
    )
    first = adom("a.example", name="first")
    index.put(first)
    stored = first.model_dump(by_alias=True, mode="json", exclude_unset=True)
    api.objects["AcceptedDomain", "first"] = {"apiVersion": "x", **stored}
    response = json.loads((await post(port, context, body(adom("a.example", name="second"))))[1])["response"]
    assert not response["allowed"]
    assert response["status"]["code"] == 409
    # The rival was asked for, and is gone a moment later.
    assert "AcceptedDomain/first" in api.asked
    del api.objects["AcceptedDomain", "first"]
    assert json.loads((await post(port, context, body(adom("a.example", name="second"))))[1])["response"]["allowed"]
    api.broken = True
    assert not json.loads((await post(port, context, body(adom("a.example", name="second"))))[1])["response"][
        "allowed"
    ]
    count = metrics.registry.get_sample_value
    kind = {"kind": "AcceptedDomain"}
    assert count("postroad_operator_reviews_total", kind | {"verdict": "refused"}) == 2
    assert count("postroad_operator_reviews_total", kind | {"verdict": "allowed"}) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"apiVersion": "admission.k8s.io/v1"}'])
async def test_what_is_no_review_gets_400(served: Any, content: bytes) -> None:
    port, context, *_ = served
    assert (await post(port, context, content))[0] == 400


async def test_a_fault_of_ours_is_a_500_without_details(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    port, context, *_, metrics = served

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("inner words")

    monkeypatch.setattr("postroad_operator.handlers.webhook.review", fail)
    code, content = await post(port, context, body(adom("a.example")))
    assert (code, b"inner" in content) == (500, False)
    labels = {"kind": "AcceptedDomain", "verdict": "failed"}
    assert metrics.registry.get_sample_value("postroad_operator_reviews_total", labels) == 1


async def test_published_certificates_are_known_by_their_own_names() -> None:
    resource = tcert("mail", ca={}, dnsNames=["asked.example"])
    assert isinstance(resource, Resource)
    issued = Certificate(
        name="mail",
        source=resource.source,
        thumbprint="00",
        dns_names=("issued.example",),
        self_signed=False,
        not_before=0.0,
        not_after=1e12,
        chain_file="c",
        key_file="k",
    )
    compilation = compile_tier(
        Snapshot(TierSettings(), (resource,), {resource.source: IssuedCertificate(issued, {"c": b"", "k": b""})})
    )
    index = Index(TierSettings())
    index.put(resource)
    index.publish("postroad-default", "1", config_map(compilation, "default"))
    with index.world("default") as world:
        assert world.certificates[resource.source].certificate.dns_names == ("issued.example",)
    index.publish("postroad-default", "2", {"binaryData": {"config.json.gz": "garbage"}})
    with index.world("default") as world:
        assert world.certificates == {}
