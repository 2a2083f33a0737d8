"""A tier of three pods that offers STARTTLS, what its sessions are shown, and what the statuses say of it."""

from __future__ import annotations

import contextlib
import hashlib
import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster_kit import Cluster, condition, settled_tier
from control_plane import ControlPlane, free_port, wait_for

PORT = free_port()
KIND = "TransportCertificate"


def tls_cluster(plane: ControlPlane, namespace: str, directory: Path) -> contextlib.AbstractContextManager[Cluster]:
    """Return a settled tier, with the certificate ``mail`` of its own authority."""
    return settled_tier(plane, namespace, directory, PORT)


@contextlib.contextmanager
def session(address: str) -> Iterator[tuple[smtplib.SMTP, str]]:
    """Open a session under TLS; yield it with the thumbprint that it was shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP(address, PORT, timeout=20) as client:
        client.starttls(context=context)
        sock = client.sock
        assert isinstance(sock, ssl.SSLSocket)
        shown = sock.getpeercert(binary_form=True)
        assert shown is not None
        yield client, hashlib.sha256(shown).hexdigest()


def shown(cluster: Cluster) -> set[str]:
    """Return the thumbprints that new sessions are shown by all pods."""
    found = set()
    for pod in cluster.pods:
        with session(pod.address) as (_, thumbprint):
            found.add(thumbprint)
    return found


def status(cluster: Cluster, name: str) -> dict[str, Any]:
    return dict((cluster.get(KIND, name) or {}).get("status") or {})


def accepted(cluster: Cluster, name: str) -> dict[str, Any]:
    return condition(cluster.get(KIND, name), "Accepted")


def served(cluster: Cluster, name: str, *, unlike: str = "") -> dict[str, Any]:
    """Wait until all three pods serve a certificate other than `unlike`; return the status."""

    def look() -> dict[str, Any] | None:
        now = status(cluster, name)
        return now if now.get("servedBy") == "3/3" and now["thumbprint"] != unlike else None

    return dict(wait_for(look, timeout=40, what=f"{name} to be served by 3/3: {status(cluster, name)}"))
