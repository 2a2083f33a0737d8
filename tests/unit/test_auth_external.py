"""EXTERNAL: whose a client certificate is, and what stands against it."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.exchange import Accepted, Channel, Rejected
from postroad_transport.auth.external import External, account_of
from postroad_transport.auth.sasl import Challenge, SaslError
from postroad_transport.config import CertificateAccount, CertificateField, ClientCertificates, TlsTrust
from postroad_transport.policy.proof import Flaw, PeerProof

EMAIL, DNS, COMMON, THUMBPRINT = CertificateField


def certificate(*names: x509.GeneralName, common_name: str = "") -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


ALICE = certificate(x509.RFC822Name("Alice@Mail.example"), x509.RFC822Name("al@mail.example"), common_name="Alice A.")
HOST = certificate(x509.DNSName("*.wild.example"), x509.DNSName("Printer.Mail.example"), common_name="printer")


def mapping(
    *accounts: CertificateAccount, account_from: tuple[CertificateField, ...] = (EMAIL,)
) -> ClientCertificates:
    return ClientCertificates(trust=TlsTrust(), account_from=account_from, accounts=accounts)


@pytest.mark.parametrize(
    ("der", "account_from", "account"),
    [
        (ALICE, (EMAIL,), Account("alice@mail.example", ("alice@mail.example", "al@mail.example"))),
        (ALICE, (DNS, COMMON), Account("Alice A.", ("alice@mail.example", "al@mail.example"))),
        (HOST, (EMAIL, DNS), Account("printer.mail.example")),
        (HOST, (COMMON, DNS), Account("printer")),
        (HOST, (EMAIL,), None),
        (certificate(), (EMAIL, DNS, COMMON), None),
        (certificate(x509.DNSName("*.wild.example")), (DNS,), None),
        (certificate(common_name="a\nb"), (COMMON,), None),
        (certificate(common_name="system:serviceaccount:a:b"), (COMMON,), None),
        (certificate(x509.RFC822Name("*@mail.example"), common_name="printer"), (EMAIL, COMMON), Account("printer")),
    ],
)
def test_first_field_that_the_certificate_has_names_the_account(der, account_from, account):
    assert account_of(der, mapping(account_from=account_from)) == account


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (EMAIL, "al@mail.example"),
        (COMMON, "alice a."),
        (THUMBPRINT, x509.load_der_x509_certificate(ALICE).fingerprint(hashes.SHA256()).hex()),
    ],
    ids=["email", "common name", "thumbprint"],
)
def test_listed_account_comes_before_what_the_certificate_says(field, value):
    entry = CertificateAccount(field=field, value=value, account="a", addresses=("a@b",))
    other = CertificateAccount(field=field, value="other", account="b")
    assert account_of(ALICE, mapping(other, entry)) == Account("a", ("a@b",))
    assert account_of(HOST, mapping(other, entry, account_from=())) is None


def exchange(proof: PeerProof, *, chain: tuple[bytes, ...] = (ALICE,)) -> External:
    async def judge(shown, trust):
        assert tuple(shown) == chain
        return proof

    return External(mapping(), Channel("192.0.2.1", tls=True, client_chain=chain), judge)


@pytest.mark.parametrize("identity", [b"", b"alice@mail.example", b"ALICE@mail.example"])
async def test_good_certificate_logs_in_as_its_own_account(identity):
    external = exchange(PeerProof())
    assert await external.step(None) == Challenge(b"")
    step = await external.step(identity)
    assert isinstance(step, Accepted)
    assert step.account.name == "alice@mail.example"


async def test_nobody_acts_as_somebody_else():
    assert await exchange(PeerProof()).step(b"bob") == Rejected("alice@mail.example", "authorization_identity")
    with pytest.raises(SaslError):
        await exchange(PeerProof()).step(b"\xff")


@pytest.mark.parametrize("flaw", sorted(set(Flaw) - {Flaw.NO_CRL}))
async def test_flaw_is_a_rejection_that_names_it_in_the_log_only(flaw):
    assert await exchange(PeerProof((), flaw, "detail")).step(b"") == Rejected("", str(flaw))


async def test_list_of_revoked_certificates_that_cannot_be_had_is_no_rejection():
    with pytest.raises(AuthUnavailableError):
        await exchange(PeerProof((), Flaw.NO_CRL, "no list")).step(b"")


async def test_certificate_without_account_and_none_at_all_are_rejected():
    assert await exchange(PeerProof(), chain=(HOST,)).step(b"") == Rejected("", "no_account")
    assert await exchange(PeerProof(), chain=()).step(b"") == Rejected("", "no_certificate")
