"""Which answers of a responder may be stapled, and when to ask again."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from ocsp_kit import BY_KEY, BY_NAME, REVOKED, UNKNOWN, authority, response
from partner_kit import HOUR, Ca, Issued

from postroad_transport.tls.ocsp import (
    ASSUMED_LIFE,
    LONGEST_RETRY,
    RETRY,
    SKEW,
    Staple,
    Unfit,
    judge,
    refresh_at,
    request,
    retry_at,
    subject,
)

NOW = 1_800_000_000.0
CA = authority(NOW)
IMPOSTOR = Ca("Issuer", NOW)
LEAF = CA.issue("mail.example")
ASKED = subject(LEAF.chain_pem)
assert ASKED is not None
SIGNING = [ExtendedKeyUsageOID.OCSP_SIGNING]


def verdict(now: float = NOW, ca: Ca = CA, leaf: Issued = LEAF, **fields: Any) -> Staple | Unfit:
    return judge(response(ca, leaf, NOW, **fields), ASKED, now)


def appointed(ca: Ca = CA, **fields: Any) -> Issued:
    return ca.issue("responder", **{"usage": SIGNING, **fields})


@pytest.mark.parametrize("named", [BY_NAME, BY_KEY])
@pytest.mark.parametrize("signer", [None, appointed()])
@pytest.mark.parametrize("digest", [hashes.SHA1(), hashes.SHA256()])
def test_a_good_answer_of_the_issuer_or_of_whom_it_appointed_is_stapled_as_it_is(named, signer, digest):
    der = response(CA, LEAF, NOW, named=named, signer=signer, digest=digest)
    assert judge(der, ASKED, NOW) == Staple(der, NOW - HOUR, NOW + HOUR)


def test_an_appointed_responder_may_have_another_kind_of_key():
    key = rsa.generate_private_key(65537, 2048)
    certificate = CA._build("rsa", key, CA, NOW - HOUR, NOW + HOUR, usage=SIGNING)
    assert isinstance(verdict(signer=Issued(certificate, key)), Staple)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": REVOKED}, Unfit.REVOKED),
        ({"status": UNKNOWN}, Unfit.UNKNOWN),
        ({"end": -1}, Unfit.OUTDATED),
        ({"start": SKEW + 1}, Unfit.OUTDATED),
        ({"leaf": CA.issue("mail.example")}, Unfit.OTHER_CERTIFICATE),
        # The same number, of another authority.
        ({"issuer": CA.parent.certificate}, Unfit.OTHER_CERTIFICATE),
        ({"ca": IMPOSTOR, "issuer": CA.certificate}, Unfit.UNTRUSTED),
        ({"signer": appointed(usage=[ExtendedKeyUsageOID.SERVER_AUTH])}, Unfit.UNTRUSTED),
        ({"signer": LEAF}, Unfit.UNTRUSTED),
        ({"signer": appointed(end=-1)}, Unfit.UNTRUSTED),
        ({"signer": appointed(start=1)}, Unfit.UNTRUSTED),
        ({"signer": appointed(IMPOSTOR)}, Unfit.UNTRUSTED),
        # Another authority's word, even where it is the issuer's own issuer.
        ({"signer": appointed(CA.parent)}, Unfit.UNTRUSTED),
        ({"signer": appointed(IMPOSTOR), "shown": appointed()}, Unfit.UNTRUSTED),
        # What is not signed counts for nothing, not even where it says revoked.
        ({"status": REVOKED, "ca": IMPOSTOR, "issuer": CA.certificate}, Unfit.UNTRUSTED),
    ],
)
def test_any_other_answer_is_not_stapled_and_the_reason_is_told(fields, expected):
    assert verdict(**fields) is expected


def test_a_clock_ahead_is_borne_and_an_end_that_is_reached_is_not():
    assert isinstance(verdict(start=SKEW), Staple)
    assert isinstance(verdict(now=NOW + HOUR - 1), Staple)
    assert verdict(now=NOW + HOUR) is Unfit.OUTDATED


def test_an_answer_without_an_end_is_good_for_an_hour():
    found = verdict(end=None, start=0)
    assert isinstance(found, Staple)
    assert found.until == NOW + ASSUMED_LIFE
    assert verdict(end=None, start=-ASSUMED_LIFE) is Unfit.OUTDATED


@pytest.mark.parametrize("status", [status for status in ocsp.OCSPResponseStatus if status.value])
def test_a_responder_that_has_no_answer_has_refused(status):
    der = ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
    assert judge(der, ASKED, NOW) is Unfit.REFUSED


@given(st.binary(max_size=200))
def test_what_is_no_response_is_unreadable(data):
    assert judge(data, ASKED, NOW) is Unfit.UNREADABLE


WHOLE = response(CA, LEAF, NOW, signer=appointed())


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_no_change_of_a_byte_makes_an_answer_about_another_time_or_certificate(at, change):
    changed = WHOLE[:at] + bytes([WHOLE[at] ^ change]) + WHOLE[at + 1 :]
    found = judge(changed, ASKED, NOW)
    assert isinstance(found, Unfit) or found[1:] == (NOW - HOUR, NOW + HOUR)


def test_the_question_names_the_certificate_and_has_no_nonce():
    asked = ocsp.load_der_ocsp_request(request(ASKED))
    assert asked.serial_number == LEAF.certificate.serial_number
    assert len(asked.extensions) == 0


def test_who_can_be_asked_is_in_the_certificate_and_its_issuer_in_the_chain():
    assert ASKED.urls == ("http://ocsp.example/",)
    assert ASKED.issuer == CA.certificate
    leaf_only = LEAF.certificate.public_bytes(Encoding.PEM)
    root = CA.parent.certificate.public_bytes(Encoding.PEM)
    assert subject(leaf_only) is None
    assert subject(leaf_only + root) is None
    assert subject(leaf_only + root + CA.certificate.public_bytes(Encoding.PEM)) == ASKED
    assert subject(b"") is None
    assert subject(leaf_only.replace(b"M", b"N")) is None


@pytest.mark.parametrize("url", ["", "ldap://ocsp.example/", "file:///etc/passwd"])
def test_without_a_responder_over_http_there_is_nothing_to_ask(url):
    assert subject(authority(NOW, url).issue("mail.example").chain_pem) is None


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_next_answer_is_asked_for_half_way_to_the_end_and_never_at_once(age, left):
    at = refresh_at(Staple(b"", NOW - age, NOW + left), NOW)
    assert at >= NOW + RETRY
    assert at == pytest.approx(NOW + left / 2) or left < 2 * RETRY


def test_failures_are_repeated_ever_more_slowly():
    waits = [retry_at(failures, NOW) - NOW for failures in range(1, 100)]
    assert waits[:3] == [RETRY, 2 * RETRY, 4 * RETRY]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_RETRY
