"""Certificates are kept, renewed and provided for what the resources ask for."""

from __future__ import annotations

import os
import stat
from dataclasses import replace

import pytest
from certificate_kit import DAY, NOW, MemoryStore, request
from hypothesis import given
from hypothesis import strategies as st

from postroad_operator.certificates import (
    DirectoryStore,
    KeyAlgorithm,
    KeyRotation,
    KeySource,
    Subject,
    certificate_files,
    create_authority,
    ensure,
    from_resource,
    issue,
    secret_data,
)
from postroad_operator.certificates.material import key_pem
from postroad_operator.certificates.renewal import renewal_time
from postroad_operator.resources import Secret, TransportCertificate

WANTED = request("mail.example.com", "hub1")


class FullStore(MemoryStore):
    full = False

    def save(self, name: str, bundle: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().save(name, bundle)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def one(wanted, store, now=NOW, secrets=None):
    outcome = ensure([wanted], secrets or {}, store, now)
    assert outcome.problems == {}
    return outcome.materials[wanted.source]


def test_a_kept_certificate_is_used_again(store):
    first = one(WANTED, store)
    assert one(WANTED, store, NOW + 59 * DAY) == first


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"dns_names": ("mail.example.com", "hub1", "hub2")}, "names"),
        ({"subject": Subject(organization="Example")}, "subject"),
        ({"algorithm": KeyAlgorithm.ED25519}, "key algorithm"),
        ({"size": 384}, "key size"),
        ({"duration": 60 * DAY}, "duration"),
        ({"key_source": KeySource.SELF_SIGNED}, "authority"),
    ],
)
def test_a_changed_request_is_issued_again(store, change, what):
    first = one(WANTED, store)
    changed = replace(WANTED, **change)
    second = one(changed, store, NOW + 60)
    assert second.chain_pem != first.chain_pem
    assert one(changed, store, NOW + 120) == second


def test_services_are_no_reason_to_issue_again(store):
    first = one(WANTED, store)
    assert one(replace(WANTED, services=("SMTP", "IMAP")), store) == first


def test_names_in_another_order_are_no_reason_to_issue_again(store):
    named = replace(WANTED, subject=Subject(common_name="mail.example.com"))
    first = one(named, store)
    assert one(replace(named, dns_names=("hub1", "mail.example.com")), store) == first


@pytest.mark.parametrize(("rotation", "same"), [(KeyRotation.ALWAYS, False), (KeyRotation.NEVER, True)])
def test_renewal_comes_in_time_and_the_rotation_policy_decides_about_the_key(store, rotation, same):
    wanted = replace(WANTED, rotation=rotation)
    first = one(wanted, store)
    second = one(wanted, store, NOW + 60 * DAY)
    assert second.chain_pem != first.chain_pem
    assert (second.key_pem == first.key_pem) is same
    assert one(wanted, store, NOW + 60 * DAY + 1) == second


def test_a_certificate_made_while_the_clock_was_ahead_is_made_again(store):
    one(WANTED, store)
    ahead = one(WANTED, store, NOW + 400 * DAY)
    now = one(WANTED, store, NOW + DAY)
    assert ahead.leaf.not_valid_before_utc > now.leaf.not_valid_before_utc
    assert one(WANTED, store, NOW + DAY - 240) == now


def test_the_next_time_to_look_is_the_earliest_renewal(store):
    short = request("short.example", name="short", duration=10 * DAY, renew_before=DAY)
    outcome = ensure([WANTED, short], {}, store, NOW)
    assert outcome.renew_at == NOW + 9 * DAY
    assert ensure([], {}, store, NOW).renew_at is None


@given(st.integers(0, 2_000_000_000), st.integers(3600, 34_560_000), st.integers(1, 34_560_000))
def test_renewal_falls_within_the_life_of_a_certificate_and_not_at_its_start(start, life, renew_before):
    when = renewal_time(start, start + life, renew_before)
    assert start < when < start + life


def test_renewal_is_due_exactly_at_its_time():
    described, _ = certificate_files(WANTED, one(WANTED, MemoryStore()))
    assert renewal_time(described.not_before, described.not_after, 30 * DAY) == NOW + 60 * DAY


def test_the_authority_is_kept_and_trusted_once_for_all(store):
    other = request("other.example", name="other")
    outcome = ensure([WANTED, other], {}, store, NOW)
    assert outcome.trust_pem.count(b"BEGIN CERTIFICATE") == 1
    assert outcome.materials[WANTED.source].trust_pem == outcome.trust_pem
    again = ensure([other], {}, store, NOW + 80 * DAY)
    assert again.trust_pem == outcome.trust_pem


def test_no_authority_is_made_where_none_is_asked_for(store):
    one(replace(WANTED, key_source=KeySource.SELF_SIGNED), store)
    assert list(store.bundles) == ["TransportCertificate.default.mail"]


def test_a_damaged_leaf_is_issued_again_and_a_damaged_authority_is_reported(store):
    one(WANTED, store)
    store.bundles["TransportCertificate.default.mail"] = b"garbage"
    one(WANTED, store)
    store.bundles["_authority"] = b"garbage"
    outcome = ensure([WANTED], {}, store, NOW)
    assert outcome.problems == {WANTED.source: ("the tier's own authority: not PEM certificates",)}
    assert store.bundles["_authority"] == b"garbage"


def test_a_certificate_that_ends_with_its_authority_says_so(store):
    one(WANTED, store)
    (warning,) = one(WANTED, store, NOW + 3600 * DAY).warnings
    assert warning == "ends with its authority on 2036-09-18: replace the authority before"


def test_one_bad_request_does_not_touch_the_others(store):
    bad = request("192.0.2.1", name="bad")
    outcome = ensure([bad, WANTED], {}, store, NOW)
    assert list(outcome.materials) == [WANTED.source]
    assert outcome.problems == {bad.source: ("dnsNames: 192.0.2.1 is an IP address; clients must dial a name",)}


def test_a_full_disk_keeps_the_tier_serving():
    store = FullStore()
    one(WANTED, store)
    store.full = True
    (warning,) = one(WANTED, store, NOW + 60 * DAY).warnings
    assert warning == "the certificate is served but could not be kept: No space left on device"


def test_an_authority_that_cannot_be_kept_is_a_problem_since_clients_would_have_to_trust_anew():
    store = FullStore()
    store.full = True
    outcome = ensure([WANTED], {}, store, NOW)
    assert outcome.problems == {
        WANTED.source: ("the certificate store cannot be used: No space left on device",),
    }


def test_certificates_and_authorities_come_from_secrets(store):
    authority = create_authority("Corporate CA", NOW)
    leaf = issue(authority, WANTED, NOW)
    secrets = {
        "default/ca": {"tls.crt": authority.trust_pem, "tls.key": key_pem(authority.key)},
        "default/leaf": {"tls.crt": leaf.chain_pem, "tls.key": leaf.key_pem},
    }
    imported = one(replace(WANTED, key_source=KeySource.IMPORTED, secret="default/leaf"), store, NOW, secrets)
    assert imported.chain_pem == leaf.chain_pem
    issued = one(replace(WANTED, secret="default/ca"), store, NOW, secrets)
    assert issued.trust_pem == authority.trust_pem
    assert "_authority" not in store.bundles


@pytest.mark.parametrize(
    ("secrets", "problem"),
    [
        ({}, "Secret default/tls does not exist"),
        ({"default/tls": {}}, "tls.crt"),
    ],
)
@pytest.mark.parametrize("source", [KeySource.IMPORTED, KeySource.CA])
def test_a_missing_secret_is_named(store, source, secrets, problem):
    outcome = ensure([replace(WANTED, key_source=source, secret="default/tls")], secrets, store, NOW)
    assert problem in outcome.problems[WANTED.source][0]


def test_files_are_named_by_their_content(store):
    material = one(WANTED, store)
    described, files = certificate_files(WANTED, material)
    assert files == {described.chain_file: material.chain_pem, described.key_file: material.key_pem}
    renewed, _ = certificate_files(WANTED, one(WANTED, store, NOW + 60 * DAY))
    assert renewed.chain_file != described.chain_file
    assert renewed.key_file != described.key_file


# The directory


def test_keys_are_private_to_the_user_whatever_the_umask(tmp_path):
    directory = tmp_path / "state" / "certificates"
    old = os.umask(0)
    try:
        one(WANTED, DirectoryStore(directory))
    finally:
        os.umask(old)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    files = sorted(directory.iterdir())
    assert [file.name for file in files] == ["TransportCertificate.default.mail.pem", "_authority.pem"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_new_store_on_the_same_directory_finds_everything(tmp_path):
    first = one(WANTED, DirectoryStore(tmp_path))
    assert one(WANTED, DirectoryStore(tmp_path)) == first


def test_a_failed_write_leaves_the_old_bundle_and_no_litter(tmp_path, monkeypatch):
    store = DirectoryStore(tmp_path)
    store.save("a", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        store.save("a", b"new")
    assert store.load("a") == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.pem"]


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "a\0b"])
def test_a_name_cannot_leave_the_directory(tmp_path, name):
    store = DirectoryStore(tmp_path)
    with pytest.raises(ValueError, match="not a store name"):
        store.load(name)
    with pytest.raises(ValueError, match="not a store name"):
        store.save(name, b"")


# Resources


def resource(**spec) -> TransportCertificate:
    metadata = {"name": "mail", "namespace": "post"}
    return TransportCertificate.model_validate({"metadata": metadata, "spec": spec})


def test_a_resource_with_defaults_asks_for_ecdsa_from_the_tiers_own_authority():
    wanted = from_resource(resource(dnsNames=["Mail.Bücher.example", "*.Hub.example"], ca={}))
    assert wanted == replace(
        request("mail.xn--bcher-kva.example", "*.hub.example"), source="TransportCertificate/post/mail"
    )


@pytest.mark.parametrize(
    ("spec", "source", "secret"),
    [
        ({"selfSigned": {}}, KeySource.SELF_SIGNED, ""),
        ({"ca": {"secretRef": {"name": "corp"}}}, KeySource.CA, "post/corp"),
        ({"secretRef": {"name": "tls"}}, KeySource.IMPORTED, "post/tls"),
        ({"issuerRef": {"name": "letsencrypt"}}, KeySource.ISSUER, "post/transport-mail"),
        ({"request": {}}, KeySource.REQUEST, ""),
    ],
)
def test_each_source_of_a_resource_is_understood(spec, source, secret):
    wanted = from_resource(resource(dnsNames=["mail.example.com"], **spec))
    assert (wanted.key_source, wanted.secret) == (source, secret)


def test_key_subject_services_and_times_of_a_resource_are_taken_over():
    wanted = from_resource(
        resource(
            dnsNames=["mail.example.com"],
            ca={},
            subject={"C": "KR", "S": "Seoul", "L": "Gangnam", "O": "Kbiz", "CN": "mail"},
            services=["SMTP", "POP"],
            privateKey={"algorithm": "RSA", "size": 3072, "rotation": "Never"},
            duration="48h",
            renewBefore="12h",
        )
    )
    assert (wanted.algorithm, wanted.size, wanted.rotation) == (KeyAlgorithm.RSA, 3072, KeyRotation.NEVER)
    assert (wanted.duration, wanted.renew_before, wanted.services) == (2 * DAY, DAY / 2, ("SMTP", "POP"))
    assert wanted.subject == Subject("KR", (), "Seoul", "Gangnam", "Kbiz", (), "mail")


def test_secrets_are_reduced_to_their_certificate_parts():
    secret = Secret.model_validate(
        {
            "metadata": {"name": "tls", "namespace": "post"},
            "data": {"tls.crt": "Y2VydA=="},
            "stringData": {"tls.key": "key", "htpasswd": "kim:x"},
        }
    )
    assert secret_data([secret]) == {"post/tls": {"tls.crt": b"cert", "tls.key": b"key"}}
