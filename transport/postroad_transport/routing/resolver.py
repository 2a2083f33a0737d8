"""Asynchronous DNS for routing: MX and addresses, cached by TTL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class NoSuchDomainError(Exception):
    """The name does not exist (NXDOMAIN): a permanent answer."""


class LookupFailedError(Exception):
    """The DNS gave no usable answer (SERVFAIL, REFUSED, timeout): ask again later."""


@dataclass(frozen=True, slots=True)
class MailExchanger:
    """One MX record: lower-case host without a final dot (empty for a null MX, RFC 7505) and preference."""

    preference: int
    host: str


class Resolver(Protocol):
    """What routing asks the DNS."""

    async def mx(self, domain: str) -> tuple[MailExchanger, ...]:
        """Return the MX records of `domain`, empty when it exists but has none.

        Raises
        ------
        NoSuchDomainError
            NXDOMAIN.
        LookupFailedError
            No usable answer for now.
        """

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return the AAAA and A addresses of `host`, empty when it has none. Raises as :meth:`mx`."""
