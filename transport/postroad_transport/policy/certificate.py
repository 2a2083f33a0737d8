"""Which certificate an inbound session's STARTTLS presents (spec.md section 3)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from postroad_transport.config import AuthMechanism, Certificate

#: Event raised when no certificate fits the name, so STARTTLS is not offered.
NO_CERTIFICATE = 12014
#: Event raised when the certificate that is offered has expired.
EXPIRED_CERTIFICATE = 12016

SMTP_SERVICE = "SMTP"


class Selection(NamedTuple):
    """What a connector offers.

    ``certificate`` is None exactly when ``advertise`` is false. ``events`` holds at most one of
    :data:`NO_CERTIFICATE` and :data:`EXPIRED_CERTIFICATE`.
    """

    certificate: Certificate | None
    advertise: bool
    events: tuple[int, ...]


def covers(pattern: str, name: str) -> bool:
    """Tell whether the certificate name `pattern` stands for `name`.

    Comparison ignores case and a final dot. A leading ``*`` stands for exactly one whole label
    (RFC 9525 section 6.3).
    """
    pattern = pattern.lower().removesuffix(".")
    name = name.lower().removesuffix(".")
    if not name or "*" in name:
        return False
    if pattern == name:
        return True
    if not pattern.startswith("*."):
        return False
    label, dot, parent = name.partition(".")
    return bool(label and dot) and parent == pattern[2:]


def eligible(certificate: Certificate, name: str) -> bool:
    """Tell whether `certificate` is a candidate for `name` (spec.md section 3, step 3)."""
    return (
        certificate.version >= 3
        and bool(certificate.key_file)
        and SMTP_SERVICE in certificate.services
        and (covers(certificate.common_name, name) or any(covers(san, name) for san in certificate.dns_names))
    )


def select(
    name: str, certificates: Iterable[Certificate], mechanisms: Collection[AuthMechanism], *, now: float
) -> Selection:
    """Choose the certificate that a connector serves (spec.md section 3).

    Parameters
    ----------
    name
        The connector's ``fqdn``, or the server's own when that is empty.
    certificates
        Everything in the store, in any order: the result does not depend on it.
    mechanisms
        The connector's authentication mechanisms; without ``TLS`` nothing is offered.
    now
        Seconds since the epoch.
    """
    if AuthMechanism.TLS not in mechanisms:
        return Selection(None, False, ())
    best = min((item for item in certificates if eligible(item, name)), key=_rank, default=None)
    if best is None:
        return Selection(None, False, (NO_CERTIFICATE,))
    return Selection(best, True, (EXPIRED_CERTIFICATE,) if best.not_after < now else ())


def _rank(certificate: Certificate) -> tuple[bool, float, float, str, str]:
    # The thumbprint settles what the rules leave open, so that every worker serves the same certificate.
    return (
        certificate.self_signed,
        -certificate.not_before,
        -certificate.not_after,
        certificate.thumbprint,
        certificate.source,
    )
