"""Asynchronous name lookups: the DNS for MX routing, the system's resolver for configured hosts."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Protocol

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from postroad_transport.routing.mx import LookupFailedError, MailExchanger, NoSuchDomainError

CACHED_ANSWERS = 10_000
QUERY_TIMEOUT = 3.0
"""Seconds for one question to one server."""
LOOKUP_TIMEOUT = 10.0
"""Seconds for an answer, all servers and repetitions included."""


class Resolver(Protocol):
    """What routing asks the DNS."""

    async def mx(self, domain: str) -> tuple[MailExchanger, ...]:
        """Return the MX records of `domain`, empty when it exists but has none.

        Raises
        ------
        NoSuchDomainError
            NXDOMAIN, or not a domain name at all.
        LookupFailedError
            No usable answer for now.
        """

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return the AAAA and A addresses of `host`, empty when it has none. Raises as :meth:`mx`."""


class DnsResolver(Resolver):
    """Asks DNS servers; answers, also negative ones, are cached for their TTL.

    Parameters
    ----------
    servers
        ``address``, ``address:port`` or ``[address]:port``; empty: those of ``/etc/resolv.conf``.
    query_timeout, lookup_timeout
        Seconds for one question, and for the whole lookup.
    cached_answers
        Upper bound of the cache; the least recently used answer goes first.
    """

    def __init__(
        self,
        servers: Sequence[str] = (),
        *,
        query_timeout: float = QUERY_TIMEOUT,
        lookup_timeout: float = LOOKUP_TIMEOUT,
        cached_answers: int = CACHED_ANSWERS,
    ) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.nameservers = [_nameserver(server) for server in servers]
        self._resolver.timeout = query_timeout
        self._resolver.lifetime = lookup_timeout
        self._resolver.cache = dns.resolver.LRUCache(cached_answers)
        self._system = not servers

    async def mx(self, domain: str) -> tuple[MailExchanger, ...]:
        """Return the MX records of `domain`; see :meth:`Resolver.mx`."""
        answer = await self._ask(domain, dns.rdatatype.MX)
        return tuple(
            MailExchanger(record.preference, record.exchange.to_text(omit_final_dot=True).lower().strip("."))
            for record in answer.rrset or ()
        )

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return the addresses of `host`. One family that answers is enough."""
        answers = await asyncio.gather(
            self._ask(host, dns.rdatatype.AAAA), self._ask(host, dns.rdatatype.A), return_exceptions=True
        )
        found: list[str] = []
        failure: BaseException | None = None
        for answer in answers:
            if isinstance(answer, BaseException):
                failure = answer
            else:
                found.extend(record.address for record in answer.rrset or ())
        if failure is not None and not found:
            raise failure
        return tuple(found)

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> dns.resolver.Answer:
        try:
            if self._system:
                self._resolver.read_resolv_conf("/etc/resolv.conf")
                self._system = False
            return await self._resolver.resolve(
                dns.name.from_text(name), kind, raise_on_no_answer=False, search=False
            )
        except dns.resolver.NXDOMAIN:
            raise NoSuchDomainError(f"{name} does not exist") from None
        except (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel, dns.name.BadEscape):
            raise NoSuchDomainError(f"{name} is not a domain name") from None
        except dns.exception.Timeout:
            raise LookupFailedError(f"no answer for {name} in {self._resolver.lifetime:g} s") from None
        except dns.resolver.NoNameservers:
            raise LookupFailedError(f"no server answered for {name}") from None
        except (dns.exception.DNSException, OSError) as error:
            raise LookupFailedError(f"{name}: {type(error).__name__}") from error


class SystemResolver(Resolver):
    """Finds configured hosts as every program on the machine does: hosts file, search domains, DNS."""

    async def mx(self, domain: str) -> tuple[MailExchanger, ...]:
        """Return nothing: the system's resolver knows no MX."""
        return ()

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return the addresses of `host`; an address is its own."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
                raise NoSuchDomainError(f"{host} does not exist") from None
            raise LookupFailedError(f"{host}: {error.strerror}") from None
        except (OSError, UnicodeError) as error:
            raise LookupFailedError(f"{host}: {type(error).__name__}") from None
        return tuple(dict.fromkeys(str(info[4][0]) for info in found))


def _nameserver(server: str) -> dns.nameserver.Do53Nameserver:
    """Read ``address``, ``address:port`` or ``[address]:port``. Raises ValueError for anything else."""
    if server.startswith("["):
        address, _, port = server[1:].partition("]:")
        address = address.removesuffix("]")
    elif server.count(":") == 1:
        address, _, port = server.partition(":")
    else:
        address, port = server, ""
    number = int(port or 53)
    if not 0 < number < 65536:
        raise ValueError(f"{server}: no such port")
    return dns.nameserver.Do53Nameserver(str(ipaddress.ip_address(address)), number)
