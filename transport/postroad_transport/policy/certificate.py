"""Which certificate an inbound session's STARTTLS presents (spec.md section 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

from postroad_transport.config import AuthMechanism, Certificate

#: Event raised when no certificate fits the name, so STARTTLS is not offered.
NO_CERTIFICATE = 12014
#: Event raised when the certificate that is offered has expired.
EXPIRED_CERTIFICATE = 12016

SMTP_SERVICE = "SMTP"

_T = TypeVar("_T")


class Selection(NamedTuple):
    """What a connector offers.

    ``certificate`` is None exactly when ``advertise`` is false. ``events`` holds at most one of
    :data:`NO_CERTIFICATE` and :data:`EXPIRED_CERTIFICATE`. ``beside`` are for clients that cannot do with the
    certificate's kind of key, or rather have another: at most one of each other kind.
    """

    certificate: Certificate | None
    advertise: bool
    events: tuple[int, ...]
    beside: tuple[Certificate, ...] = ()

    @property
    def presented(self) -> tuple[Certificate, ...]:
        """Everything that clients may be shown, the choice first."""
        return (self.certificate, *self.beside) if self.certificate else ()


def thumbprint(der: bytes) -> str:
    """Return the thumbprint of a certificate in DER: SHA-256 in hexadecimal."""
    return hashlib.sha256(der).hexdigest()


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
    return _servable(certificate) and any(covers(pattern, name) for pattern in _patterns(certificate))


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
    return _best((item for item in certificates if eligible(item, name)), now)


def names_served(certificates: Iterable[Certificate], *, now: float) -> dict[str, Selection]:
    """Return what is presented to clients that ask for a name (SNI, RFC 6066 section 3), by name or wildcard.

    The choice is that of :func:`select` for the name asked; to be looked up with :func:`served_for`.
    """
    holders: dict[str, list[Certificate]] = {}
    for item in certificates:
        if _servable(item):
            for pattern in _patterns(item):
                holders.setdefault(pattern, []).append(item)
    return {
        pattern: _best([*found, *(() if "*" in pattern else holders.get(_wildcard(pattern), ()))], now)
        for pattern, found in sorted(holders.items())
    }


def served_for(name: str, names: Mapping[str, _T]) -> _T | None:
    """Return what `names`, keyed as by :func:`names_served`, holds for the name that a client asks for."""
    name = name.lower().removesuffix(".")
    found = names.get(name)
    return names.get(_wildcard(name)) if found is None else found


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
    if best.beside:
        others = " and ".join(f"{item.name} ({item.key_algorithm})" for item in best.beside)
        why += (
            f"; {best.certificate.key_algorithm}, with {others} beside it for clients that take the other kind of key"
        )
    return f"{why}; expired (event {EXPIRED_CERTIFICATE})" if EXPIRED_CERTIFICATE in best.events else why


def _servable(certificate: Certificate) -> bool:
    return certificate.version >= 3 and bool(certificate.key_file) and SMTP_SERVICE in certificate.services


def _patterns(certificate: Certificate) -> set[str]:
    names = (*certificate.dns_names, certificate.common_name)
    return {name.lower().removesuffix(".") for name in names if name}


def _wildcard(name: str) -> str:
    return "*." + name.partition(".")[2]


def _best(candidates: Iterable[Certificate], now: float) -> Selection:
    ordered = sorted(candidates, key=_rank)
    if not ordered:
        return Selection(None, False, (NO_CERTIFICATE,))
    best = ordered[0]
    beside: dict[str, Certificate] = {}
    for item in ordered[1:] if best.key_algorithm else ():
        # Which of them a client gets is for OpenSSL to say: none may be worth less than the choice.
        other_kind = item.key_algorithm not in ("", best.key_algorithm)
        if other_kind and item.self_signed == best.self_signed and item.not_before <= now <= item.not_after:
            beside.setdefault(item.key_algorithm, item)
    expired = (EXPIRED_CERTIFICATE,) if best.not_after < now else ()
    return Selection(best, True, expired, tuple(beside.values()))


def _rank(certificate: Certificate) -> tuple[bool, float, float, str, str]:
    # The thumbprint settles what the rules leave open, so that every worker serves the same certificate.
    return (
        certificate.self_signed,
        -certificate.not_before,
        -certificate.not_after,
        certificate.thumbprint,
        certificate.source,
    )
