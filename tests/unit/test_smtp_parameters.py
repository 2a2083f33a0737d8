"""ESMTP parameters, trace headers, identifiers, deadlines: the pure parts."""

from __future__ import annotations

import email.parser
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.config.model import ALL_EXTENSIONS
from postroad_transport.message import Body
from postroad_transport.policy.reply import Reply
from postroad_transport.smtp.extensions import (
    MailParameters,
    RecipientParameters,
    mail_parameters,
    recipient_parameters,
)
from postroad_transport.smtp.received import message_id, received_header, transmission_type
from postroad_transport.smtp.timers import extend_for_progress

OFFERED = frozenset(ALL_EXTENSIONS)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, MailParameters()),
        ({"SIZE": "1000"}, MailParameters(size=1000)),
        ({"BODY": "8bitmime"}, MailParameters(body=Body.EIGHT_BIT_MIME)),
        ({"BODY": "BINARYMIME"}, MailParameters(body=Body.BINARY_MIME)),
        ({"SMTPUTF8": None}, MailParameters(smtputf8=True)),
        ({"RET": "hdrs", "ENVID": "QQ314159+2Babc"}, MailParameters(ret="HDRS", envid="QQ314159+2Babc")),
        ({"AUTH": "<>"}, MailParameters()),
        ({"AUTH": "e+3Dmc2@example.com"}, MailParameters(submitter="e+3Dmc2@example.com")),
        ({"MT-PRIORITY": "3"}, MailParameters(priority=3)),
        ({"MT-PRIORITY": "-9"}, MailParameters(priority=-9)),
    ],
)
def test_mail_parameters_are_understood_and_kept_as_sent(given_, expected):
    assert mail_parameters(given_, OFFERED) == expected


@pytest.mark.parametrize(
    "given_",
    [
        {"SIZE": None},
        {"SIZE": "-1"},
        {"SIZE": "1" * 21},
        {"BODY": "9BIT"},
        {"BODY": None},
        {"SMTPUTF8": "yes"},
        {"RET": "BODY"},
        {"ENVID": None},
        {"ENVID": "x" * 101},
        {"ENVID": "a+2"},
        {"ENVID": "a+zz"},
        {"AUTH": None},
        {"MT-PRIORITY": "10"},
        {"MT-PRIORITY": "--1"},
    ],
)
def test_bad_values_of_mail_parameters_get_501(given_):
    reply = mail_parameters(given_, OFFERED)
    assert isinstance(reply, Reply)
    assert (reply.code, reply.enhanced) == (501, "5.5.4")


@pytest.mark.parametrize(
    ("given_", "off"),
    [
        ({"FOO": "BAR"}, ""),
        ({"SIZE": "1"}, "SIZE"),
        ({"SMTPUTF8": None}, "SMTPUTF8"),
        ({"RET": "FULL"}, "DSN"),
        ({"BODY": "7BIT"}, "8BITMIME"),
    ],
)
def test_unknown_parameters_and_those_turned_off_get_555(given_, off):
    reply = mail_parameters(given_, OFFERED - {off})
    assert isinstance(reply, Reply)
    assert (reply.code, reply.enhanced) == (555, "5.5.4")


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"NOTIFY": "NEVER"}, RecipientParameters(notify=("NEVER",))),
        ({"NOTIFY": "success,Failure"}, RecipientParameters(notify=("SUCCESS", "FAILURE"))),
        ({"ORCPT": "rfc822;Bob+2B1@Example.com"}, RecipientParameters(orcpt="rfc822;Bob+2B1@Example.com")),
    ],
)
def test_recipient_parameters_are_kept_as_sent(given_, expected):
    assert recipient_parameters(given_, OFFERED) == expected


@pytest.mark.parametrize(
    ("given_", "code"),
    [
        ({"NOTIFY": "NEVER,SUCCESS"}, 501),
        ({"NOTIFY": "DELAY,DELAY"}, 501),
        ({"NOTIFY": None}, 501),
        ({"ORCPT": "bob@example.com"}, 501),
        ({"ORCPT": ";x"}, 501),
        ({"SIZE": "1"}, 555),
    ],
)
def test_bad_recipient_parameters_are_refused(given_, code):
    reply = recipient_parameters(given_, OFFERED)
    assert isinstance(reply, Reply)
    assert reply.code == code


@given(
    now=st.floats(0, 4e9), later=st.floats(0.002, 1e6), bits=st.integers(0, 2**40 - 1), other=st.integers(0, 2**40)
)
def test_message_ids_sort_by_time_and_differ_by_random_bits(now, later, bits, other):
    first, second = message_id(now, bits), message_id(now + later, other)
    assert len(first) == len(second) == 17
    assert first.isalnum()
    assert first < second
    assert message_id(now, bits) != message_id(now, bits ^ 1)


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ((False, False, False, False), "SMTP"),
        ((True, False, False, False), "ESMTP"),
        ((True, True, False, False), "ESMTPS"),
        ((True, True, True, False), "ESMTPSA"),
        ((True, False, True, False), "ESMTPA"),
        ((True, True, True, True), "UTF8SMTPSA"),
    ],
)
def test_transmission_types_of_rfc_3848_and_6531(facts, word):
    extended, tls, authenticated, smtputf8 = facts
    assert transmission_type(extended=extended, tls=tls, authenticated=authenticated, smtputf8=smtputf8) == word


def test_received_header_is_one_well_formed_header():
    header = received_header(
        helo="client.example",
        client="2001:db8::1",
        by="mail.example.com",
        protocol="ESMTPSA",
        tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
        message="0123",
        recipient="b@example.com",
        now=1_700_000_000.5,
    )
    assert max(map(len, header.split(b"\r\n"))) <= 78
    message = email.parser.BytesParser(policy=email.policy.default).parsebytes(header + b"\r\n")
    assert message["Received"] == (
        "from client.example ([IPv6:2001:db8::1])\tby mail.example.com with ESMTPSA id 0123"
        "\t(TLSv1.3 TLS_AES_256_GCM_SHA384)\tfor <b@example.com>;\tTue, 14 Nov 2023 22:13:20 +0000"
    )


def test_sender_above_the_minimum_rate_is_never_cut_and_one_below_it_is():
    idle, rate = 300.0, 100.0
    for bytes_per_second, survives in ((150, True), (50, False)):
        now, deadline = 0.0, idle
        while now < 7200 and now < deadline:
            now += 1.0
            deadline = extend_for_progress(deadline, now, bytes_per_second, idle=idle, minimum_rate=rate)
        assert (now >= 7200) is survives
