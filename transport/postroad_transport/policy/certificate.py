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


def reason(
    name: str, certificates: Iterable[Certificate], mechanisms: Collection[AuthMechanism], *, now: float
) -> str:
    """Say in one sentence why :func:`select` chose what it chose. The parameters are the same."""
    if AuthMechanism.TLS not in mechanisms:
        return "authMechanisms holds no TLS: STARTTLS is not offered"
    known = list(certificates)
    best = select(name, known, mechanisms, now=now)
    if best.certificate is None:
        return f"no certificate for SMTP holds {name}: STARTTLS is not offered (event {NO_CERTIFICATE})"
    rivals = [item for item in known if eligible(item, name)]
    kind = "self-signed" if best.certificate.self_signed else "CA-issued"
    if len(rivals) == 1:
        why = f"the only one that holds {name}; {kind}"
    elif best.certificate.self_signed:
        why = f"the newest of {len(rivals)} that hold {name}; none is CA-issued"
    else:
        issued = sum(not item.self_signed for item in rivals)
        why = f"the {'newest' if issued > 1 else 'only'} CA-issued one of {len(rivals)} that hold {name}"
    return f"{why}; expired (event {EXPIRED_CERTIFICATE})" if EXPIRED_CERTIFICATE in best.events else why


def _rank(certificate: Certificate) -> tuple[bool, float, float, str, str]:
    # The thumbprint settles what the rules leave open, so that every worker serves the same certificate.
    return (
        certificate.self_signed,
        -certificate.not_before,
        -certificate.not_after,
        certificate.thumbprint,
        certificate.source,
    )
