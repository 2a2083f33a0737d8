"""Scalar types of the manifests: durations, sizes, names, hosts, address ranges, ports.

A value stays as it was written (manifests round-trip); the functions here turn it into what the
configuration holds: seconds, bytes, A-labels, CIDRs.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated

import idna
from pydantic import Field, Strict

from postroad_operator.resources.rules import Checked, Rule, matching

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = r"^(0|([0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m|h|d)){1,5})$"
_DURATION_STEP = re.compile(r"([0-9.]+)(ms|s|m|h|d)")
_MULTIPLIERS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_SIZE = r"^[0-9]{1,15}(k|M|G|Ki|Mi|Gi)?$"
_SIZE_PARTS = re.compile(r"([0-9]+)([A-Za-z]*)")
_LDH_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

# One label of a domain name: letters, digits, hyphens, and anything outside ASCII (U-labels). A negated class
# means the same in Go, Rust, Python and ECMAScript, unlike escapes for code points.
_LABEL = r"[^\s!-,./:-@\[-`{-~]+"
_DOMAIN = rf"({_LABEL}\.)*{_LABEL}"


def seconds(duration: str) -> float:
    """Return the length of a Go-style duration (``90s``, ``1h30m``; also days, ``4d``) in seconds."""
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_STEP.findall(duration))


def octets(size: int | str) -> int:
    """Return a quantity (``36Mi``, ``10M``, 1024) in bytes."""
    match = _SIZE_PARTS.fullmatch(str(size))
    if match is None:
        raise ValueError(f"{size!r} is not a size")
    return int(match[1]) * _MULTIPLIERS[match[2]]


def ascii_domain(name: str) -> str:
    """Return a domain name as lower-case A-labels (RFC 5890).

    Raises
    ------
    ValueError
        It is not a domain name (RFC 1035 section 2.3.1, RFC 5891).
    """
    # IDNA 2008, as for addresses: by IDNA 2003 faß.example would be fass.example, which may be somebody else's.
    encoded = name.lower() if name.isascii() else idna.encode(name, uts46=True).decode("ascii")
    labels = encoded.split(".")
    # A numeric last label would make it an IP address to everyone who reads it (RFC 3696 section 2).
    if len(encoded) > 253 or labels[-1].isdecimal() or not all(map(_LDH_LABEL.fullmatch, labels)):
        raise ValueError(f"{name!r} is not a domain name")
    return encoded


def address(text: str) -> IPAddress | None:
    """Return an IP address, or None when the text is none. Zone indexes are not taken."""
    if "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def host(text: str) -> str:
    """Return a host as the configuration holds it: a canonical address or lower-case A-labels."""
    return str(ip) if (ip := address(text)) else ascii_domain(text)


def networks(text: str) -> tuple[IPNetwork, ...]:
    """Return the CIDRs that a CIDR, a range ``first-last`` or an address covers.

    Raises
    ------
    ValueError
        It is none of these; a range runs backwards or mixes families.
    """
    first, dash, last = text.partition("-")
    if "%" in text:
        raise ValueError(f"{text!r} has a zone index")
    if not dash:
        return (ipaddress.ip_network(first, strict=False),)
    try:
        return tuple(ipaddress.summarize_address_range(ipaddress.ip_address(first), ipaddress.ip_address(last)))
    except TypeError as error:
        raise ValueError(f"{text!r} mixes IPv4 and IPv6") from error


def _is(convert: Callable[[str], object], value: str) -> bool:
    try:
        convert(value)
    except (ValueError, UnicodeError):
        return False
    return True


StrictBool = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=0, le=1_000_000_000)]
"""A count; 0 means no limit where it is a limit."""
Port = Annotated[int, Strict(), Field(ge=0, le=65535)]
ShortText = Annotated[str, Field(max_length=255)]
Text = Annotated[str, Field(max_length=32768)]

Unique = Checked(
    (Rule("each value may stand once", holds=lambda values: len(set(values)) == len(values)),),
    (("x-kubernetes-list-type", "set"),),
)
"""Annotation of a list that is a set; the API server checks it by the list's type."""

Duration = Annotated[
    str,
    Field(max_length=40),
    matching(_DURATION, "write a duration such as 30s, 5m, 1h30m or 4d"),
]
Size = Annotated[
    Annotated[int, Strict(), Field(ge=0)] | Annotated[str, Field(max_length=20)],
    Checked(
        (
            Rule(
                "write a size such as 36Mi, 10M or a number of bytes",
                holds=lambda v: isinstance(v, int) or re.search(_SIZE, v) is not None,
            ),
        ),
        (("x-kubernetes-int-or-string", True), ("pattern", _SIZE)),
    ),
]
DomainName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Checked(
        (Rule("write a domain name such as example.com", holds=lambda v: _is(ascii_domain, v)),),
        (("pattern", f"^{_DOMAIN}$"),),
    ),
]
DomainPattern = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Checked(
        (
            Rule(
                "write *, a domain name such as example.com, or *.example.com",
                holds=lambda v: v == "*" or _is(ascii_domain, v.removeprefix("*.")),
            ),
        ),
        (("pattern", rf"^(\*|(\*\.)?{_DOMAIN})$"),),
    ),
]
Host = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Checked(
        (Rule("write a host name or an IP address", holds=lambda v: _is(host, v)),),
        (("pattern", rf"^({_DOMAIN}|[0-9A-Fa-f:.]+)$"),),
    ),
]
IPRange = Annotated[
    str,
    Field(min_length=1, max_length=91),
    Checked(
        (
            Rule(
                "write a CIDR (10.0.0.0/8), an address, or a range (10.0.0.1-10.0.0.9), IPv4 or IPv6",
                "isCIDR(self) || isIP(self) || (size(self.split('-')) == 2 && self.split('-').all(p, isIP(p)))",
                lambda v: _is(networks, v),
            ),
        ),
    ),
]
CIDR = Annotated[
    str,
    Field(min_length=1, max_length=45),
    Checked(
        (
            Rule(
                "write a CIDR (10.0.0.0/8) or an address, IPv4 or IPv6",
                "isCIDR(self) || isIP(self)",
                lambda v: "-" not in v and _is(networks, v),
            ),
        ),
    ),
]
Resolver = Annotated[
    str,
    Field(min_length=1, max_length=53),
    Checked(
        (
            Rule(
                "write the resolver's address, or address:port ([address]:port for IPv6)",
                holds=lambda v: _is(resolver, v),
            ),
        ),
    ),
]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
DataKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]


def resolver(text: str) -> str:
    """Return a DNS resolver as ``address`` or ``address:port`` (``[address]:port`` for IPv6).

    Raises
    ------
    ValueError
        The address or the port is not one.
    """
    if address(text):
        return text
    bare, _, port = text.rpartition(":")
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    elif ":" in bare:
        raise ValueError(f"{text!r}: an IPv6 address with a port is written [address]:port")
    if not address(bare) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not address:port")
    return text
