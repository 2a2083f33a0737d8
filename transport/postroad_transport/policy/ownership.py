"""Which addresses a session may use as sender without ``SMTP-Accept-Any-Sender`` (spec.md 1.1)."""

from __future__ import annotations

import contextlib
from functools import lru_cache

from postroad_transport.policy.address import AddressSyntaxError, Mailbox, parse_mailbox, to_ascii
from postroad_transport.policy.domains import DomainTable
from postroad_transport.policy.session import SessionFacts


@lru_cache(maxsize=4096)
def _owned(account: str, addresses: tuple[str, ...], default_domain: str) -> frozenset[str]:
    """Return what an account owns, in the form that `_key` gives; for a whole domain, the domain alone."""
    whole = {address for address in addresses if address.startswith("*@")}
    own = [address for address in addresses if address not in whole]
    # A name is never a whole domain, whatever it looks like: users choose theirs.
    if "@" in account:
        own.append(account)
    elif account and not addresses:
        own.append(f"{account}@{default_domain}")
    owned = set()
    for address in own:
        with contextlib.suppress(AddressSyntaxError, UnicodeEncodeError):
            owned.add(_key(parse_mailbox(address.encode(), smtputf8=True)))
    for address in whole:
        with contextlib.suppress(AddressSyntaxError, UnicodeEncodeError):
            owned.add(to_ascii(address[2:].lower()))
    return frozenset(owned)


def owns(session: SessionFacts, mailbox: Mailbox, domains: DomainTable) -> bool:
    """Tell whether `mailbox` is the logged-in account's own.

    An account owns the addresses listed for it, where ``*@example.com`` is all of a domain; its own name,
    where that is an address; and where nothing is listed, its name at the default domain. Where the name may be the
    user's own choice (``account_owns_name``), it counts for nothing. ``id@b`` is also ``id@a`` where domain b is an
    alias of a. Case does not matter. A session without an account owns nothing.
    """
    if not session.account:
        return False
    name = session.account if session.account_owns_name else ""
    owned = _owned(name, session.account_addresses, domains.default)
    return _in(owned, mailbox) or _in(owned, domains.resolve(mailbox))


def _in(owned: frozenset[str], mailbox: Mailbox) -> bool:
    return _key(mailbox) in owned or mailbox.ascii_domain in owned


def _key(mailbox: Mailbox) -> str:
    return f"{mailbox.local.lower()}@{mailbox.ascii_domain}"
