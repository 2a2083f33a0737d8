"""What the authority issues, judged by OpenSSL's command and by cryptography's verifier."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from certificate_kit import DAY, NOW, request, write
from cryptography import x509
from cryptography.hazmat.primitives import serialization as s
from cryptography.x509 import verification
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from postroad_operator.certificates import (
    CertificateError,
    KeyAlgorithm,
    Subject,
    check_request,
    create_authority,
    describe,
    from_secret,
    issue,
    load_authority,
    self_signed,
)
from postroad_operator.certificates.material import key_pem, pem

AUTHORITY = create_authority("Test CA", NOW)
ATTIME = ("-attime", str(int(NOW)))


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def described(material, **fields):
    defaults = {"has_key": True, "services": ("SMTP",), "chain_file": "c.crt", "key_file": "c.key"}
    return describe("mail", "TransportCertificate/default/mail", material.chain_pem, **{**defaults, **fields})


def test_openssl_verifies_chain_purpose_and_names_strictly(tmp_path):
    chain, _ = write(tmp_path, issue(AUTHORITY, request("mail.example.com", "*.hub.example.com"), NOW))
    ca = tmp_path / "ca.crt"
    ca.write_bytes(AUTHORITY.trust_pem)
    verify = ("verify", "-x509_strict", "-CAfile", ca, *ATTIME)
    for purpose in ("sslserver", "sslclient"):
        assert openssl(*verify, "-purpose", purpose, chain).endswith(": OK\n")
    for name in ("mail.example.com", "hub1.hub.example.com"):
        assert openssl(*verify, "-verify_hostname", name, chain).endswith(": OK\n")
    for name in ("example.com", "a.b.hub.example.com", "hub.example.com"):
        assert "hostname mismatch" in openssl(*verify, "-verify_hostname", name, chain)
    assert openssl("verify", "-x509_strict", "-CAfile", ca, *ATTIME, ca).endswith(": OK\n")
    other = tmp_path / "other.crt"
    other.write_bytes(create_authority("Test CA", NOW).trust_pem)
    assert "verification failed" in openssl("verify", "-CAfile", other, *ATTIME, chain)


def test_openssl_verifies_a_self_signed_certificate_that_is_trusted(tmp_path):
    chain, _ = write(tmp_path, self_signed(request("mail.example.com"), NOW))
    assert openssl("verify", "-CAfile", chain, *ATTIME, "-verify_hostname", "mail.example.com", chain).endswith(
        ": OK\n"
    )


def test_openssl_reads_the_subject_in_the_right_order(tmp_path):
    subject = Subject(
        country="KR",
        domain_components=("kbiz", "net"),
        state="Seoul",
        locality="강남구",
        organization="Kbiz",
        organizational_units=("Mail", "Hub"),
        common_name="mail.kbiz.net",
    )
    chain, _ = write(tmp_path, issue(AUTHORITY, request("mail.kbiz.net", subject=subject), NOW))
    text = openssl("x509", "-in", chain, "-noout", "-subject", "-nameopt", "oneline,utf8,-esc_msb,-space_eq")
    assert text.strip() == (
        "subject=C=KR, DC=net, DC=kbiz, ST=Seoul, L=강남구, O=Kbiz, OU=Mail, OU=Hub, CN=mail.kbiz.net"
    )


@pytest.mark.parametrize(
    ("algorithm", "size", "line"),
    [
        (KeyAlgorithm.ECDSA, 0, "NIST CURVE: P-256"),
        (KeyAlgorithm.ECDSA, 384, "NIST CURVE: P-384"),
        (KeyAlgorithm.ECDSA, 521, "NIST CURVE: P-521"),
        (KeyAlgorithm.RSA, 0, "Public-Key: (2048 bit)"),
        (KeyAlgorithm.ED25519, 0, "ED25519 Public-Key"),
    ],
)
def test_the_key_has_the_algorithm_and_size_asked_for(tmp_path, algorithm, size, line):
    wanted = request("mail.example.com", algorithm=algorithm, size=size)
    for material in (issue(AUTHORITY, wanted, NOW), self_signed(wanted, NOW)):
        chain, _ = write(tmp_path, material)
        assert line in openssl("x509", "-in", chain, "-noout", "-text")


def test_a_certificate_lasts_for_its_duration_and_never_longer_than_its_authority():
    year = describe_life(issue(AUTHORITY, request("a.example", duration=365 * DAY), NOW))
    assert year == (NOW - 300, NOW + 365 * DAY)
    late = NOW + 3640 * DAY
    assert describe_life(issue(AUTHORITY, request("a.example", duration=365 * DAY), late)) == (
        late - 300,
        NOW + 3650 * DAY,
    )


def describe_life(material) -> tuple[float, float]:
    certificate = described(material)
    return certificate.not_before, certificate.not_after


def test_a_long_first_name_leaves_the_subject_empty_and_the_names_critical():
    name = ".".join(["x" * 40] * 3)
    leaf = issue(AUTHORITY, request(name), NOW).leaf
    assert list(leaf.subject) == []
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_description_of_an_issued_certificate():
    material = issue(AUTHORITY, request("mail.example.com", "*.example.com"), NOW)
    certificate = described(material, services=("smtp", "IMAP"))
    assert certificate.dns_names == ("mail.example.com", "*.example.com")
    assert certificate.common_name == "mail.example.com"
    assert certificate.services == ("SMTP", "IMAP")
    assert (certificate.self_signed, certificate.version) == (False, 3)
    assert (certificate.chain_file, certificate.key_file) == ("c.crt", "c.key")
    assert described(material, has_key=False).key_file == ""


def test_the_thumbprint_is_what_openssl_prints(tmp_path):
    material = issue(AUTHORITY, request("mail.example.com"), NOW)
    chain, _ = write(tmp_path, material)
    printed = openssl("x509", "-in", chain, "-noout", "-fingerprint", "-sha256")
    assert described(material).thumbprint == printed.strip().partition("=")[2].replace(":", "").lower()


def test_self_signed_means_signed_with_its_own_key_and_not_just_an_equal_name():
    assert described(self_signed(request("mail.example.com"), NOW)).self_signed
    impostor = create_authority("mail.example.com", NOW)
    material = issue(impostor, request("mail.example.com"), NOW)
    assert material.leaf.subject == material.leaf.issuer
    assert not described(material).self_signed


def test_material_does_not_show_its_key():
    material = issue(AUTHORITY, request("mail.example.com"), NOW)
    assert "PRIVATE" not in repr(material)
    assert "PrivateKey" not in repr(AUTHORITY)


# Secrets


def secret(material, **changes) -> dict[str, bytes]:
    return {"tls.crt": material.chain_pem, "tls.key": material.key_pem, **changes}


def problems(data, *names, now=NOW) -> tuple[str, ...]:
    with pytest.raises(CertificateError) as caught:
        from_secret(data, names, now)
    for problem in caught.value.problems:
        assert "PRIVATE" not in problem
    return caught.value.problems


LEAF = issue(AUTHORITY, request("mail.example.com", "*.example.com"), NOW)


def test_a_good_secret_is_taken_without_warnings():
    material = from_secret(secret(LEAF), ["mail.example.com", "hub1.example.com", "*.example.com"], NOW)
    assert material.chain_pem == LEAF.chain_pem
    assert material.warnings == ()


def test_a_whole_chain_up_to_the_root_is_taken_without_the_text_between():
    material = from_secret(
        secret(
            LEAF,
            **{"tls.crt": LEAF.chain_pem + AUTHORITY.trust_pem, "ca.crt": b"# Autorit\xe9\n" + AUTHORITY.trust_pem},
        ),
        [],
        NOW,
    )
    assert material.chain_pem == LEAF.chain_pem + AUTHORITY.trust_pem
    assert material.trust_pem == AUTHORITY.trust_pem


def test_missing_parts_are_named():
    assert problems({}) == ("tls.crt: missing from the Secret", "tls.key: missing from the Secret")
    assert problems(secret(LEAF, **{"tls.key": b""})) == ("tls.key: missing from the Secret",)


@pytest.mark.parametrize("garbage", [b"garbage", b"\x00\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_unreadable_parts_are_named(garbage):
    assert problems(secret(LEAF, **{"tls.crt": garbage})) == ("tls.crt: not PEM certificates",)
    assert problems(secret(LEAF, **{"tls.key": garbage})) == ("tls.key: not a PEM private key",)
    assert problems(secret(LEAF, **{"ca.crt": garbage})) == ("ca.crt: not PEM certificates",)


def test_a_key_with_a_passphrase_is_named():
    key = s.load_pem_private_key(LEAF.key_pem, None)
    locked = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"x"))
    (problem,) = problems(secret(LEAF, **{"tls.key": locked}))
    assert problem == "tls.key: is protected by a passphrase; store it without one"


def test_a_foreign_key_is_named():
    other = issue(AUTHORITY, request("mail.example.com"), NOW)
    assert problems(secret(LEAF, **{"tls.key": other.key_pem})) == (
        "tls.key: does not belong to the first certificate in tls.crt",
    )


def test_a_chain_out_of_order_is_named_with_both_certificates():
    (problem, *_) = problems(secret(LEAF, **{"tls.crt": AUTHORITY.trust_pem + LEAF.chain_pem}))
    assert problem.startswith("tls.crt: certificate 1 (CN=Test CA) was not issued by the next one (CN=mail.example")


def test_names_it_lacks_and_expiry_are_warnings_since_it_can_still_be_served():
    material = from_secret(secret(LEAF), ["other.example", "a.b.example.com"], NOW + 91 * DAY)
    assert [warning.split(" (")[0].split(" on ")[0] for warning in material.warnings] == [
        "tls.crt: is not for other.example",
        "tls.crt: is not for a.b.example.com",
        "tls.crt: CN=mail.example.com expired",
    ]
    (warning,) = from_secret(secret(LEAF), [], NOW - DAY).warnings
    assert "is not valid before" in warning


@settings(max_examples=60)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_in_a_secret_give_problems_and_nothing_else(certificate, key):
    with pytest.raises(CertificateError):
        from_secret({"tls.crt": certificate, "tls.key": key}, [], NOW)


# Authorities from a Secret


def test_an_intermediate_authority_sends_itself_along_and_is_trusted_by_its_root(tmp_path):
    root, middle = tmp_path / "root.crt", tmp_path / "middle.crt"
    for arguments in (
        ("-subj", "/CN=Root", "-out", root, "-keyout", tmp_path / "root.key", "-addext", "keyUsage=keyCertSign"),
        (
            *("-subj", "/CN=Middle", "-out", middle, "-keyout", tmp_path / "middle.key"),
            *("-CA", root, "-CAkey", tmp_path / "root.key"),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign"),
        ),
    ):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "30", *arguments)
    now = datetime.now(UTC).timestamp() + 1
    authority = load_authority(middle.read_bytes() + root.read_bytes(), (tmp_path / "middle.key").read_bytes(), now)
    material = issue(authority, request("mail.example.com", duration=DAY), now)
    assert material.trust_pem == pem(*x509.load_pem_x509_certificates(root.read_bytes()))
    leaf, *rest = x509.load_pem_x509_certificates(material.chain_pem)
    assert [item.subject.rfc4514_string() for item in rest] == ["CN=Middle"]
    chain, _ = write(tmp_path, material)
    done = openssl("verify", "-CAfile", root, "-untrusted", chain, "-verify_hostname", "mail.example.com", chain)
    assert done.endswith(": OK\n")
    assert leaf.issuer.rfc4514_string() == "CN=Middle"


@pytest.mark.parametrize(
    ("chain", "key", "now", "reason"),
    [
        (LEAF.chain_pem, LEAF.key_pem, NOW, "not an authority's"),
        (AUTHORITY.trust_pem, LEAF.key_pem, NOW, "does not belong"),
        (AUTHORITY.trust_pem, key_pem(AUTHORITY.key), NOW + 3650 * DAY, "valid from 2026-09-21 to 2036-09-18 only"),
        (b"garbage", key_pem(AUTHORITY.key), NOW, "not PEM certificates"),
    ],
)
def test_an_authority_that_cannot_issue_is_refused_with_the_reason(chain, key, now, reason):
    with pytest.raises(CertificateError, match=reason):
        load_authority(chain, key, now)


# Requests


GOOD = request("mail.example.com")


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (replace(GOOD, dns_names=()), "dnsNames: at least one"),
        (replace(GOOD, dns_names=("192.0.2.1",)), "192.0.2.1 is an IP address"),
        (replace(GOOD, dns_names=("2001:db8::1",)), "is an IP address"),
        (replace(GOOD, dns_names=("a..b",)), "not a DNS name"),
        (replace(GOOD, dns_names=("Mail.example",)), "not a DNS name"),
        (replace(GOOD, dns_names=("a.*.example",)), "not a DNS name"),
        (replace(GOOD, dns_names=("a\n.example",)), "not a DNS name"),
        (replace(GOOD, dns_names=("a" * 64,)), "not a DNS name"),
        (replace(GOOD, dns_names=(".".join(["a" * 60] * 5),)), "not a DNS name"),
        (replace(GOOD, subject=Subject(country="KOR")), "subject.C: two capital"),
        (replace(GOOD, subject=Subject(country="kr")), "subject.C: two capital"),
        (replace(GOOD, subject=Subject(domain_components=("d" * 256,))), "subject.DC: at most 255"),
        (replace(GOOD, subject=Subject(domain_components=("도메인",))), "subject.DC: must be ASCII"),
        (replace(GOOD, subject=Subject(state="s" * 129)), "subject.S: at most 128"),
        (replace(GOOD, subject=Subject(locality="l" * 129)), "subject.L: at most 128"),
        (replace(GOOD, subject=Subject(organization="o" * 65)), "subject.O: at most 64"),
        (replace(GOOD, subject=Subject(organizational_units=("a", "o" * 65))), "subject.OU: at most 64"),
        (replace(GOOD, subject=Subject(common_name="c" * 65)), "subject.CN: at most 64"),
        (replace(GOOD, subject=Subject(common_name="가" * 22)), "subject.CN: at most 64 octets"),
        (replace(GOOD, subject=Subject(common_name="a\0b")), "subject.CN: holds a control character"),
        (replace(GOOD, size=1024, algorithm=KeyAlgorithm.RSA), "privateKey.size: RSA takes 2048, 3072, 4096"),
        (replace(GOOD, size=2048), "privateKey.size: ECDSA takes 256, 384, 521"),
        (replace(GOOD, duration=60.0, renew_before=30.0), "duration: at least one hour"),
        (replace(GOOD, renew_before=90 * DAY), "renewBefore"),
    ],
)
def test_an_impossible_request_is_refused_with_the_field(wanted, problem):
    (found,) = check_request(wanted)
    assert problem in found


text = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=64)
label = st.from_regex(r"[a-z]{1,20}", fullmatch=True)
subjects = st.builds(
    Subject,
    country=st.sampled_from(("", "KR", "US")),
    domain_components=st.lists(label, max_size=3).map(tuple),
    state=text,
    locality=text,
    organization=text,
    organizational_units=st.lists(text.filter(bool), max_size=3).map(tuple),
    common_name=text,
)


@settings(max_examples=100)
@given(subjects)
def test_every_subject_that_passes_the_check_can_be_issued_and_read_back(subject):
    wanted = request("mail.example.com", subject=subject)
    assume(not check_request(wanted))
    material = issue(AUTHORITY, wanted, NOW)
    certificate = described(material)
    assert certificate.common_name == (subject.common_name or "mail.example.com")
    store = verification.Store([AUTHORITY.certificate])
    builder = verification.PolicyBuilder().store(store).time(datetime.fromtimestamp(NOW, UTC))
    builder.build_server_verifier(x509.DNSName("mail.example.com")).verify(material.leaf, [])
