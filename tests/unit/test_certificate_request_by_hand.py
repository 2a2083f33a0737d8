"""A certificate requested by hand: the request in the status, what openssl's CA returns for it, what is refused."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from certificate_kit import DAY, NOW, MemoryStore, request
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad_operator.certificates import KeyAlgorithm, KeyRotation, KeySource, Subject, create_authority, ensure
from postroad_operator.certificates.authority import generate_key, issue
from postroad_operator.certificates.bundle import read_bundle
from postroad_operator.certificates.material import key_pem, load_chain, load_key, pem, same_key
from postroad_operator.certificates.pkcs10 import answer_problems, asks_for, certification_request, load_request
from postroad_operator.certificates.store import store_name

WANTED = request("mail.example", "hub1", source=KeySource.REQUEST)
NAME = store_name(WANTED.source)
AUTHORITY = create_authority("Corporate CA", NOW - DAY)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def asked_key(store: MemoryStore):
    return load_key(store.bundles[f"{NAME}_request"])


def answer(store: MemoryStore, wanted=WANTED, now=NOW, **changes) -> bytes:
    """Return what an authority returns for the request as it stands."""
    return issue(AUTHORITY, replace(wanted, **changes), now, key=asked_key(store)).chain_pem


def served(store: MemoryStore, now=NOW, wanted=WANTED):
    """Go once through the flow; return the request with its answer, and the outcome with it."""
    ensure([wanted], {}, store, now)
    done = replace(wanted, signed=answer(store, wanted, now))
    return done, ensure([done], {}, store, now)


def test_until_an_answer_comes_it_is_pending_and_shows_one_and_the_same_request(store):
    outcome = ensure([WANTED], {}, store, NOW)
    assert "spec.request.signedCertificate" in outcome.pending[WANTED.source]
    assert outcome.problems == outcome.materials == {}
    assert asks_for(load_request(outcome.pkcs10[WANTED.source]), WANTED)
    assert ensure([WANTED], {}, store, NOW + 100 * DAY).pkcs10 == outcome.pkcs10


def test_the_answer_is_served_with_the_key_that_never_left(store):
    done, outcome = served(store)
    material = outcome.materials[WANTED.source]
    assert material.warnings == ()
    assert material.chain_pem == done.signed
    assert material.key_pem == key_pem(asked_key(store))
    assert outcome.pending == outcome.problems == {}
    assert outcome.renew_at == NOW + 60 * DAY


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda s: issue(AUTHORITY, WANTED, NOW).chain_pem, "is for another key than status.request"),
        (lambda s: answer(s, dns_names=("mail.example",)), "is not for hub1 (it is for mail.example)"),
        (lambda s: answer(s, now=NOW - 10 * DAY, duration=DAY), "expired on"),
        (lambda s: AUTHORITY.trust_pem + answer(s), "the server's certificate is not the first"),
        (lambda s: answer(s) + pem(create_authority("Stranger", NOW).certificate), "was not issued by the next one"),
        (lambda s: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not PEM certificates"),
        (lambda s: b"what the authority wrote in its mail", "not PEM certificates"),
    ],
)
def test_an_answer_that_cannot_be_served_is_refused_and_the_one_before_goes_on(store, spoil, says):
    done, first = served(store)
    outcome = ensure([replace(done, signed=spoil(store))], {}, store, NOW)
    (problem,) = outcome.problems[WANTED.source]
    assert says in problem
    assert outcome.materials[WANTED.source].chain_pem == first.materials[WANTED.source].chain_pem
    assert outcome.pkcs10 == first.pkcs10
    # With the right one again all is well.
    assert ensure([done], {}, store, NOW).problems == {}


def test_a_first_answer_that_cannot_be_served_is_refused_with_the_request_still_shown(store):
    shown = ensure([WANTED], {}, store, NOW).pkcs10
    outcome = ensure([replace(WANTED, signed=issue(AUTHORITY, WANTED, NOW).chain_pem)], {}, store, NOW)
    assert outcome.materials == outcome.pending == {}
    assert outcome.pkcs10 == shown


def test_what_was_accepted_is_served_beyond_its_end_with_a_warning(store):
    done, _ = served(store)
    outcome = ensure([done], {}, store, NOW + 91 * DAY)
    assert outcome.problems == {}
    assert any("expired" in warning for warning in outcome.materials[WANTED.source].warnings)


def test_an_answer_taken_out_again_goes_on_being_served_with_a_warning(store):
    served(store)
    outcome = ensure([WANTED], {}, store, NOW + DAY)
    (warning,) = outcome.materials[WANTED.source].warnings
    assert "what there was before is served" in warning


@pytest.mark.parametrize(("rotation", "same"), [(KeyRotation.ALWAYS, False), (KeyRotation.NEVER, True)])
def test_when_renewal_is_due_a_request_stands_ready_with_the_key_that_the_policy_says(store, rotation, same):
    wanted = replace(WANTED, rotation=rotation)
    done, first = served(store, wanted=wanted)
    due = ensure([done], {}, store, NOW + 60 * DAY)
    assert (due.pkcs10 == first.pkcs10) is same
    assert due.materials[WANTED.source].chain_pem == done.signed
    assert any("renewal is due" in warning for warning in due.materials[WANTED.source].warnings)
    renewed = replace(done, signed=answer(store, wanted, NOW + 61 * DAY))
    outcome = ensure([renewed], {}, store, NOW + 61 * DAY)
    assert outcome.problems == {}
    assert outcome.materials[WANTED.source].warnings == ()
    assert (outcome.materials[WANTED.source].key_pem == first.materials[WANTED.source].key_pem) is same


def test_changed_names_ask_anew_and_the_old_certificate_serves_until_the_answer(store):
    done, first = served(store)
    wider = replace(done, dns_names=("mail.example", "hub1", "hub2"))
    outcome = ensure([wider], {}, store, NOW)
    assert outcome.problems == {}
    assert outcome.materials[WANTED.source].chain_pem == done.signed
    assert any("hub2" in warning for warning in outcome.materials[WANTED.source].warnings)
    assert outcome.pkcs10 != first.pkcs10
    mended = replace(wider, signed=answer(store, wider))
    assert ensure([mended], {}, store, NOW).materials[WANTED.source].warnings == ()


def test_a_change_before_the_answer_keeps_the_key(store):
    ensure([WANTED], {}, store, NOW)
    key = asked_key(store)
    ensure([replace(WANTED, subject=Subject(organization="Example"))], {}, store, NOW)
    assert same_key(asked_key(store).public_key(), key.public_key())
    ensure([replace(WANTED, algorithm=KeyAlgorithm.RSA)], {}, store, NOW)
    assert not same_key(asked_key(store).public_key(), key.public_key())


def test_from_the_tiers_authority_to_another_there_is_no_gap(store):
    issued = ensure([replace(WANTED, key_source=KeySource.CA)], {}, store, NOW)
    waiting = ensure([WANTED], {}, store, NOW)
    assert waiting.materials[WANTED.source].chain_pem == issued.materials[WANTED.source].chain_pem
    assert waiting.trust_pem == issued.trust_pem
    assert any("status.request" in warning for warning in waiting.materials[WANTED.source].warnings)
    done = replace(WANTED, signed=answer(store))
    assert ensure([done], {}, store, NOW).materials[WANTED.source].chain_pem == done.signed


def test_a_root_that_is_handed_back_is_trusted_and_not_sent(store):
    ensure([WANTED], {}, store, NOW)
    outcome = ensure([replace(WANTED, signed=answer(store) + AUTHORITY.trust_pem)], {}, store, NOW)
    assert outcome.trust_pem == AUTHORITY.trust_pem
    assert AUTHORITY.trust_pem not in outcome.materials[WANTED.source].chain_pem


def test_a_damaged_request_is_made_again(store):
    ensure([WANTED], {}, store, NOW)
    store.bundles[f"{NAME}_request"] = b"\0garbage"
    assert asks_for(load_request(ensure([WANTED], {}, store, NOW).pkcs10[WANTED.source]), WANTED)


@settings(max_examples=40, deadline=None)
@given(position=st.integers(0, 3), start=st.integers(-40, 40), life=st.integers(1, 60), ours=st.booleans())
def test_an_answer_is_taken_exactly_if_it_is_ours_first_and_not_over(position, start, life, ours):
    key = generate_key(KeyAlgorithm.ECDSA, 256)
    authority = create_authority("CA", NOW - 100 * DAY)
    made = issue(authority, replace(WANTED, duration=life * DAY), NOW + start * DAY, key=key if ours else None)
    chain = load_chain(made.chain_pem)
    chain[:0] = [authority.certificate] * position
    problems = answer_problems(chain, [key.public_key()], WANTED.dns_names, NOW)
    assert (problems == []) is (ours and position == 0 and start + life >= 0)


# openssl as the authority


def openssl(*arguments: str, cwd: Path) -> str:
    if shutil.which("openssl") is None:
        pytest.skip("NO OPENSSL: install it to see that a real CA takes our requests")
    done = subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_openssl_verifies_the_request_and_reads_subject_and_names(tmp_path, store, algorithm):
    subject = Subject(
        country="KR",
        domain_components=("kbiz", "net"),
        state="S" * 128,
        locality="Gangnam",
        organization="Kbiz",
        organizational_units=("Mail", "Hub"),
    )
    wanted = replace(WANTED, algorithm=algorithm, subject=subject)
    outcome = ensure([wanted], {}, store, NOW)
    (tmp_path / "r.pem").write_bytes(outcome.pkcs10[WANTED.source])
    text = openssl("req", "-in", "r.pem", "-verify", "-noout", "-text", "-nameopt", "RFC2253", cwd=tmp_path)
    assert f"CN=mail.example,OU=Hub,OU=Mail,O=Kbiz,L=Gangnam,ST={'S' * 128},DC=kbiz,DC=net,C=KR" in text
    assert "DNS:mail.example, DNS:hub1" in text
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in text


def openssl_authority(directory: Path) -> None:
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"),
        *("-subj", "/CN=Openssl CA", "-keyout", "ca.key", "-out", "ca.crt"),
        cwd=directory,
    )


def test_what_openssl_x509_signs_is_served_and_verifies(tmp_path, store):
    openssl_authority(tmp_path)
    now = (tmp_path / "ca.crt").stat().st_mtime
    (tmp_path / "r.pem").write_bytes(ensure([WANTED], {}, store, now).pkcs10[WANTED.source])
    openssl(
        *("x509", "-req", "-in", "r.pem", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", "90"),
        *("-copy_extensions", "copy", "-out", "signed.crt"),
        cwd=tmp_path,
    )
    done = replace(WANTED, signed=(tmp_path / "signed.crt").read_bytes())
    outcome = ensure([done], {}, store, now)
    assert outcome.problems == {}
    (tmp_path / "served.crt").write_bytes(outcome.materials[WANTED.source].chain_pem)
    verified = openssl(
        *("verify", "-CAfile", "ca.crt", "-purpose", "sslserver", "-verify_hostname", "hub1", "served.crt"),
        cwd=tmp_path,
    )
    assert "served.crt: OK" in verified


def test_a_signature_without_the_names_is_refused_as_openssl_makes_it_without_copying(tmp_path, store):
    openssl_authority(tmp_path)
    now = (tmp_path / "ca.crt").stat().st_mtime
    (tmp_path / "r.pem").write_bytes(ensure([WANTED], {}, store, now).pkcs10[WANTED.source])
    openssl(
        *("x509", "-req", "-in", "r.pem", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", "90", "-out", "signed.crt"),
        cwd=tmp_path,
    )
    outcome = ensure([replace(WANTED, signed=(tmp_path / "signed.crt").read_bytes())], {}, store, now)
    (problem,) = outcome.problems[WANTED.source]
    assert "is not for mail.example, hub1 (it is for no DNS name)" in problem


def test_what_openssl_ca_returns_is_served_text_before_the_pem_and_all(tmp_path, store):
    openssl_authority(tmp_path)
    now = (tmp_path / "ca.crt").stat().st_mtime
    (tmp_path / "index.txt").touch()
    (tmp_path / "ca.cnf").write_text(
        "[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ncertificate=ca.crt\n"
        "private_key=ca.key\ndefault_md=sha256\ndefault_days=90\npolicy=p\ncopy_extensions=copy\n"
        "[p]\ncommonName=supplied\n"
    )
    (tmp_path / "r.pem").write_bytes(ensure([WANTED], {}, store, now).pkcs10[WANTED.source])
    openssl("ca", "-batch", "-config", "ca.cnf", "-in", "r.pem", "-out", "signed.crt", cwd=tmp_path)
    signed = (tmp_path / "signed.crt").read_bytes()
    assert signed.startswith(b"Certificate:")
    outcome = ensure([replace(WANTED, signed=signed + (tmp_path / "ca.crt").read_bytes())], {}, store, now)
    assert outcome.problems == {}
    assert isinstance(outcome.materials[WANTED.source].leaf, x509.Certificate)


def test_a_chain_with_its_root_is_kept_as_it_was_handed_back(store):
    """The bundle splits off a root; the answer must still be known again at the next look."""
    ensure([WANTED], {}, store, NOW)
    done = replace(WANTED, signed=answer(store) + AUTHORITY.trust_pem)
    first = ensure([done], {}, store, NOW)
    assert first.problems == {}
    # Beyond its end a new answer would be refused: this one is known.
    assert ensure([done], {}, store, NOW + 91 * DAY).problems == {}
    assert (
        first.materials[WANTED.source].chain_pem == ensure([done], {}, store, NOW).materials[WANTED.source].chain_pem
    )
    assert read_bundle(store.bundles[NAME]) is not None


def test_the_request_of_each_algorithm_is_signed_by_its_key():
    for algorithm in KeyAlgorithm:
        key = generate_key(algorithm, replace(WANTED, algorithm=algorithm).key_size)
        assert load_request(certification_request(WANTED, key)).is_signature_valid
