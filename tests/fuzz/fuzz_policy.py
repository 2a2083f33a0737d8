"""Coverage-guided fuzzing of what strangers' bytes reach: addresses, parameters, headers (``make fuzz``).

Needs atheris (``pip install atheris``), which is no dependency of the project. By hand::

    PYTHONPATH=transport python tests/fuzz/fuzz_policy.py -max_total_time=120 -max_len=4096

A finding is an exception other than AddressSyntaxError, a change of meaning (an address that parses otherwise when
written out, a header that differs from what the plain definition keeps, a byte of the body), or a slow input.
"""

from __future__ import annotations

import sys
import time
from itertools import combinations

import atheris

with atheris.instrument_imports(include=["postroad_transport.policy"]):
    from postroad_transport.config import AcceptedDomain, Binding, Grant, Permission, ReceiveConnector, TierConfig
    from postroad_transport.policy import headers
    from postroad_transport.policy.address import (
        AddressSyntaxError,
        parse_forward_path,
        parse_mailbox,
        parse_parameters,
        parse_reverse_path,
    )
    from postroad_transport.policy.explain import Scenario, explain
    from postroad_transport.policy.originators import parse_mailbox_list
    from postroad_transport.policy.tier import TierPolicy

SLOW = 0.5
"""Seconds for a few kilobytes: a thousand times what they take."""

ROUTING, ORGANIZATION, FOREST, FLAG = (
    Permission.ACCEPT_HEADERS_ROUTING,
    Permission.ACCEPT_HEADERS_ORGANIZATION,
    Permission.ACCEPT_HEADERS_FOREST,
    Permission.ACCEPT_AUTHENTICATION_FLAG,
)
FIREWALL = [frozenset(chosen) for size in range(4) for chosen in combinations((ROUTING, ORGANIZATION, FOREST), size)]
SEND_ORDER = (
    Permission.SEND_HEADERS_ROUTING,
    Permission.SEND_HEADERS_ORGANIZATION,
    Permission.SEND_HEADERS_FOREST,
)
SEND = [frozenset(chosen) for size in range(4) for chosen in combinations(SEND_ORDER, size)]
TIER = TierPolicy(
    TierConfig(
        tier="mail",
        hostname="mail.example.com",
        receive_connectors=(
            ReceiveConnector(
                name="c",
                source="ReceiveConnector/mail/c",
                bindings=(Binding(port=25),),
                remote_ip_ranges=("0.0.0.0/0",),
                fqdn="mail.example.com",
                grants=(Grant(principal="Anonymous", permission=Permission.SUBMIT),),
            ),
        ),
        accepted_domains=(AcceptedDomain(domain="example.com", source="AcceptedDomain/mail/a"),),
    )
)


def fuzz_path(data: bytes) -> None:
    """A mailbox written out is the same mailbox."""
    for smtputf8 in (False, True):
        for parse in (parse_reverse_path, parse_forward_path):
            try:
                mailbox, rest = parse(data, smtputf8=smtputf8)
            except AddressSyntaxError:
                continue
            if mailbox is not None and mailbox.domain:
                written = b"<" + mailbox.address.encode() + b">"
                assert parse(written, smtputf8=smtputf8) == (mailbox, b""), (mailbox, written)
                assert smtputf8 or written.isascii()
            assert data.endswith(rest)


def fuzz_parameters(data: bytes) -> None:
    """Keys are upper case, and nothing but AddressSyntaxError is raised."""
    for smtputf8 in (False, True):
        try:
            found = parse_parameters(data, smtputf8=smtputf8)
        except AddressSyntaxError:
            continue
        assert all(key == key.upper() for key in found)


def fuzz_mailbox_list(data: bytes) -> None:
    """Each author that a header is read as can be written and read again."""
    try:
        found = parse_mailbox_list(data)
    except AddressSyntaxError:
        return
    for mailbox in found:
        assert parse_mailbox(mailbox.address.encode(), smtputf8=True) == mailbox


def kept_by_definition(block: bytes, names: tuple[bool, bool, bool]) -> bytes:
    """Go through the header line by line, and leave out whole fields that are not let through."""
    routing, organization, forest = names
    kept = bytearray()
    dropping = False
    for line in block.split(b"\n"):
        low = line.lower()
        if low[:1] not in (b" ", b"\t") or (not kept and not dropping):
            name, colon, _ = low.partition(b":")
            bare = name.rstrip(b" \t")
            dropping = (
                (bool(colon) and bare == b"received" and not routing)
                or (name.startswith(b"x-ms-exchange-organization-") and not organization)
                or (name.startswith(b"x-ms-exchange-forest-") and not forest)
            )
        if not dropping:
            kept += line + b"\n"
    return bytes(kept)


def split(content: bytes) -> tuple[bytes, bytes]:
    if content.startswith(b"\r\n"):
        return b"", content
    block, blank, body = content.partition(b"\n\r\n")
    return (block + b"\n", b"\r\n" + body) if blank else (content, b"")


def fuzz_firewall(data: bytes) -> None:
    """Both directions keep exactly what the definition keeps; what is kept is let through a second time."""
    block, rest = split(data)
    for permissions in FIREWALL:
        report = headers.inspect(data, permissions, hostname="mail.example.com")
        kept = data if report.kept is None else b"".join(report.kept) + data[report.header_end :]
        names = (ROUTING in permissions, ORGANIZATION in permissions, FOREST in permissions)
        if ORGANIZATION not in permissions:
            check_kept(kept, block, rest, names)
        assert kept.endswith(rest)
        again = headers.inspect(kept, permissions, hostname="mail.example.com")
        assert again.kept is None, (data, permissions)
        assert (report.kept is None) == (not report.stripped)
        _ = report.from_mailboxes
        headers.inspect(data, permissions | {FLAG}, hostname="mail.example.com")
    for permissions in SEND:
        middle = len(data) // 2
        left = headers.outbound([data[:middle], bytearray(data[middle:])], permissions)
        result = b"".join(left.content)
        if any(name.lower() == "received" for name in left.stripped):
            hops, _, result = result.partition(b"\r\n")
            assert hops.startswith(headers.HOPS_FIELD.encode() + b": ")
        check_kept(result, block, rest, tuple(permission in permissions for permission in SEND_ORDER))


def check_kept(kept: bytes, block: bytes, rest: bytes, names: tuple[bool, ...]) -> None:
    wanted = kept_by_definition(block, names)
    # The definition ends every line; a header without a last line end has one byte less.
    assert kept == wanted[:-1] + rest or kept == wanted + rest, (block, kept, wanted, names)


def fuzz_explain(data: bytes) -> None:
    """Explain answers whatever it is asked."""
    parts = [part.decode("utf-8", "surrogateescape") for part in data.split(b"\0")] + [""] * 4
    explanation = explain(
        TIER,
        Scenario(
            port=25,
            remote_ip="192.0.2.7",
            mail_from=parts[0],
            recipients=(parts[1],),
            header_from=parts[2],
            headers=parts[3],
        ),
    )
    assert explanation.accepted == bool(explanation.recipients)


TARGETS = (fuzz_path, fuzz_parameters, fuzz_mailbox_list, fuzz_firewall, fuzz_explain)


def fuzz(data: bytes) -> None:
    """Give the input to the target that its first byte names."""
    if not data:
        return
    began = time.perf_counter()
    TARGETS[data[0] % len(TARGETS)](data[1:])
    assert time.perf_counter() - began < SLOW, "slow input"


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
