"""The webhook's certificate: made and renewed by the leader, loaded by every replica, trusted by the API server.

The leader keeps it in a Secret, with the authority that issued it, and writes the authority's certificate into the
ValidatingWebhookConfiguration. The rules are those of the tiers' own certificates: a new authority is trusted for
weeks before it issues anything. Where something else (cert-manager) fills the Secret and the configuration, the
replicas only load what is there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from postroad_operator.certificates import CertificateError, CertificateRequest, KeySource, ensure
from postroad_operator.certificates.bundle import read_bundle
from postroad_operator.certificates.store import store_name
from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.handlers.webhook import ServingContext
from postroad_operator.publish import ApiError, KubernetesApi, SecretBundles

_log = logging.getLogger(__name__)

_CONFIGURATION = "ValidatingWebhookConfiguration"
#: Seconds between looks at the Secret.
LOOK = 5.0
#: Seconds between looks at the configuration when nothing is due: somebody may have replaced it.
CHECK = 60.0


@dataclass(slots=True)
class ServingCertificate:
    """Keeps what the webhook serves at what the Secret ``name`` holds.

    ``hosts`` are the names that the API server dials. ``configuration`` is the ValidatingWebhookConfiguration to keep
    up to date; empty: Secret and configuration are somebody else's.
    """

    api: KubernetesApi
    serving: ServingContext
    metrics: OperatorMetrics
    leading: Callable[[], bool]
    namespace: str
    name: str
    hosts: tuple[str, ...]
    configuration: str = ""
    _version: str = ""
    _check_at: float = 0.0
    _said: str = field(default="", repr=False)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.look(time.time())
            except ApiError as error:
                self._say(str(error))
            except (CertificateError, ssl.SSLError, OSError) as error:
                self._say(f"the webhook's certificate in Secret {self.name} cannot be used: {error}")
            else:
                self._said = ""
            await asyncio.sleep(LOOK)

    async def look(self, now: float) -> None:
        """Do what is due at `now`, in seconds since the epoch. Raises ApiError, CertificateError, OSError."""
        secret = await self.api.get("Secret", self.namespace, self.name)
        version = str(secret["metadata"].get("resourceVersion")) if secret else ""
        trust = b""
        if self.configuration and self.leading() and (now >= self._check_at or version != self._version):
            bundles = SecretBundles("", self.namespace, secret, name=self.name)
            trust = self._ensure(bundles, now)
            if await bundles.write(self.api):
                _log.info("made a certificate for the webhook: %s", ", ".join(self.hosts))
                secret = await self.api.get("Secret", self.namespace, self.name)
        if secret is not None:
            self._load(secret)
        if trust:
            await self._trust(trust)
            self._check_at = now + CHECK

    @property
    def _request(self) -> CertificateRequest:
        return CertificateRequest("webhook", f"Webhook/{self.namespace}/{self.name}", self.hosts, KeySource.CA)

    def _ensure(self, bundles: SecretBundles, now: float) -> bytes:
        """Make or renew the certificate in the store; return what the API server has to trust."""
        request = self._request
        ensured = ensure([request], {}, bundles, now)
        if problems := ensured.problems.get(request.source):
            raise CertificateError(*problems)
        return ensured.trust_pem

    async def _trust(self, trust: bytes) -> None:
        """Write the authorities into the configuration, if they are not what is there."""
        found = await self.api.get(_CONFIGURATION, None, self.configuration)
        if found is None:
            raise ApiError(404, f"there is no {_CONFIGURATION} {self.configuration}")
        bundle = base64.b64encode(trust).decode()
        hooks = found.get("webhooks") or []
        if all(hook["clientConfig"].get("caBundle") == bundle for hook in hooks):
            return
        document = {
            "apiVersion": found["apiVersion"],
            "kind": _CONFIGURATION,
            "metadata": {"name": self.configuration, "uid": found["metadata"]["uid"]},
            "webhooks": [{"name": hook["name"], "clientConfig": {"caBundle": bundle}} for hook in hooks],
        }
        await self.api.apply(document)
        self.metrics.writes.labels(_CONFIGURATION, "caBundle").inc()

    def _load(self, secret: dict[str, Any]) -> None:
        version = str(secret["metadata"].get("resourceVersion"))
        if version == self._version:
            return
        chain, key = _pair(secret.get("data") or {}, store_name(self._request.source))
        self.serving.load(chain, key)
        self._version = version
        _log.info("the webhook serves the certificate in Secret %s", self.name)

    def _say(self, text: str) -> None:
        """Log a trouble once, not at every look."""
        if text != self._said:
            self._said = text
            _log.warning("%s", text)


def _pair(data: dict[str, str], bundle: str) -> tuple[bytes, bytes]:
    """Return chain and key (PEM) from a Secret's data: the operator's own form, or that of kubernetes.io/tls."""

    def value(key: str) -> bytes:
        try:
            return base64.b64decode(data.get(key) or "")
        except (binascii.Error, ValueError):
            return b""

    if own := read_bundle(value(f"{bundle}.pem") or None):
        material = own.material()
        return material.chain_pem, material.key_pem
    if not value("tls.crt") or not value("tls.key"):
        raise CertificateError("it holds no tls.crt and tls.key")
    return value("tls.crt"), value("tls.key")
