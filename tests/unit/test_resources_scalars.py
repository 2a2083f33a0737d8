"""Scalar types: what they take, what they mean, what they refuse."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from postroad_operator.resources.directories import Address, AddressTemplate, HttpsURL, LdapURL
from postroad_operator.resources.grants import PrincipalName
from postroad_operator.resources.integrated import KerberosPrincipal, Realm, Thumbprint
from postroad_operator.resources.scalars import Duration, ascii_domain, host, networks, octets, resolver, seconds
from postroad_operator.resources.send_connector import Rate


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("4d", 345_600), ("250ms", 0.25), ("1.5h", 5400)],
)
def test_a_duration_is_read_in_seconds(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 0), (1024, 1024), ("36Mi", 36 * 2**20), ("10M", 10**7), ("256Ki", 262_144), ("7", 7)]
)
def test_a_size_is_read_in_octets(size: int | str, expected: int) -> None:
    assert octets(size) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Example.COM", "example.com"),
        ("xn--3e0b707e", "xn--3e0b707e"),
        ("한국.example", "xn--3e0b707e.example"),
        ("Faß.example", "xn--fa-hia.example"),
    ],
)
def test_a_domain_name_becomes_lower_case_a_labels(name: str, expected: str) -> None:
    assert ascii_domain(name) == expected


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", "-a.b", "a-.b", "a b", "a_b.c", "10.0.0.1", "a" * 64 + ".b", "a." * 130, "a@b", "a.b."]
)
def test_what_is_no_domain_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ascii_domain(name)


@given(st.text(max_size=60))
def test_any_text_is_a_domain_name_or_a_value_error(text: str) -> None:
    try:
        result = ascii_domain(text)
    except ValueError:
        return
    assert ascii_domain(result) == result


def test_a_host_is_a_canonical_address_or_a_name() -> None:
    assert host("2001:DB8:0::1") == "2001:db8::1"
    assert host("Dovecot") == "dovecot"


@given(st.ip_addresses(), st.ip_addresses())
def test_a_range_covers_its_ends_and_nothing_before_or_after(
    one: ipaddress.IPv4Address | ipaddress.IPv6Address, other: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    if one.version != other.version:
        with pytest.raises(ValueError, match="mixes"):
            networks(f"{one}-{other}")
        return
    first, last = sorted((one, other), key=int)
    covered = networks(f"{first}-{last}")
    assert covered[0].network_address == first
    assert covered[-1].broadcast_address == last
    assert sum(network.num_addresses for network in covered) == int(last) - int(first) + 1


@pytest.mark.parametrize("text", ["10.0.0.9-10.0.0.1", "10.0.0.0/33", "fe80::1%eth0", "10.0.0.1-", "x", "", "1-2-3"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        networks(text)


@pytest.mark.parametrize("text", ["10.0.0.53", "10.0.0.53:5353", "::1", "[::1]:5353"])
def test_a_resolver_is_an_address_with_or_without_port(text: str) -> None:
    assert resolver(text) == text


@pytest.mark.parametrize("text", ["dns.example", "10.0.0.53:", "10.0.0.53:99999", "::1:53:x", "[::1", "10.0.0.53:0"])
def test_what_is_no_resolver_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        resolver(text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Duration, "5m"),
        (Rate, "10/s"),
        (PrincipalName, "user:alice"),
        (HttpsURL, "https://issuer.example/"),
        (LdapURL, "ldap://ldap.example"),
        (Address, "*@example.com"),
        (AddressTemplate, "{account}@example.com"),
        (Realm, "EXAMPLE.COM"),
        (KerberosPrincipal, "host/a@EXAMPLE.COM"),
        (Thumbprint, "ab" * 32),
    ],
)
def test_what_a_pattern_takes_is_refused_with_a_line_end_behind_it_as_the_api_server_refuses_it(
    kind: object, text: str
) -> None:
    adapter = TypeAdapter(kind)
    assert adapter.validate_python(text) == text
    with pytest.raises(ValidationError):
        adapter.validate_python(text + "\n")
