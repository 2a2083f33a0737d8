"""The tier's own authority, and the one that follows it: first both are trusted, then the new one issues.

A successor is made :data:`RENEW_BEFORE` the end of the authority and stands in the trust bundle at once. After
:data:`OVERLAP` it issues, and every certificate of the old one is made again. The old one stays trusted until the
last certificate that it issued has expired.
"""

from __future__ import annotations

from enum import Enum, auto

from cryptography import x509

from postroad_operator.certificates.authority import BACKDATE, Authority, create_authority, load_authority
from postroad_operator.certificates.material import CertificateError, key_pem, load_chain, pem
from postroad_operator.certificates.retired import RetiredRoots
from postroad_operator.certificates.store import CertificateStore

#: Store names of the tier's own authority and of its successor; no Kubernetes object can have them, for names hold
#: no underscore.
AUTHORITY_NAME = "_authority"
SUCCESSOR_NAME = "_authority-next"
AUTHORITY_COMMON_NAME = "Postroad private CA"

_DAY = 86_400.0
#: Seconds before its end at which an authority gets a successor.
RENEW_BEFORE = 365 * _DAY
#: Seconds for which a successor is only trusted, so that clients know it before they meet what it issued.
OVERLAP = 30 * _DAY


class Step(Enum):
    """What to do about the tier's own authority."""

    KEEP = auto()
    SUCCEED = auto()
    """Make a successor."""
    PROMOTE = auto()
    """Have the successor issue from now on."""


def next_step(current: x509.Certificate, successor: x509.Certificate | None, now: float) -> tuple[Step, float]:
    """Return what to do at `now`, and when the next step is due, in seconds since the epoch.

    An authority that ended without a successor is kept, for its end to be reported: it is never replaced by itself.
    """
    end = current.not_valid_after_utc.timestamp()
    if successor is None:
        due = end - RENEW_BEFORE
        return (Step.SUCCEED if due <= now < end else Step.KEEP), due
    due = min(end, (successor.not_valid_before_utc + BACKDATE).timestamp() + OVERLAP)
    return (Step.PROMOTE if now >= due else Step.KEEP), due


class OwnAuthority:
    """The tier's own authority in a store, made when first needed."""

    def __init__(self, store: CertificateStore, retired: RetiredRoots, now: float) -> None:
        self._store = store
        self._retired = retired
        self._now = now
        self.successor_pem = b""
        """The successor's certificate, while it is trusted and does not issue."""
        self.look_at: float | None = None
        """When the next step is due."""
        self.is_new = False
        """There was none before: who took the one before away does not want it trusted."""

    def get(self) -> Authority:
        """Return the authority that issues now. Raises CertificateError, OSError."""
        kept = self._store.load(AUTHORITY_NAME)
        if kept is None:
            self.is_new = True
            return self._made(AUTHORITY_NAME)
        where = "the tier's own authority"
        current = load_chain(kept, where)[0]
        successor = self._successor()
        step, due = next_step(current, successor.certificate if successor else None, self._now)
        if step is Step.PROMOTE and successor is not None:
            return self._promoted(current, successor)
        if step is Step.SUCCEED:
            successor = self._made(SUCCESSOR_NAME)
            _, due = next_step(current, successor.certificate, self._now)
        self.successor_pem = successor.trust_pem if successor else b""
        self.look_at = due if due > self._now else None
        # A damaged or expired authority is reported, not replaced: every client would have to trust anew.
        return load_authority(kept, kept, self._now, where=where)

    def _successor(self) -> Authority | None:
        kept = self._store.load(SUCCESSOR_NAME)
        if kept is None:
            return None
        try:
            return load_authority(kept, kept, self._now)
        except CertificateError:
            # It has issued nothing yet: another one takes its place.
            return None

    def _made(self, name: str) -> Authority:
        authority = create_authority(AUTHORITY_COMMON_NAME, self._now)
        self._store.save(name, key_pem(authority.key) + pem(*authority.chain))
        return authority

    def _promoted(self, current: x509.Certificate, successor: Authority) -> Authority:
        self._retired.retire(pem(current), self._now + OVERLAP)
        self._store.save(AUTHORITY_NAME, key_pem(successor.key) + pem(*successor.chain))
        self._store.remove(SUCCESSOR_NAME)
        _, self.look_at = next_step(successor.certificate, None, self._now)
        return successor
