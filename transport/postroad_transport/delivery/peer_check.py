"""What a next hop must prove before mail goes over its session, and what this tier proves to it (spec.md 4)."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from postroad_transport.config import SecureDomain, TlsTrust
from postroad_transport.policy.proof import Flaw, PeerProof, for_names
from postroad_transport.tls.crl_store import CrlStore


@dataclass(frozen=True, slots=True)
class PeerCheck:
    """Verifies the peer's chain and revocation after the handshake, and for a secured domain its name.

    ``identity`` presents this tier's certificate to secured domains; None: there is none to present. ``told`` hears
    how each session with a secured domain came out: ``ok``, or a :class:`Flaw`.
    """

    trust: TlsTrust
    bundle: str
    crls: CrlStore
    domain: SecureDomain | None = None
    identity: ssl.SSLContext | None = None
    told: Callable[[str], None] = lambda result: None
    clock: Callable[[], float] = time.time

    async def verify(self, presented: Sequence[bytes]) -> PeerProof:
        """Return what the peer has proved. May wait for revocation lists."""
        from postroad_transport.tls.peer import verify_peer  # here, since few sessions need OpenSSL's bindings

        proof = await verify_peer(presented, self.trust, self.bundle, self.crls, clock=self.clock)
        if self.domain is not None:
            proof = for_names(proof, self.domain.names)
            self.tell(proof.flaw)
        return proof

    def tell(self, flaw: Flaw | None) -> None:
        """Report how a session with a secured domain came out."""
        if self.domain is not None:
            self.told(str(flaw or "ok"))
