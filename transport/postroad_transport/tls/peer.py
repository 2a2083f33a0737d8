"""Verifying the other side of a TLS session: chain, then revocation. The name is for whoever asks."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

from postroad_transport.config import RevocationMode, TlsTrust
from postroad_transport.policy.proof import NO_CERTIFICATE, Flaw, PeerProof
from postroad_transport.tls.chain import UNREADABLE, dns_names, validate
from postroad_transport.tls.crl_store import CrlStore
from postroad_transport.tls.revocation import flaw_of


async def verify_peer(
    presented: Sequence[bytes],
    trust: TlsTrust,
    bundle: str,
    crls: CrlStore,
    *,
    clock: Callable[[], float] = time.time,
) -> PeerProof:
    """Return what a presented chain proves. Never raises for what it is made of; may wait for revocation lists.

    Parameters
    ----------
    presented
        Certificates in DER, the other side's own first: see :func:`presented_chain`.
    trust, bundle
        Whom to believe; `bundle` is the tier's own trust bundle, in PEM.
    crls
        Where revocation lists come from.
    clock
        Seconds since the epoch.
    """
    if not presented:
        return NO_CERTIFICATE
    path = validate(presented, trust, bundle, clock())
    if isinstance(path, PeerProof):
        return path
    mode = trust.revocation.mode
    try:
        if mode is not RevocationMode.OFF:
            lists = await crls.lists(path, trust.revocation)
            if (flaw := flaw_of(path, lists, mode, clock())) is not None:
                return flaw
        return PeerProof(dns_names(path[0]))
    except UNREADABLE:
        return PeerProof((), Flaw.INVALID, "the certificate cannot be read")


def presented_chain(tls: Any) -> list[bytes]:
    """Return the certificates that the other side has presented, in DER, its own first; none of it is verified.

    Parameters
    ----------
    tls
        The transport's ``ssl_object``.
    """
    if isinstance(tls, ssl.SSLObject) and not hasattr(tls, "get_unverified_chain"):
        # Public from Python 3.13 on; before, the same method is one level down.
        chain = getattr(tls, "_sslobj").get_unverified_chain() or ()  # noqa: B009 (not in the stubs)
        return [certificate.public_bytes(_DER) for certificate in chain]
    return list(tls.get_unverified_chain() or ()) if tls is not None else []


_DER = 2  # _ssl.ENCODING_DER
