"""The header firewall in both directions, and the stamps."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.config import Permission, Principal
from postroad_transport.policy.groups import RECEIVE_PERMISSIONS, SEND_PERMISSIONS
from postroad_transport.policy.headers import HeaderReport, auth_as, begins_with_text, inspect, outbound, stamps
from postroad_transport.policy.session import SessionFacts

ROUTING = Permission.ACCEPT_HEADERS_ROUTING
ORGANIZATION = Permission.ACCEPT_HEADERS_ORGANIZATION
FOREST = Permission.ACCEPT_HEADERS_FOREST
FLAG = Permission.ACCEPT_AUTHENTICATION_FLAG
EVERYTHING = frozenset(RECEIVE_PERMISSIONS)


def look(content: bytes, *permissions: Permission) -> HeaderReport:
    return inspect(content, frozenset(permissions), hostname="mx.example.com")


def result(content: bytes, report: HeaderReport) -> bytes:
    return content if report.kept is None else b"".join([*report.kept, content[report.header_end :]])


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def session(*principals: str, mechanism: str = "") -> SessionFacts:
    return SessionFacts("192.0.2.1", 25, principals=frozenset(principals), auth_mechanism=mechanism)


MESSAGE = crlf(
    "Received: from a\n\tby b\nX-MS-Exchange-Organization-SCL: 1\n  more\nSubject: x\n"
    "x-ms-exchange-FOREST-Id : 2\nX-MS-Exchange-CrossTenant: 3\nReceived-SPF: pass\n\n"
    "Received: not a header\nX-MS-Exchange-Organization-SCL: not one either\n"
)
ROUTING_LINES = crlf("Received: from a\n\tby b\n")
ORGANIZATION_LINES = crlf("X-MS-Exchange-Organization-SCL: 1\n  more\n")
FOREST_LINES = crlf("x-ms-exchange-FOREST-Id : 2\n")


@pytest.mark.parametrize(("routing", "organization", "forest"), list(itertools.product([False, True], repeat=3)))
def test_each_class_of_headers_is_kept_by_its_own_permission(routing: bool, organization: bool, forest: bool) -> None:
    expected, names = MESSAGE, []
    for kept, lines, name in (
        (routing, ROUTING_LINES, "Received"),
        (organization, ORGANIZATION_LINES, "X-MS-Exchange-Organization-SCL"),
        (forest, FOREST_LINES, "x-ms-exchange-FOREST-Id"),
    ):
        if not kept:
            expected = expected.replace(lines, b"", 1)
            names.append(name)
    receive = [p for p, kept in ((ROUTING, routing), (ORGANIZATION, organization), (FOREST, forest)) if kept]
    report = look(MESSAGE, *receive)
    assert result(MESSAGE, report) == expected
    assert report.stripped == tuple(names)
    assert report.hops == 1
    assert (report.kept is None) == (not names)

    send = frozenset(Permission(str(permission).replace("Accept", "Send")) for permission in receive)
    leaving = outbound([MESSAGE], send)
    assert b"".join(leaving.content) == (b"" if routing else b"X-Postroad-Hops: 1\r\n") + expected
    assert leaving.stripped == tuple(names)


def test_a_message_that_loses_no_header_is_not_copied() -> None:
    report = look(MESSAGE, ROUTING, ORGANIZATION, FOREST)
    assert report.kept is None
    content = [b"Subject: x\r\n", bytearray(b"\r\nbody")]
    assert outbound(content, frozenset()).content is content
    assert outbound([MESSAGE], frozenset(SEND_PERMISSIONS)).stripped == ()


def test_nothing_holds_on_to_the_buffer_that_was_looked_at() -> None:
    content = bytearray(MESSAGE)
    report = look(content)
    content.clear()
    assert report.kept is not None


@pytest.mark.parametrize(
    ("text", "header_end", "size", "hops"),
    [
        ("", 0, 0, 0),
        ("a", 1, 1, 0),
        ("ab", 2, 2, 0),
        ("\n", 2, 0, 0),
        ("\nReceived: body\n", 2, 0, 0),
        ("Received: x\n", 13, 13, 1),
        ("Received: x", 11, 11, 1),
        ("Received: x\n\n", 15, 13, 1),
        ("A: b\n\n\nReceived: body\n", 8, 6, 0),
        ("RECEIVED\t :x\nreceived:\nXReceived: y\n Received: z\n\n", 55, 53, 2),
    ],
)
def test_where_the_header_ends_and_how_far_the_message_has_travelled(
    text: str, header_end: int, size: int, hops: int
) -> None:
    report = look(crlf(text), *EVERYTHING)
    assert (report.header_end, report.header_size, report.hops) == (header_end, size, hops)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("X-MS-Exchange-Organization-AuthAs\t:Internal\nA: b\n\n", "A: b\n\n"),
        ("X-MS-Exchange-Organization-without a colon\nA: b\n\n", "A: b\n\n"),
        ("A: b\nX-MS-EXCHANGE-ORGANIZATION-X: 1\n \n\t2\nB: c\n\n", "A: b\nB: c\n\n"),
        ("X-MS-Exchange-Organization-X: 1\n\n", "\n"),
        ("X-MS-Exchange-Organization-X: 1", ""),
        ("A: b\n X-MS-Exchange-Organization-X: folded\n\n", "A: b\n X-MS-Exchange-Organization-X: folded\n\n"),
        ("no header\nX-MS-Exchange-Organization-X: 1\n\n", "no header\n\n"),
        ("X-MS-Exchange-Organizational: 1\n\n", "X-MS-Exchange-Organizational: 1\n\n"),
        ("X-MS-Exchange-Organization-X: 1\nX-MS-Exchange-Organization-Y: 1\n\nbody", "\nbody"),
    ],
)
def test_folding_case_and_malformed_lines_hide_nothing(before: str, after: str) -> None:
    content = crlf(before)
    assert result(content, look(content, ROUTING)) == crlf(after)


def test_a_name_is_reported_once_and_cut_short() -> None:
    content = crlf("X-MS-Exchange-Organization-A: 1\n" * 3 + "X-MS-Exchange-Forest-" + "b" * 500 + "\n\n")
    names = look(content).stripped
    assert names[0] == "X-MS-Exchange-Organization-A"
    assert names[1].startswith("X-MS-Exchange-Forest-bbb")
    assert len(names) == 2
    assert len(names[1]) < 80


fields = st.sampled_from(
    [
        b"Received: by x\r\n",
        b"Received : by y\r\n\tfolded\r\n",
        b"X-MS-Exchange-Organization-AuthAs: Internal\r\n",
        b"X-MS-Exchange-Organization-SCL: 1\r\n \r\n",
        b"X-MS-Exchange-Forest-A: 1\r\n",
        b"Subject: x\r\n  y\r\n",
        b"Received-SPF: pass\r\n",
        b"garbage\r\n",
        b"\xff\xfe: \x00\r\n",
        b"From: a@b\r\n",
    ]
)
DANGEROUS = re.compile(rb"(?i)\A(received[ \t]*:|x-ms-exchange-organization-|x-ms-exchange-forest-)")


def unfolded(header: Iterable[bytes]) -> list[bytes]:
    return [field for field in header if not DANGEROUS.match(field)]


@given(header=st.lists(fields, max_size=12), body=st.binary(max_size=40), as_bytearray=st.booleans())
def test_the_firewall_leaves_every_byte_of_what_it_keeps(
    header: list[bytes], body: bytes, as_bytearray: bool
) -> None:
    content = b"".join(header) + b"\r\n" + body
    given_content = bytearray(content) if as_bytearray else content
    report = look(given_content)
    expected = b"".join(unfolded(header)) + b"\r\n" + body
    assert result(content, report) == expected
    assert look(expected).kept is None


@given(
    header=st.lists(fields, max_size=8),
    body=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    permissions=st.frozensets(st.sampled_from(SEND_PERMISSIONS)),
)
def test_it_does_not_matter_how_a_leaving_message_is_cut_into_chunks(
    header: list[bytes], body: bytes, cuts: list[int], permissions: frozenset[Permission]
) -> None:
    content = b"".join(header) + b"\r\n" + body
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    chunks = [memoryview(content)[start:end] for start, end in itertools.pairwise(edges)]
    whole, cut = outbound([content], permissions), outbound(chunks, permissions)
    assert b"".join(whole.content) == b"".join(cut.content)
    assert whole.stripped == cut.stripped


@given(content=st.binary(max_size=200), permissions=st.frozensets(st.sampled_from(RECEIVE_PERMISSIONS)))
def test_no_bytes_make_the_firewall_raise(content: bytes, permissions: frozenset[Permission]) -> None:
    report = inspect(content, permissions, hostname="mx")
    assert report.header_size <= report.header_end <= len(content)
    assert isinstance(report.from_malformed, bool)
    assert len(b"".join(outbound([content], permissions).content)) <= len(content)


@pytest.mark.parametrize(
    "unit",
    [
        b"Received: x\r\n",
        b"X-MS-Exchange-Organization-A: 1\r\n",
        b"A: b\r\nReceived: c\r\n",
        b"received \t",
        b"\r\n \t",
        b"From: a\r\n",
        b'From: "',
        b"From: (",
        b"From: a@b,<",
        b"From: \\",
    ],
)
def test_the_cost_is_linear_in_the_header(unit: bytes) -> None:
    def cost(length: int) -> float:
        content = b"From: " + unit * (length // len(unit)) + b"\r\n\r\n"
        best = 1.0
        for _ in range(3):
            start = time.process_time()
            assert look(content).from_mailboxes is not None
            best = min(best, time.process_time() - start)
        return best

    # Ten times the length: a quadratic cost would be a hundred times the time.
    assert cost(200_000) < max(40 * cost(20_000), 0.02)


STAMP = "X-MS-Exchange-Organization-AuthAs: {}\nX-MS-Exchange-Organization-AuthSource: other\n"


@pytest.mark.parametrize(
    ("principals", "expected"),
    [
        (("Anonymous",), "Anonymous"),
        (("AuthenticatedUsers", "user:alice"), "Internal"),
        ((str(Principal.HUB_TRANSPORT_SERVERS),), "Internal"),
        ((str(Principal.EXTERNALLY_SECURED_SERVERS),), "Internal"),
        ((str(Principal.LEGACY_EXCHANGE_SERVERS),), "Internal"),
        ((str(Principal.EDGE_TRANSPORT_SERVERS),), "Anonymous"),
        ((str(Principal.PARTNER_SERVERS),), "Partner"),
    ],
)
def test_a_message_without_a_stamp_is_stamped_as_what_the_session_is(
    principals: tuple[str, ...], expected: str
) -> None:
    report = look(b"A: b\r\n\r\n", *EVERYTHING)
    assert auth_as(session(*principals), report) == expected
    assert stamps(session(*principals, mechanism="PLAIN"), report) == crlf(
        f"X-MS-Exchange-Organization-AuthAs: {expected}\nX-MS-Exchange-Organization-AuthSource: mx.example.com\n"
        "X-MS-Exchange-Organization-AuthMechanism: PLAIN\n"
    )


def test_an_untrusted_senders_stamps_are_replaced() -> None:
    content = crlf(STAMP.format("Internal") + "X-MS-Exchange-Organization-SCL: 1\nA: b\n\n")
    for permissions, kept in (((), "A: b\n\n"), ((ORGANIZATION,), "X-MS-Exchange-Organization-SCL: 1\nA: b\n\n")):
        report = look(content, *permissions)
        assert result(content, report) == crlf(kept)
        assert auth_as(session("Anonymous"), report) == "Anonymous"
        assert stamps(session("Anonymous"), report).startswith(b"X-MS-Exchange-Organization-AuthAs: Anonymous\r\n")


@pytest.mark.parametrize("value", ["Anonymous", "Internal", "External", "Partner"])
def test_a_trusted_senders_stamps_are_believed_and_kept_as_they_are(value: str) -> None:
    content = crlf(STAMP.format(value) + "A: b\n\n")
    report = look(content, *EVERYTHING)
    hub = session(str(Principal.HUB_TRANSPORT_SERVERS))
    assert report.kept is None
    assert auth_as(hub, report) == value
    assert stamps(hub, report) == b""


def test_a_legacy_servers_stamp_is_believed_though_its_headers_are_stripped() -> None:
    content = crlf(STAMP.format("partner") + "A: b\n\n")
    report = look(content, FLAG)
    legacy = session(str(Principal.LEGACY_EXCHANGE_SERVERS))
    assert result(content, report) == crlf("A: b\n\n")
    assert auth_as(legacy, report) == "Partner"
    assert b"AuthAs: Partner\r\n" in stamps(legacy, report)


@pytest.mark.parametrize("stamp", [STAMP.format("Root"), STAMP.format("Internal") * 2, STAMP.format("")])
def test_a_stamp_that_says_nothing_clear_makes_the_message_anonymous(stamp: str) -> None:
    content = crlf(stamp + "A: b\n\n")
    report = look(content, *EVERYTHING)
    hub = session(str(Principal.HUB_TRANSPORT_SERVERS))
    assert auth_as(hub, report) == "Anonymous"
    stamped = stamps(hub, report) + result(content, report)
    assert stamped.startswith(b"X-MS-Exchange-Organization-AuthAs: Anonymous\r\n")
    assert stamped.count(b"Organization-AuthAs") == 1


def test_taking_fields_out_never_moves_the_end_of_the_header() -> None:
    content = b"Subject: x\nX-MS-Exchange-Organization-A: 1\r\n\r\nX-MS-Exchange-Organization-B: body\r\n\r\n"
    once = result(content, look(content))
    assert once == b"Subject: x\n\r\nX-MS-Exchange-Organization-B: body\r\n\r\n"
    assert look(once).kept is None
    assert b"".join(outbound([content], frozenset()).content) == once


def test_a_loop_is_counted_through_firewalls_that_take_the_trace_out():
    content = b"Subject: x\r\n\r\nhello\r\n"
    for hop in range(1, 20):
        content = b"".join(outbound([b"Received: from us\r\n" + content], frozenset()).content)
        assert b"Received" not in content
        report = inspect(content, frozenset(), hostname="hub1.mail.example")
        assert report.hops == hop
        assert report.kept is None


def test_trace_that_a_session_may_not_bring_leaves_its_number():
    content = (
        b"Received: a\r\nreceived : b\r\nX-Postroad-Hops: 5\r\nX-Postroad-Hops: many\r\nSubject: x\r\n\r\nhello\r\n"
    )
    report = inspect(content, frozenset(), hostname="hub1.mail.example")
    assert report.hops == 7
    session = SessionFacts(remote_ip="192.0.2.1", local_port=25)
    assert stamps(session, report).startswith(b"X-Postroad-Hops: 7\r\n")
    allowed = inspect(content, frozenset({Permission.ACCEPT_HEADERS_ROUTING}), hostname="hub1.mail.example")
    assert allowed.hops == 7
    assert b"Hops" not in stamps(session, allowed)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"hello\r\n", True),
        (b"hello: x\r\n\r\nb\r\n", False),
        (b"Subject : x\r\n", False),
        (b"\r\nbody\r\n", False),
        (b"", False),
        (b" folded: into nothing\r\n", True),
        (b"two words: x\r\n", True),
        (b"From alice Mon Jan  1\r\nSubject: x\r\n", False),
        ("Grüße: x\r\n".encode(), True),
    ],
)
def test_a_message_that_begins_with_text_is_known_by_its_first_line(content, text):
    assert begins_with_text(content) is text
