"""Authorities that no longer issue, and are trusted until what they issued has expired."""

from __future__ import annotations

import contextlib

from postroad_operator.certificates.store import CertificateStore

RETIRED_NAME = "_retired"
_UNTIL = "until "
_END = "-----END CERTIFICATE-----"


def read_retired(data: bytes | None) -> dict[bytes, float]:
    """Return until when (seconds since the epoch) each root (PEM) is trusted. What cannot be read is passed over."""
    roots: dict[bytes, float] = {}
    for block in (data or b"").decode("ascii", "replace").split(_UNTIL)[1:]:
        number, _, certificate = block.partition("\n")
        with contextlib.suppress(ValueError):
            if _END in certificate:
                roots[(certificate.strip() + "\n").encode()] = float(int(number))
    return roots


def write_retired(roots: dict[bytes, float]) -> bytes:
    """Return the form that :func:`read_retired` reads: explanatory text before each PEM block (RFC 7468)."""
    return b"".join(f"{_UNTIL}{until:.0f}\n".encode() + root for root, until in sorted(roots.items()))


class RetiredRoots:
    """The retired roots of one store."""

    def __init__(self, store: CertificateStore, now: float) -> None:
        self._store = store
        kept = read_retired(store.load(RETIRED_NAME))
        self._roots = {root: until for root, until in kept.items() if until > now}
        if len(self._roots) < len(kept):
            self._save()

    def retire(self, root: bytes, until: float) -> None:
        """Trust `root` (PEM) until `until`, or for as long as was said before."""
        if until > self._roots.get(root, float("-inf")):
            self._roots[root] = until
            self._save()

    @property
    def trusted(self) -> tuple[bytes, ...]:
        """Every root, in a fixed order."""
        return tuple(sorted(self._roots))

    @property
    def ends(self) -> float | None:
        """When the next one is dropped."""
        return min(self._roots.values(), default=None)

    def _save(self) -> None:
        # A store that takes nothing is reported for the certificate that is to be kept in it.
        with contextlib.suppress(OSError):
            if self._roots:
                self._store.save(RETIRED_NAME, write_retired(self._roots))
            else:
                self._store.remove(RETIRED_NAME)
