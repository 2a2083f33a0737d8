"""The tier's own authority is followed by another without a moment in which a client trusts the wrong one."""

from __future__ import annotations

import itertools
import subprocess
from dataclasses import replace

import pytest
from certificate_kit import DAY, NOW, MemoryStore, request
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad_operator.certificates import KeySource, create_authority, ensure
from postroad_operator.certificates.ensure import prune
from postroad_operator.certificates.material import is_self_signed, issued_by, key_pem, load_chain, pem
from postroad_operator.certificates.retired import RETIRED_NAME, RetiredRoots, read_retired, write_retired
from postroad_operator.certificates.rollover import (
    AUTHORITY_NAME,
    OVERLAP,
    RENEW_BEFORE,
    SUCCESSOR_NAME,
    Step,
    next_step,
)

WANTED = request("mail.example", "hub1")
TEN_YEARS = 3650 * DAY
SUCCEEDS = NOW + TEN_YEARS - RENEW_BEFORE
ISSUES = SUCCEEDS + OVERLAP


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def at(store, now, wanted=WANTED, secrets=None):
    """Return the leaf and the trusted roots."""
    outcome = ensure([wanted], secrets or {}, store, now)
    assert outcome.problems == {}
    return outcome.materials[wanted.source].leaf, load_chain(outcome.trust_pem), outcome


def test_a_successor_is_trusted_before_it_issues_and_the_old_one_after(store):
    _, (old,), _ = at(store, NOW)
    leaf, roots, outcome = at(store, SUCCEEDS)
    new = next(root for root in roots if root != old)
    assert len(roots) == 2
    assert issued_by(leaf, old)
    assert outcome.renew_at <= ISSUES
    assert issued_by(at(store, ISSUES - 1)[0], old)
    leaf, roots, _ = at(store, ISSUES)
    assert issued_by(leaf, new)
    assert set(roots) == {old, new}
    # What the old one issued last was good for 90 days.
    last = ISSUES + 90 * DAY
    assert at(store, last)[1] == [new]
    assert AUTHORITY_NAME in store.bundles
    assert SUCCESSOR_NAME not in store.bundles
    assert RETIRED_NAME not in store.bundles


def test_every_certificate_of_the_old_authority_is_issued_again(store):
    second = request("other.example", name="other")
    ensure([WANTED, second], {}, store, ISSUES - OVERLAP)
    before = ensure([WANTED, second], {}, store, SUCCEEDS).materials
    moved = ensure([WANTED, second], {}, store, ISSUES)
    again = ensure([WANTED, second], {}, store, ISSUES + 1)
    assert before.keys() == moved.materials.keys()
    assert again.materials == moved.materials


def test_the_clock_may_jump_over_the_whole_change(store):
    _, (old,), _ = at(store, NOW)
    at(store, SUCCEEDS)
    leaf, roots, _ = at(store, NOW + TEN_YEARS + DAY)
    assert old not in [root for root in roots if issued_by(leaf, root)]
    assert any(issued_by(leaf, root) for root in roots)


def test_an_authority_that_ended_without_a_successor_is_reported_and_kept(store):
    at(store, NOW)
    kept = store.bundles[AUTHORITY_NAME]
    outcome = ensure([WANTED], {}, store, NOW + TEN_YEARS + DAY)
    assert "valid from" in outcome.problems[WANTED.source][0]
    assert store.bundles[AUTHORITY_NAME] == kept


def test_an_authority_that_was_taken_away_is_replaced_at_once_and_trusted_no_more(store):
    _, (stolen,), _ = at(store, NOW)
    del store.bundles[AUTHORITY_NAME]
    leaf, (root,), _ = at(store, NOW + DAY)
    assert root != stolen
    assert issued_by(leaf, root)
    assert at(store, NOW + 2 * DAY)[1] == [root]


def test_a_damaged_successor_gives_way_to_another(store):
    at(store, NOW)
    at(store, SUCCEEDS)
    store.bundles[SUCCESSOR_NAME] = b"garbage"
    _, roots, _ = at(store, SUCCEEDS + DAY)
    assert len(roots) == 2
    # It is trusted for as long as any other before it issues.
    assert issued_by(at(store, SUCCEEDS + OVERLAP)[0], roots[0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=40))
def test_whatever_the_looks_the_leaf_verifies_and_a_client_of_the_look_before_can_follow(steps):
    """A client that read the trust bundle at one look verifies what is served at the next, if both fall close."""
    store, known, now = MemoryStore(), None, SUCCEEDS - 100 * DAY
    ensure([WANTED], {}, store, NOW + TEN_YEARS - RENEW_BEFORE - 200 * DAY)
    for days in itertools.chain([0], steps):
        now += days * DAY
        if now >= NOW + TEN_YEARS:
            break
        leaf, roots, _ = at(store, now)
        assert any(issued_by(leaf, root) for root in roots)
        if known is not None and days * DAY <= OVERLAP:
            assert any(issued_by(leaf, root) for root in known)
        known = roots


@given(st.integers(-20_000, 20_000), st.none() | st.integers(0, 3650))
def test_a_step_is_taken_exactly_when_it_is_due(offset, successor_age):
    current = create_authority("CA", NOW).certificate
    now = NOW + TEN_YEARS + offset * DAY / 10
    made = None if successor_age is None else create_authority("CA", now - successor_age * DAY).certificate
    step, due = next_step(current, made, now)
    if made is not None:
        assert (step is Step.PROMOTE) is (successor_age * DAY >= OVERLAP or offset >= 0)
    else:
        assert (step is Step.SUCCEED) is (-RENEW_BEFORE <= offset * DAY / 10 < 0)
    assert (now >= due) or step is Step.KEEP


def test_a_replaced_authority_in_a_secret_stays_trusted_until_what_it_issued_has_ended(store):
    one, two = create_authority("One", NOW), create_authority("Two", NOW)
    wanted = replace(WANTED, secret="default/ca")

    def secrets(authority):
        return {"default/ca": {"tls.crt": authority.trust_pem, "tls.key": key_pem(authority.key)}}

    at(store, NOW, wanted, secrets(one))
    leaf, roots, _ = at(store, NOW + DAY, wanted, secrets(two))
    assert issued_by(leaf, two.certificate)
    assert set(roots) == {one.certificate, two.certificate}
    assert at(store, NOW + 90 * DAY, wanted, secrets(two))[1] == [two.certificate]


def test_a_broken_authority_leaves_what_it_issued_in_service(store):
    leaf, roots, _ = at(store, NOW)
    store.bundles[AUTHORITY_NAME] = b"garbage"
    outcome = ensure([WANTED], {}, store, NOW + DAY)
    assert outcome.problems[WANTED.source]
    assert outcome.materials[WANTED.source].leaf == leaf
    assert load_chain(outcome.trust_pem) == roots
    # Not beyond its end, and not for names that it lacks.
    assert ensure([WANTED], {}, store, NOW + 91 * DAY).materials == {}
    assert ensure([request("mail.example", "new")], {}, store, NOW + DAY).materials == {}


@given(st.dictionaries(st.integers(0, 3), st.integers(0, 2**33)))
def test_what_is_written_of_retired_roots_is_read_again(entries):
    roots = {ROOTS[index]: float(until) for index, until in entries.items()}
    assert read_retired(write_retired(roots)) == roots


@given(st.binary(max_size=200))
def test_garbage_holds_no_retired_roots(data):
    assert read_retired(data) == {}


ROOTS = [create_authority(f"CA {number}", NOW).trust_pem for number in range(4)]


def test_a_root_is_trusted_for_the_longest_time_that_was_said(store):
    retired = RetiredRoots(store, NOW)
    retired.retire(ROOTS[0], NOW + 10)
    retired.retire(ROOTS[0], NOW + 5)
    assert RetiredRoots(store, NOW + 9).trusted == (ROOTS[0],)
    assert RetiredRoots(store, NOW + 10).trusted == ()


def test_the_trust_bundle_of_an_overlap_verifies_both_leaves_for_openssl(store, tmp_path):
    old, _, _ = at(store, NOW)
    at(store, SUCCEEDS)
    new, _, outcome = at(store, ISSUES)
    (tmp_path / "trust.pem").write_bytes(outcome.trust_pem)
    for number, leaf, when in ((1, old, NOW + DAY), (2, new, ISSUES + DAY)):
        assert not is_self_signed(leaf)
        path = tmp_path / f"{number}.pem"
        path.write_bytes(pem(leaf))
        done = subprocess.run(
            ["openssl", "verify", "-attime", str(int(when)), "-CAfile", str(tmp_path / "trust.pem"), str(path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr


# What is gone


def test_what_is_kept_of_certificates_that_are_gone_goes_and_authorities_stay(store):
    asked = request("asked.example", source=KeySource.REQUEST, name="asked")
    ensure([WANTED, asked], {}, store, NOW)
    prune([WANTED.source], store)
    assert set(store.bundles) == {"TransportCertificate.default.mail", AUTHORITY_NAME}
    prune([], store)
    assert set(store.bundles) == {AUTHORITY_NAME}


def test_a_request_and_a_certificate_of_a_similar_name_do_not_share_a_key(store):
    plain = request("a.example", source=KeySource.REQUEST, name="a")
    similar = request("b.example", source=KeySource.REQUEST, name="a.request")
    outcome = ensure([plain, similar], {}, store, NOW)
    assert len(store.bundles) == len(set(outcome.pkcs10.values())) == 2
    prune([plain.source], store)
    assert ensure([plain], {}, store, NOW).pkcs10[plain.source] == outcome.pkcs10[plain.source]
    assert len(store.bundles) == 1
