"""Who a session is for each sender, and what is refused for now (spec.md 4)."""

from __future__ import annotations

import pytest

from postroad_transport.config import Grant, Permission, ReceiveConnector, SecureDomain, TierConfig
from postroad_transport.policy import headers
from postroad_transport.policy.address import Mailbox, parse_reverse_path
from postroad_transport.policy.connectors import ConnectorPolicy
from postroad_transport.policy.domain_security import PARTNER, transaction_identity
from postroad_transport.policy.principals import authenticated_principals
from postroad_transport.policy.proof import Flaw, PeerProof
from postroad_transport.policy.receive import check_mail
from postroad_transport.policy.session import ANONYMOUS, SessionFacts
from postroad_transport.policy.tier import TierPolicy
from postroad_transport.policy.verdict import Allow, Refuse

TIER = TierPolicy(TierConfig(tier="t", hostname="mx.corp.example"))
SUBMIT = Permission.SUBMIT
PROVED = PeerProof(("partner.example", "mx.partner.example"))
REVOKED = PeerProof((), Flaw.REVOKED, "the certificate was revoked")


def connector(*principals: str) -> ConnectorPolicy:
    return ConnectorPolicy(
        ReceiveConnector(
            name="c",
            source="ReceiveConnector/default/c",
            bindings=(),
            remote_ip_ranges=(),
            fqdn="mx.corp.example",
            grants=tuple(Grant(principal=principal, permission=SUBMIT) for principal in principals),
            secure_domains=(
                SecureDomain(domain="partner.example", names=("partner.example",)),
                SecureDomain(domain="xn--bcher-kva.example", names=("mail.buecher.example",)),
            ),
        )
    )


BOTH = connector("Anonymous", "PartnerServers")
PARTNERS_ONLY = connector("PartnerServers")


def mailbox(address: str) -> Mailbox | None:
    return parse_reverse_path(f"<{address}>".encode(), smtputf8=True)[0]


def mail(policy: ConnectorPolicy, session: SessionFacts, address: str) -> Allow | Refuse:
    sender = mailbox(address)
    session.principals, session.secured_domain = transaction_identity(policy.secure_domains, session, sender)
    return check_mail(TIER, policy, session, sender, size=None)


def session(proof: PeerProof | None = None, **fields: object) -> SessionFacts:
    return SessionFacts(**{"remote_ip": "192.0.2.1", "local_port": 25, "tls": True, "proof": proof, **fields})


def test_a_proof_makes_the_transaction_a_partners_and_the_next_one_is_judged_anew() -> None:
    facts = session(PROVED)
    assert isinstance(mail(BOTH, facts, "bob@partner.example"), Allow)
    assert (facts.principals, facts.secured_domain) == (PARTNER, "partner.example")
    assert isinstance(mail(BOTH, facts, "eve@other.example"), Allow)
    assert (facts.principals, facts.secured_domain) == (ANONYMOUS, "")
    assert isinstance(mail(BOTH, facts, ""), Allow)
    assert facts.secured_domain == "partner.example"


@pytest.mark.parametrize(
    ("facts", "code", "text"),
    [
        (session(tls=False), "4.7.10", "TLS was not used"),
        (session(), "4.7.5", "no certificate was presented"),
        (session(REVOKED), "4.7.5", "the certificate was revoked"),
        (session(PeerProof(("other.example",))), "4.7.5", "for other.example, not for partner.example"),
    ],
)
def test_without_proof_a_secured_domain_is_refused_for_now(facts: SessionFacts, code: str, text: str) -> None:
    verdict = mail(BOTH, facts, "bob@Partner.Example")
    assert isinstance(verdict, Refuse)
    assert (verdict.rule, verdict.reply.code, verdict.reply.enhanced) == ("domainSecurity", 451, code)
    assert text in verdict.reply.text
    assert facts.principals == ANONYMOUS


@pytest.mark.parametrize("address", ["bob@sub.partner.example", "bob@partner.example.evil.example", "bob@example"])
def test_domains_beside_a_secured_one_are_not_secured(address: str) -> None:
    assert isinstance(mail(BOTH, session(REVOKED), address), Allow)


def test_a_u_label_is_the_same_domain_as_its_a_label() -> None:
    assert isinstance(mail(BOTH, session(), "bob@bücher.example"), Refuse)
    facts = session(PeerProof(("mail.buecher.example",)))
    assert isinstance(mail(BOTH, facts, "bob@bücher.example"), Allow)
    assert facts.secured_domain == "xn--bcher-kva.example"


@pytest.mark.parametrize("principals", [authenticated_principals("alice"), frozenset({"HubTransportServers"})])
def test_who_has_authenticated_in_another_way_needs_no_certificate(principals: frozenset[str]) -> None:
    policy = connector(*principals)
    facts = session(PROVED, principals=principals)
    assert isinstance(mail(policy, facts, "bob@partner.example"), Allow)
    assert (facts.principals, facts.secured_domain) == (principals, "")


def test_a_login_after_a_partners_mail_is_not_forgotten() -> None:
    facts = session(PROVED)
    mail(BOTH, facts, "bob@partner.example")
    facts.principals = authenticated_principals("alice")
    transaction_identity(BOTH.secure_domains, facts, mailbox("bob@partner.example"))
    assert facts.principals == authenticated_principals("alice")


def test_where_only_partners_may_submit_a_bounce_waits_for_the_revocation_list() -> None:
    assert isinstance(mail(PARTNERS_ONLY, session(PROVED), ""), Allow)
    verdict = mail(PARTNERS_ONLY, session(PeerProof((), Flaw.NO_CRL, "no current revocation list can be had")), "")
    assert isinstance(verdict, Refuse)
    assert verdict.reply.code == 451
    stranger = mail(PARTNERS_ONLY, session(), "")
    assert isinstance(stranger, Refuse)
    assert stranger.reply.code == 530


def test_the_mark_names_the_domain_that_was_proved() -> None:
    facts = session(PROVED)
    mail(BOTH, facts, "bob@partner.example")
    forged = b"X-MS-Exchange-Organization-AuthDomain: bank.example\r\nSubject: x\r\n\r\n"
    report = headers.inspect(forged, BOTH.permissions(facts), hostname="mx.corp.example")
    assert report.stripped == ("X-MS-Exchange-Organization-AuthDomain",)
    assert headers.stamps(facts, report).splitlines()[-1] == (
        b"X-MS-Exchange-Organization-AuthDomain: partner.example"
    )
    assert b"AuthAs: Partner" in headers.stamps(facts, report)
