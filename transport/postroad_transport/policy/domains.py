"""Which accepted domain an address belongs to, and what it is once aliases are applied (spec.md 8)."""

from __future__ import annotations

from collections.abc import Iterable

from postroad_transport.config import AcceptedDomain
from postroad_transport.policy.address import Mailbox


class DomainTable:
    """The accepted domains as lookups."""

    def __init__(self, domains: Iterable[AcceptedDomain], *, hostname: str = "") -> None:
        raise NotImplementedError

    def lookup(self, domain: str) -> AcceptedDomain | None:
        """Return the accepted domain that `domain` belongs to."""
        raise NotImplementedError

    def resolve(self, mailbox: Mailbox) -> Mailbox:
        """Apply domain aliases, and give ``<postmaster>`` a domain."""
        raise NotImplementedError
