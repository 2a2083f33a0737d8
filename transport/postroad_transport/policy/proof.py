"""What TLS has proved of the other side: a plain value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from postroad_transport.policy.certificate import covers


class Flaw(StrEnum):
    """What is wrong with the other side's proof: also the label value of metrics."""

    NO_TLS = "no_tls"
    NO_CERTIFICATE = "no_certificate"
    UNTRUSTED = "untrusted"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    INVALID = "invalid"
    """Damaged, for another purpose, or against its authority's constraints."""
    REVOKED = "revoked"
    NO_CRL = "no_crl"
    """Whether it was revoked cannot be found out now."""
    NAME = "name"
    LOCAL = "local"
    """Nothing is wrong with the other side: this one cannot do its part."""


@dataclass(frozen=True, slots=True)
class PeerProof:
    """What TLS has proved of the other side. ``names`` are the certificate's DNS names.

    ``flaw`` is None where chain and revocation are in order; else ``detail`` tells more, in words for the other side.
    """

    names: tuple[str, ...] = ()
    flaw: Flaw | None = None
    detail: str = ""


NO_CERTIFICATE = PeerProof((), Flaw.NO_CERTIFICATE, "no certificate was presented")
NO_TLS = PeerProof((), Flaw.NO_TLS, "TLS was not used")


def for_names(proof: PeerProof, wanted: Iterable[str]) -> PeerProof:
    """Return `proof`, flawed where it is for none of the `wanted` names (RFC 9525 section 6)."""
    wanted = tuple(wanted)
    if proof.flaw is not None or any(covers(name, target) for name in proof.names for target in wanted):
        return proof
    holds = ", ".join(proof.names[:5]) or "no DNS name"
    return PeerProof(proof.names, Flaw.NAME, f"the certificate is for {holds}, not for {' or '.join(wanted)}")
