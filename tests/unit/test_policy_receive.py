"""Every rule of spec.md 1.7 at its verb: single cases, a generated matrix, and the documents' scenarios."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.config import (
    AcceptedDomain,
    AuthMechanism,
    Binding,
    DomainType,
    Grant,
    Permission,
    Principal,
    ReceiveConnector,
    ReceiveLimits,
    Role,
    TierConfig,
)
from postroad_transport.policy.address import Mailbox, parse_mailbox
from postroad_transport.policy.authentication import check_auth
from postroad_transport.policy.connectors import ConnectorPolicy
from postroad_transport.policy.groups import RECEIVE_PERMISSIONS, PermissionGroup, receive_grants
from postroad_transport.policy.headers import inspect
from postroad_transport.policy.principals import authenticated_principals
from postroad_transport.policy.receive import (
    check_login,
    check_mail,
    check_message,
    check_recipient,
)
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.tier import TierPolicy
from postroad_transport.policy.verdict import Refuse, Verdict

OUTSIDE = Mailbox("someone", "elsewhere.example")
INSIDE = Mailbox("alice", "example.com")

DOMAINS = (
    AcceptedDomain(domain="example.com", source="AcceptedDomain/mail/com", match_subdomains=True),
    AcceptedDomain(domain="relay.example", source="AcceptedDomain/mail/relay", type=DomainType.INTERNAL_RELAY),
    AcceptedDomain(domain="alias.example", source="AcceptedDomain/mail/alias", alias_of="listed.example"),
    AcceptedDomain(domain="listed.example", source="AcceptedDomain/mail/listed", recipients=("bob", "carol")),
)


def tier(*grants: Grant, domains: tuple[AcceptedDomain, ...] = DOMAINS, **fields: object) -> TierPolicy:
    connector = ReceiveConnector(
        name="c",
        source="ReceiveConnector/mail/c",
        bindings=(Binding(port=25),),
        remote_ip_ranges=("0.0.0.0/0",),
        fqdn="mail.example.com",
        grants=grants,
        **fields,
    )
    return TierPolicy(
        TierConfig(
            tier="mail", hostname="mail.example.com", receive_connectors=(connector,), accepted_domains=domains
        )
    )


def the_connector(policy: TierPolicy) -> ConnectorPolicy:
    return policy.connectors.connectors[0]


def allow(principal: str, *permissions: Permission) -> tuple[Grant, ...]:
    return tuple(
        Grant(principal=principal, permission=permission, origin="spec.grants[0]") for permission in permissions
    )


def anonymous(**fields: object) -> SessionFacts:
    return SessionFacts("192.0.2.1", 25, **fields)


def user(name: str = "alice@example.com", *addresses: str, **fields: object) -> SessionFacts:
    return SessionFacts(
        "192.0.2.1",
        25,
        principals=authenticated_principals(name),
        account=name,
        account_addresses=addresses,
        **fields,
    )


def server(principal: Principal) -> SessionFacts:
    return SessionFacts("192.0.2.1", 25, principals=frozenset({str(principal)}))


def line(verdict: Verdict) -> str:
    return verdict.reply.line if isinstance(verdict, Refuse) else ""


def mail(policy: TierPolicy, session: SessionFacts, sender: Mailbox | None = OUTSIDE, size: int | None = None) -> str:
    return line(check_mail(policy, the_connector(policy), session, sender, size=size))


def recipient(policy: TierPolicy, session: SessionFacts, address: str, count: int = 0) -> str:
    mailbox = parse_mailbox(address.encode(), smtputf8=True) if "@" in address else Mailbox(address, "")
    return line(check_recipient(policy, the_connector(policy), session, mailbox, count=count))


def message(policy: TierPolicy, session: SessionFacts, header: str, size: int = 100) -> str:
    connector = the_connector(policy)
    content = header.replace("\n", "\r\n").encode() + b"\r\nbody\r\n"
    report = inspect(content, connector.permissions(session), hostname="mail.example.com")
    return line(check_message(policy, connector, session, report, size=size))


NOT_AUTHENTICATED = "530 5.7.1 Client was not authenticated"
UNSUCCESSFUL = "535 5.7.3 Authentication unsuccessful"
MAY_NOT_SUBMIT = "550 5.7.1 Client does not have permission to submit to this server"
MAY_NOT_SEND_AS = "550 5.7.1 Client does not have permission to send as this sender"
MAY_NOT_SEND_FOR = "550 5.7.1 Client does not have permission to send on behalf of the from address"
UNABLE_TO_RELAY = "550 5.7.1 Unable to relay"
STARTTLS_FIRST = "451 5.7.3 Must issue a STARTTLS command first"

ANONYMOUS_USERS = receive_grants("AnonymousUsers", Role.HUB)
EXCHANGE_USERS = receive_grants("ExchangeUsers", Role.HUB)

PRINCIPALS = {
    "Anonymous": anonymous(),
    "user": user(),
    **{str(principal): server(principal) for principal in list(Principal)[2:]},
}


@pytest.mark.parametrize(("group", "role", "principal"), list(itertools.product(PermissionGroup, Role, PRINCIPALS)))
def test_the_matrix_of_groups_roles_principals_and_verbs(group: PermissionGroup, role: Role, principal: str) -> None:
    """Each reply follows from spec.md 1.1, 1.3 and 1.7 by the permissions the row of 1.3 gives."""
    policy = tier(*receive_grants(group, role))
    session = PRINCIPALS[principal]
    member = {
        PermissionGroup.ANONYMOUS_USERS: {"Anonymous"},
        PermissionGroup.EXCHANGE_USERS: {"user"},
        PermissionGroup.EXCHANGE_SERVERS: {
            "HubTransportServers",
            "EdgeTransportServers",
            "ExternallySecuredServers",
        },
        PermissionGroup.EXCHANGE_LEGACY_SERVERS: {"LegacyExchangeServers"},
        PermissionGroup.PARTNERS: {"PartnerServers"},
    }
    hub_only = group in (PermissionGroup.EXCHANGE_USERS, PermissionGroup.EXCHANGE_LEGACY_SERVERS)
    submits = principal in member[group] and not (hub_only and role is Role.EDGE)
    trusted = submits and group in (PermissionGroup.EXCHANGE_SERVERS, PermissionGroup.EXCHANGE_LEGACY_SERVERS)
    relays = trusted or (submits and principal == "user")

    refused = NOT_AUTHENTICATED if principal == "Anonymous" else MAY_NOT_SUBMIT
    assert line(check_login(the_connector(policy), session)) == ("" if submits else UNSUCCESSFUL)
    assert mail(policy, session, None) == ("" if submits else refused)
    if not submits:
        assert mail(policy, session, INSIDE) == mail(policy, session, OUTSIDE) == refused
    elif principal == "user":
        assert mail(policy, session, INSIDE) == ""
        assert mail(policy, session, OUTSIDE) == MAY_NOT_SEND_AS
    else:
        assert mail(policy, session, INSIDE) == ("" if trusted else MAY_NOT_SEND_AS)
        assert mail(policy, session, OUTSIDE) == ""
    assert recipient(policy, session, "bob@example.com") == ""
    assert recipient(policy, session, "bob@elsewhere.example") == ("" if relays else UNABLE_TO_RELAY)
    if submits:
        header_of_user = message(policy, session, "From: alice@example.com\n")
        header_of_other = message(policy, session, "From: someone@elsewhere.example\n")
        assert header_of_user == (MAY_NOT_SEND_FOR if principal == "PartnerServers" else "")
        assert header_of_other == (MAY_NOT_SEND_FOR if principal == "user" else "")


class TestTlsAndLogin:
    def test_required_tls_comes_before_every_other_rule_at_mail(self) -> None:
        policy = tier(require_tls=True)
        assert mail(policy, anonymous()) == STARTTLS_FIRST
        assert mail(policy, anonymous(tls=True)) == NOT_AUTHENTICATED

    @pytest.mark.parametrize(
        ("mechanisms", "tls", "expected"),
        [
            ((), True, "502 5.5.1 Command not implemented"),
            ((AuthMechanism.TLS, AuthMechanism.INTEGRATED), True, "502 5.5.1 Command not implemented"),
            ((AuthMechanism.BASIC_AUTH,), False, ""),
            (
                (AuthMechanism.TLS, AuthMechanism.BASIC_AUTH_REQUIRE_TLS),
                False,
                "538 5.7.11 Encryption required for requested authentication mechanism",
            ),
            ((AuthMechanism.TLS, AuthMechanism.BASIC_AUTH_REQUIRE_TLS), True, ""),
            (
                (AuthMechanism.BASIC_AUTH, AuthMechanism.BASIC_AUTH_REQUIRE_TLS),
                False,
                "538 5.7.11 Encryption required for requested authentication mechanism",
            ),
        ],
    )
    def test_login_is_offered_as_the_mechanisms_say(
        self, mechanisms: tuple[AuthMechanism, ...], tls: bool, expected: str
    ) -> None:
        policy = tier(auth_mechanisms=mechanisms)
        assert line(check_auth(the_connector(policy), anonymous(tls=tls))) == expected

    def test_a_user_who_may_not_submit_here_cannot_log_in(self) -> None:
        deny = Grant(principal="user:mallory", permission=Permission.SUBMIT, deny=True, origin="spec.grants[1]")
        policy = tier(*EXCHANGE_USERS, deny)
        assert line(check_login(the_connector(policy), user("alice"))) == ""
        verdict = check_login(the_connector(policy), user("mallory"))
        assert line(verdict) == UNSUCCESSFUL
        assert isinstance(verdict, Refuse)
        assert verdict.missing is Permission.SUBMIT
        assert verdict.because == "ReceiveConnector/mail/c spec.grants[1] denies SMTP-Submit to user:mallory"

    def test_authentication_replaces_what_anonymous_was_granted(self) -> None:
        policy = tier(*ANONYMOUS_USERS)
        assert mail(policy, anonymous()) == ""
        assert mail(policy, user()) == MAY_NOT_SUBMIT


class TestSender:
    @pytest.mark.parametrize(
        ("account", "addresses", "owned", "foreign"),
        [
            ("alice@example.com", (), ["alice@example.com", "ALICE@Example.COM"], ["bob@example.com"]),
            ("alice", (), ["alice@example.com"], ["alice@elsewhere.example", "bob@example.com"]),
            ("alice", ("sales@example.com",), ["sales@example.com"], ["alice@example.com"]),
            ("a@x.example", ("b@y.example",), ["a@x.example", "b@y.example"], ["a@y.example"]),
            ("svc", ("*@example.com",), ["any@example.com"], ["any@sub.example.com", "any@notexample.com"]),
            ("bob", ("bob@listed.example",), ["bob@listed.example", "bob@alias.example"], ["bob@relay.example"]),
            ("b", ("b@xn--bcher-kva.example",), ["b@bücher.example"], ["b@bucher.example"]),
            ("b", ("not an address", "*@\u2028", '"b c"@example.com'), ['"b\\ c"@example.com'], ["b@example.com"]),
            ("\udcff@x", (), [], ["b@example.com"]),
            ("*@example.com", (), ["*@example.com"], ["b@example.com"]),
            ('"*"@example.com', (), ["*@example.com"], ["b@example.com"]),
            ("*", (), ["*@example.com"], ["b@example.com"]),
            ("b", ('"*"@example.com',), ["*@example.com"], ["c@example.com"]),
        ],
    )
    def test_a_user_sends_as_the_addresses_the_account_owns_and_no_other(
        self, account: str, addresses: tuple[str, ...], owned: list[str], foreign: list[str]
    ) -> None:
        policy = tier(*EXCHANGE_USERS)
        session = user(account, *addresses)
        for address in owned:
            assert mail(policy, session, parse_mailbox(address.encode(), smtputf8=True)) == "", address
            assert message(policy, session, f"From: {address}\n") == "", address
        for address in foreign:
            assert mail(policy, session, parse_mailbox(address.encode(), smtputf8=True)) == MAY_NOT_SEND_AS, address
            assert message(policy, session, f"From: {address}\n") == MAY_NOT_SEND_FOR, address

    def test_a_name_that_users_choose_is_no_address(self) -> None:
        policy = tier(*EXCHANGE_USERS)
        for name in ("bob", "bob@example.com"):
            session = user(name, account_owns_name=False)
            assert mail(policy, session, parse_mailbox(b"bob@example.com", smtputf8=False)) == MAY_NOT_SEND_AS
        session = user("bob", "alice@example.com", account_owns_name=False)
        assert mail(policy, session, parse_mailbox(b"alice@example.com", smtputf8=False)) == ""

    def test_the_null_sender_is_always_fine_for_whoever_may_submit(self) -> None:
        assert mail(tier(*EXCHANGE_USERS), user(), None) == ""
        assert mail(tier(*ANONYMOUS_USERS), anonymous(), None) == ""
        assert mail(tier(), anonymous(), None) == NOT_AUTHENTICATED

    def test_the_outside_may_not_send_as_the_inside_unless_granted(self) -> None:
        policy = tier(*ANONYMOUS_USERS)
        verdict = check_mail(policy, the_connector(policy), anonymous(), INSIDE, size=None)
        assert line(verdict) == MAY_NOT_SEND_AS
        assert isinstance(verdict, Refuse)
        assert verdict.missing is Permission.ACCEPT_AUTHORITATIVE_DOMAIN_SENDER
        assert mail(policy, anonymous(), Mailbox("x", "sub.example.com")) == MAY_NOT_SEND_AS
        assert mail(policy, anonymous(), Mailbox("x", "relay.example")) == ""
        granted = allow("Anonymous", Permission.ACCEPT_AUTHORITATIVE_DOMAIN_SENDER)
        assert mail(tier(*ANONYMOUS_USERS, *granted), anonymous(), INSIDE) == ""

    def test_accept_any_sender_does_not_let_a_user_send_as_a_colleague(self) -> None:
        any_sender = allow("AuthenticatedUsers", Permission.ACCEPT_ANY_SENDER)
        policy = tier(*EXCHANGE_USERS, *any_sender)
        assert mail(policy, user(), OUTSIDE) == ""
        assert mail(policy, user(), Mailbox("bob", "example.com")) == MAY_NOT_SEND_AS
        both = (*any_sender, *allow("AuthenticatedUsers", Permission.ACCEPT_AUTHORITATIVE_DOMAIN_SENDER))
        assert mail(tier(*EXCHANGE_USERS, *both), user(), Mailbox("bob", "example.com")) == ""

    @pytest.mark.parametrize(
        ("header", "accepted"),
        [
            ("Subject: no originator\n", True),
            ("From: alice@example.com\nSender: alice@example.com\n", True),
            ("from: =?utf-8?q?Alice?= <ALICE@example.com>\n", True),
            ("From: alice@example.com, bob@example.com\n", False),
            ("From: alice@example.com\nFrom: bob@example.com\n", False),
            ("From: bob@example.com\nSender: alice@example.com\n", False),
            ("From: alice@example.com\nSender: bob@example.com\n", False),
            ("From: alice@example.com\n\t, bob@example.com\n", False),
            ('From: "alice@example.com" <bob@example.com>\n', False),
            ("From: (alice@example.com) bob@example.com\n", False),
            ("From: <alice@example.com> <bob@example.com>\n", False),
            ("From: alice@example.com <>\n", False),
            ("From: undisclosed:;\n", False),
            ("From:\n", False),
            ("From : bob@example.com\n", False),
            ("Subject: x\n From: bob@example.com\n", True),
            ("X-From: bob@example.com\n", True),
        ],
    )
    def test_every_originator_in_the_header_must_be_the_users(self, header: str, accepted: bool) -> None:
        assert message(tier(*EXCHANGE_USERS), user(), header) == ("" if accepted else MAY_NOT_SEND_FOR)
        anyone = allow("AuthenticatedUsers", Permission.ACCEPT_ANY_SENDER)
        assert message(tier(*EXCHANGE_USERS, *anyone), user(), header) == ""


class TestRecipient:
    def test_recipients_in_accepted_domains_are_taken_and_others_only_from_who_may_relay(self) -> None:
        policy = tier(*ANONYMOUS_USERS)
        for address in ("x@example.com", "x@a.b.example.com", "x@relay.example"):
            assert recipient(policy, anonymous(), address) == ""
        for address in ("x@elsewhere.example", "x@com", "x@[192.0.2.1]", "x%elsewhere@notexample.com"):
            assert recipient(policy, anonymous(), address) == UNABLE_TO_RELAY
            assert recipient(tier(*EXCHANGE_USERS), user(), address) == ""

    def test_unknown_recipients_are_refused_where_the_domain_lists_its_own(self) -> None:
        policy = tier(*ANONYMOUS_USERS)
        for domain in ("listed.example", "alias.example"):
            assert recipient(policy, anonymous(), f"BOB@{domain}") == ""
            assert recipient(policy, anonymous(), f"postmaster@{domain}") == ""
            assert recipient(policy, anonymous(), f"eve@{domain}") == "550 5.1.1 User unknown"

    def test_postmaster_without_a_domain_is_always_taken(self) -> None:
        assert recipient(tier(*ANONYMOUS_USERS, domains=()), anonymous(), "postmaster") == ""

    def test_the_limit_of_recipients_is_a_temporary_refusal(self) -> None:
        policy = tier(*ANONYMOUS_USERS, limits=ReceiveLimits(recipients=2))
        assert recipient(policy, anonymous(), "x@example.com", count=1) == ""
        assert recipient(policy, anonymous(), "x@example.com", count=2) == "452 4.5.3 Too many recipients"
        unlimited = tier(*ANONYMOUS_USERS, limits=ReceiveLimits(recipients=0))
        assert recipient(unlimited, anonymous(), "x@example.com", count=100_000) == ""


class TestLimits:
    def test_the_declared_and_the_real_size_are_held_to_the_limit_unless_bypassed(self) -> None:
        limits = ReceiveLimits(message_size=1000)
        too_big = "552 5.3.4 Message size exceeds fixed maximum message size"
        policy = tier(*ANONYMOUS_USERS, limits=limits)
        assert mail(policy, anonymous(), size=1000) == message(policy, anonymous(), "", size=1000) == ""
        assert mail(policy, anonymous(), size=1001) == message(policy, anonymous(), "", size=1001) == too_big
        bypass = tier(*ANONYMOUS_USERS, *allow("Anonymous", Permission.BYPASS_MESSAGE_SIZE_LIMIT), limits=limits)
        assert mail(bypass, anonymous(), size=1001) == message(bypass, anonymous(), "", size=1001) == ""
        unlimited = tier(*ANONYMOUS_USERS, limits=ReceiveLimits(message_size=0))
        assert mail(unlimited, anonymous(), size=10**12) == ""

    def test_headers_that_are_too_long_or_have_travelled_too_far_are_refused(self) -> None:
        policy = tier(*ANONYMOUS_USERS, limits=ReceiveLimits(header_size=100, hop_count=2))
        assert (
            message(policy, anonymous(), "X: " + "y" * 96 + "\n")
            == "552 5.3.4 Header size exceeds fixed maximum size"
        )
        assert message(policy, anonymous(), "X: " + "y" * 95 + "\n") == ""
        hop = "Received: by x\n"
        assert message(policy, anonymous(), hop * 2) == ""
        assert message(policy, anonymous(), hop * 3) == "554 5.4.6 Hop count exceeded - possible mail loop"


class TestDocuments:
    """Scenarios that the source documents tell."""

    def test_000_case4_a_client_in_clear_is_told_to_start_tls(self) -> None:
        policy = tier(*EXCHANGE_USERS, require_tls=True)
        assert mail(policy, user(), INSIDE) == STARTTLS_FIRST
        assert mail(policy, user(tls=True), INSIDE) == ""

    def test_001_the_anonymous_relay_grant_lets_an_application_send_anywhere(self) -> None:
        relay = allow("Anonymous", Permission.SUBMIT, Permission.ACCEPT_ANY_RECIPIENT, Permission.BYPASS_ANTI_SPAM)
        policy = tier(*relay)
        assert mail(policy, anonymous(), OUTSIDE) == ""
        assert recipient(policy, anonymous(), "x@elsewhere.example") == ""
        assert message(policy, anonymous(), "From: someone@elsewhere.example\n") == ""
        assert mail(policy, anonymous(), INSIDE) == MAY_NOT_SEND_AS
        assert message(policy, anonymous(), "From: alice@example.com\n") == MAY_NOT_SEND_FOR

    def test_003_the_internet_range_delivers_inward_without_login_and_relays_for_nobody(self) -> None:
        policy = tier(*ANONYMOUS_USERS)
        assert mail(policy, anonymous(), OUTSIDE) == ""
        assert recipient(policy, anonymous(), "bob@example.com") == ""
        assert recipient(policy, anonymous(), "bob@elsewhere.example") == UNABLE_TO_RELAY


@given(
    permissions=st.frozensets(st.sampled_from(RECEIVE_PERMISSIONS)),
    more=st.frozensets(st.sampled_from(RECEIVE_PERMISSIONS)),
    who=st.sampled_from(sorted(PRINCIPALS)),
    sender=st.sampled_from([None, INSIDE, OUTSIDE, Mailbox("bob", "example.com")]),
    to=st.sampled_from(["bob@example.com", "bob@elsewhere.example", "eve@listed.example"]),
    header=st.sampled_from(
        ["", "From: alice@example.com\n", "From: bob@example.com\n", "From: x@y.example\n", "From: <\n"]
    ),
    size=st.sampled_from([1, 10**9]),
)
def test_more_permissions_never_refuse_what_fewer_allow(
    permissions: frozenset[Permission],
    more: frozenset[Permission],
    who: str,
    sender: Mailbox | None,
    to: str,
    header: str,
    size: int,
) -> None:
    session = PRINCIPALS[who]

    def outcomes(held: frozenset[Permission]) -> list[bool]:
        policy = tier(*(grant for principal in session.principals for grant in allow(principal, *held)))
        return [
            line(check_login(the_connector(policy), session)) == "",
            mail(policy, session, sender, size) == "",
            recipient(policy, session, to) == "",
            message(policy, session, header, size) == "",
        ]

    assert all(
        after or not before for before, after in zip(outcomes(permissions), outcomes(permissions | more), strict=True)
    )
