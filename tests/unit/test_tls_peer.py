"""Chains and revocation of the other side: what is believed, and the word for what is not (spec.md 4)."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from partner_kit import HOUR, Ca, Issued

from postroad_transport.config import Revocation, RevocationMode, TlsTrust
from postroad_transport.policy.proof import Flaw, PeerProof, for_names
from postroad_transport.tls.chain import validate
from postroad_transport.tls.crl_store import CrlStore
from postroad_transport.tls.peer import verify_peer
from postroad_transport.tls.revocation import flaw_of

NOW = 1_790_000_000.0
CA = Ca("Partner CA", NOW)
OTHER = Ca("Other CA", NOW)
PUBLISHING = Ca("Publishing CA", NOW, crl_url="http://crl.partner.example/ca.crl")
INTERMEDIATE = Ca("Intermediate", NOW, crl_url="http://crl.partner.example/sub.crl", parent=PUBLISHING)
LEAF = PUBLISHING.issue("partner.example")
DEEP = INTERMEDIATE.issue("partner.example")


def trust(*authorities: Ca, **revocation: Any) -> TlsTrust:
    fields = {"mode": RevocationMode.OFF, "fetch": False} | revocation
    return TlsTrust(authorities="".join(ca.pem for ca in authorities), system=False, revocation=Revocation(**fields))


async def verified(shown: Issued, given: TlsTrust, now: float = NOW) -> PeerProof:
    return await verify_peer(shown.presented, given, "", CrlStore(clock=lambda: now), clock=lambda: now)


async def test_a_valid_chain_proves_the_names_in_the_certificate() -> None:
    assert await verified(CA.issue("Partner.example", "mx.partner.example"), trust(CA)) == PeerProof(
        ("partner.example", "mx.partner.example")
    )


async def test_the_chain_may_go_over_an_intermediate_that_is_presented_and_may_end_in_one_that_is_trusted() -> None:
    assert (await verified(DEEP, trust(PUBLISHING))).flaw is None
    assert (await verified(DEEP, trust(INTERMEDIATE))).flaw is None
    alone = Issued(DEEP.certificate, DEEP.key)
    assert (await verified(alone, trust(PUBLISHING))).flaw is Flaw.UNTRUSTED


@pytest.mark.parametrize(
    ("shown", "flaw"),
    [
        (OTHER.issue("partner.example"), Flaw.UNTRUSTED),
        (CA.issue("partner.example", start=-2 * HOUR, end=-HOUR), Flaw.EXPIRED),
        (CA.issue("partner.example", start=HOUR), Flaw.NOT_YET_VALID),
        (CA.issue("partner.example", usage=[ExtendedKeyUsageOID.CODE_SIGNING]), Flaw.INVALID),
    ],
)
async def test_a_chain_that_is_not_valid_proves_nothing_and_says_why(shown: Issued, flaw: Flaw) -> None:
    proof = await verified(shown, trust(CA))
    assert (proof.flaw, proof.names) == (flaw, ())
    assert proof.detail


@pytest.mark.parametrize("usage", [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
async def test_a_certificate_for_either_end_of_tls_will_do(usage: Any) -> None:
    assert (await verified(CA.issue("partner.example", usage=[usage]), trust(CA))).flaw is None


async def test_what_is_no_certificate_proves_nothing() -> None:
    for presented, flaw in (([], Flaw.NO_CERTIFICATE), ([b"garbage"], Flaw.INVALID)):
        proof = await verify_peer(presented, trust(CA), "", CrlStore(), clock=lambda: NOW)
        assert proof.flaw is flaw


async def test_the_tiers_own_authority_and_a_different_time_are_minded() -> None:
    shown = CA.issue("partner.example")
    assert (await verify_peer(shown.presented, trust(), CA.pem, CrlStore(), clock=lambda: NOW)).flaw is None
    assert (await verified(shown, trust(CA), NOW + 200 * HOUR)).flaw is Flaw.EXPIRED


@pytest.mark.parametrize(
    ("held", "wanted", "holds"),
    [
        ("partner.example", "partner.example", True),
        ("*.partner.example", "mx.partner.example", True),
        ("*.partner.example", "partner.example", False),
        ("mx.partner.example", "partner.example", False),
        ("partner.example.evil.example", "partner.example", False),
    ],
)
def test_a_proof_holds_for_the_names_in_the_certificate_only(held: str, wanted: str, holds: bool) -> None:
    assert (for_names(PeerProof((held,)), [wanted]).flaw is None) is holds


async def test_a_wildcard_for_a_whole_top_level_proves_nothing() -> None:
    assert (await verified(CA.issue("*.example"), trust(CA))).names == ()


def path(shown: Issued, *authorities: Ca) -> Any:
    found = validate(shown.presented, trust(*authorities), "", NOW)
    assert isinstance(found, tuple)
    return found


REQUIRED, PUBLISHED, OFF = RevocationMode.REQUIRED, RevocationMode.WHERE_PUBLISHED, RevocationMode.OFF


def judged(shown: Issued, *crls: Any, mode: RevocationMode = REQUIRED, root: Ca = PUBLISHING) -> Flaw | None:
    proof = flaw_of(path(shown, root), crls, mode, NOW)
    return proof and proof.flaw


def revoking(ca: Ca, *issued: Issued, **fields: Any) -> x509.CertificateRevocationList:
    ca.revoked = [item.certificate.serial_number for item in issued]
    try:
        return ca.crl(**fields)
    finally:
        ca.revoked = []


def test_a_current_list_of_the_issuer_clears_or_revokes() -> None:
    assert judged(LEAF, PUBLISHING.crl()) is None
    assert judged(LEAF, revoking(PUBLISHING, DEEP)) is None
    assert judged(LEAF, revoking(PUBLISHING, LEAF)) is Flaw.REVOKED
    assert judged(LEAF, PUBLISHING.crl(), revoking(PUBLISHING, LEAF, end=2 * HOUR)) is Flaw.REVOKED


def test_the_signature_of_a_list_is_checked_once_for_each_issuer() -> None:
    checks = []

    class Counted:
        def __init__(self, crl: Any) -> None:
            self._crl = crl

        def __getattr__(self, name: str) -> Any:
            if name == "is_signature_valid":
                checks.append(name)
            return getattr(self._crl, name)

    good, forged = Counted(PUBLISHING.crl()), Counted(PUBLISHING.crl(key=ec.generate_private_key(ec.SECP256R1())))
    for _ in range(3):
        assert judged(LEAF, good) is None
        assert judged(LEAF, forged) is Flaw.NO_CRL
    assert len(checks) == 2


def test_every_certificate_below_the_trusted_one_needs_a_list() -> None:
    assert judged(DEEP, PUBLISHING.crl(), INTERMEDIATE.crl()) is None
    assert judged(DEEP, INTERMEDIATE.crl()) is Flaw.NO_CRL
    PUBLISHING.revoked = [INTERMEDIATE.certificate.serial_number]
    revoked = PUBLISHING.crl()
    PUBLISHING.revoked = []
    assert judged(DEEP, revoked, INTERMEDIATE.crl()) is Flaw.REVOKED
    assert judged(DEEP, INTERMEDIATE.crl(), root=INTERMEDIATE) is None


POINT = x509.UniformResourceIdentifier("http://crl.partner.example/ca.crl")
ELSEWHERE = x509.UniformResourceIdentifier("http://crl.partner.example/other.crl")


def scope(**fields: Any) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    given = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return ((x509.IssuingDistributionPoint(**(given | fields)), True),)


@pytest.mark.parametrize(
    "crl",
    [
        None,
        PUBLISHING.crl(start=-2 * HOUR, end=-HOUR),
        PUBLISHING.crl(start=HOUR, end=2 * HOUR),
        PUBLISHING.crl(key=ec.generate_private_key(ec.SECP256R1())),
        OTHER.crl(),
        PUBLISHING.crl(extensions=scope(indirect_crl=True)),
        PUBLISHING.crl(extensions=scope(only_contains_ca_certs=True)),
        PUBLISHING.crl(extensions=scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise}))),
        PUBLISHING.crl(extensions=scope(full_name=[ELSEWHERE])),
        PUBLISHING.crl(extensions=((x509.DeltaCRLIndicator(1), True),)),
        PUBLISHING.crl(extensions=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), True),)),
    ],
    ids=lambda crl: "none" if crl is None else "",
)
def test_a_list_that_does_not_count_is_as_good_as_none(crl: Any) -> None:
    lists = () if crl is None else (crl,)
    assert judged(LEAF, *lists) is Flaw.NO_CRL
    assert judged(LEAF, *lists, mode=PUBLISHED) is Flaw.NO_CRL
    assert judged(LEAF, *lists, mode=OFF) is None


@pytest.mark.parametrize("fields", [{"only_contains_user_certs": True}, {"full_name": [POINT]}])
def test_a_list_in_parts_counts_for_its_own_part(fields: dict[str, Any]) -> None:
    assert judged(LEAF, PUBLISHING.crl(extensions=scope(**fields))) is None


def test_an_authority_that_publishes_nothing_is_believed_unless_a_list_is_required_or_given() -> None:
    shown = CA.issue("partner.example")
    assert judged(shown, mode=PUBLISHED, root=CA) is None
    assert judged(shown, mode=REQUIRED, root=CA) is Flaw.NO_CRL
    assert judged(shown, CA.crl(), mode=PUBLISHED, root=CA) is None
    assert judged(shown, revoking(CA, shown), mode=PUBLISHED, root=CA) is Flaw.REVOKED
    assert judged(shown, CA.crl(start=-2 * HOUR, end=-HOUR), mode=PUBLISHED, root=CA) is Flaw.NO_CRL
