"""Which accepted domain an address belongs to, and what it is once aliases are applied (spec.md 8)."""

from __future__ import annotations

from collections.abc import Iterable

from postroad_transport.config import AcceptedDomain, DomainType
from postroad_transport.policy.address import AddressSyntaxError, Mailbox, to_ascii
from postroad_transport.policy.verdict import Allow

_AUTHORITATIVE = DomainType.AUTHORITATIVE


class DomainTable:
    """The accepted domains as lookups.

    Parameters
    ----------
    domains
        In order of precedence: of two entries for one name the first counts.
    hostname
        The domain that ``<postmaster>`` is given where no domain can serve as the default.
    """

    __slots__ = ("_accepted", "_aliases", "_exact", "_parents", "_recipients", "default")

    default: str
    """The domain that is flagged so; else the first authoritative one; else the host name."""

    def __init__(self, domains: Iterable[AcceptedDomain], *, hostname: str = "") -> None:
        exact: dict[str, AcceptedDomain] = {}
        for domain in domains:
            exact.setdefault(domain.domain, domain)
        self._exact = exact
        self._parents = {name: domain for name, domain in exact.items() if domain.match_subdomains}
        self._aliases = {name: _final(name, exact) for name, domain in exact.items() if domain.alias_of}
        self._accepted = {name: Allow("acceptedDomain", domain.source) for name, domain in exact.items()}
        self._recipients = {name: frozenset(domain.recipients or ()) for name, domain in exact.items()}
        self.default = next(
            (domain.domain for domain in exact.values() if domain.default),
            next((domain.domain for domain in exact.values() if domain.type is _AUTHORITATIVE), hostname),
        )

    def lookup(self, domain: str) -> AcceptedDomain | None:
        """Return the accepted domain that `domain` belongs to.

        That is the entry of this very name, else the nearest parent's with ``matchSubdomains``.

        Parameters
        ----------
        domain
            Lower-case, in A-labels or U-labels. A name that is neither belongs to no domain.
        """
        if not domain.isascii():
            try:
                domain = to_ascii(domain)
            except AddressSyntaxError:
                return None
        found = self._exact.get(domain)
        if found is not None or not self._parents:
            return found
        _, dot, parent = domain.partition(".")
        while dot:
            found = self._parents.get(parent)
            if found is not None:
                return found
            _, dot, parent = parent.partition(".")
        return None

    def accepted(self, domain: AcceptedDomain) -> Allow:
        """Return the verdict for a recipient in `domain`, one of this table's."""
        return self._accepted[domain.domain]

    def recipients(self, domain: AcceptedDomain) -> frozenset[str]:
        """Return the local parts that exist in `domain`, one of this table's, where it lists them."""
        return self._recipients[domain.domain]

    def is_authoritative(self, domain: str) -> bool:
        """Tell whether `domain` belongs to an authoritative accepted domain."""
        found = self.lookup(domain)
        return found is not None and found.type is _AUTHORITATIVE

    def resolve(self, mailbox: Mailbox) -> Mailbox:
        """Return the mailbox to deliver to: ``id@b`` is ``id@a`` where b is an alias of a.

        ``<postmaster>`` (RFC 5321 4.5.1) gets the default domain first.
        """
        if not mailbox.domain:
            mailbox = Mailbox(mailbox.local, self.default)
        if not self._aliases:
            return mailbox
        found = self.lookup(mailbox.domain)
        if found is None or not found.alias_of:
            return mailbox
        return Mailbox(mailbox.local, self._aliases[found.domain])


def _final(name: str, domains: dict[str, AcceptedDomain]) -> str:
    """Follow aliases of aliases to their end; a circle ends where it would begin again."""
    seen = {name}
    while (found := domains.get(name)) is not None and found.alias_of and found.alias_of not in seen:
        name = found.alias_of
        seen.add(name)
    return name
