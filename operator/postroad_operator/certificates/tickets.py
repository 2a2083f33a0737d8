"""What the tier's workers derive the keys of session tickets from: one secret, replaced in time.

Whoever holds it can open recorded tickets, and with them sessions of TLS 1.2, whatever keys those were agreed on by:
hence RFC 9325 section 3.4 wants it replaced regularly. There is one at a time. A client whose ticket is older goes
through one whole handshake.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from dataclasses import dataclass, field

from postroad_operator.certificates.store import CertificateStore
from postroad_transport.config.files import SESSION_TICKETS_LENGTH

#: Its store name; no Kubernetes object can have it, for names hold no underscore.
TICKETS_NAME = "_session-tickets"
#: Seconds after which it is replaced. A ticket is good for two hours (OpenSSL's default), so few are cut short.
ROTATION = 12 * 3600.0

_BEGIN, _END = b"-----BEGIN SESSION TICKET SECRET-----", b"-----END SESSION TICKET SECRET-----"
_FORM = re.compile(rb"made ([0-9]{1,12})\n%s\n([A-Za-z0-9+/=]+)\n%s\n" % (_BEGIN, _END))


@dataclass(frozen=True, slots=True)
class TicketSecret:
    """The secret; ``made`` is in seconds since the epoch."""

    secret: bytes = field(repr=False)
    made: int

    @property
    def renew_at(self) -> float:
        """When it is due, in seconds since the epoch."""
        return self.made + ROTATION

    def encode(self) -> bytes:
        """Return the form that :func:`read_ticket_secret` reads: explanatory text before PEM (RFC 7468)."""
        return b"made %d\n%s\n%s\n%s\n" % (self.made, _BEGIN, base64.b64encode(self.secret), _END)


def read_ticket_secret(data: bytes | None) -> TicketSecret | None:
    """Return what is kept; None where there is nothing, or nothing that can be read."""
    found = _FORM.fullmatch(data or b"")
    if found is None:
        return None
    try:
        secret = base64.b64decode(found[2], validate=True)
    except binascii.Error:
        return None
    return TicketSecret(secret, int(found[1])) if len(secret) == SESSION_TICKETS_LENGTH else None


def due(made: float, now: float) -> bool:
    """Tell whether what was made at `made` is to be replaced at `now`, both in seconds since the epoch.

    One from the future stays, since clocks differ when another operator takes over, but not one from far ahead.
    """
    return abs(now - made) >= ROTATION


def ensure_ticket_secret(store: CertificateStore, now: float) -> TicketSecret | None:
    """Take the secret from the store, or make another where it is missing, unreadable or due at `now`.

    None: the store cannot be used. A secret that is not kept would be another one the next time.
    """
    try:
        kept = read_ticket_secret(store.load(TICKETS_NAME))
        if kept is not None and not due(kept.made, now):
            return kept
        made = TicketSecret(secrets.token_bytes(SESSION_TICKETS_LENGTH), int(now))
        store.save(TICKETS_NAME, made.encode())
    except OSError:
        return None
    return made
