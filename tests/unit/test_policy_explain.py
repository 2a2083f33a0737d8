"""Explain tells what the rules themselves would do, and why."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad_transport.config import (
    AcceptedDomain,
    AuthMechanism,
    Binding,
    Certificate,
    Grant,
    Permission,
    Principal,
    ReceiveConnector,
    Role,
    TierConfig,
    TlsMode,
)
from postroad_transport.policy.address import parse_mailbox
from postroad_transport.policy.explain import Explanation, Scenario, explain
from postroad_transport.policy.groups import RECEIVE_PERMISSIONS, receive_grants
from postroad_transport.policy.principals import authenticated_principals, initial_principals
from postroad_transport.policy.receive import check_mail, check_recipient
from postroad_transport.policy.session import SessionFacts
from postroad_transport.policy.tier import TierPolicy
from postroad_transport.policy.verdict import Allow

INTERNET = ReceiveConnector(
    name="internet",
    source="ReceiveConnector/mail/internet",
    bindings=(Binding(port=25),),
    remote_ip_ranges=("0.0.0.0/0", "::/0"),
    fqdn="mx.example.com",
    grants=receive_grants("AnonymousUsers", Role.HUB, origin="spec.permissionGroups[0]: AnonymousUsers"),
)
CLIENT = ReceiveConnector(
    name="client",
    source="ReceiveConnector/mail/client",
    bindings=(Binding(port=587), Binding(port=465, tls=TlsMode.IMPLICIT)),
    remote_ip_ranges=("0.0.0.0/0", "::/0"),
    fqdn="mail.example.com",
    auth_mechanisms=(AuthMechanism.TLS, AuthMechanism.BASIC_AUTH_REQUIRE_TLS),
    grants=receive_grants("ExchangeUsers", Role.HUB, origin="spec.usage: Client"),
    require_tls=True,
)
DOMAIN = AcceptedDomain(domain="example.com", source="AcceptedDomain/mail/example", recipients=("alice", "bob"))
ALIAS = AcceptedDomain(domain="alias.example", source="AcceptedDomain/mail/alias", alias_of="example.com")


def tier(*connectors: ReceiveConnector) -> TierPolicy:
    return TierPolicy(
        TierConfig(
            tier="mail",
            hostname="mx.example.com",
            receive_connectors=connectors,
            accepted_domains=(DOMAIN, ALIAS),
        )
    )


TIER = tier(INTERNET, CLIENT)


def replies(explanation: Explanation) -> list[tuple[str, str]]:
    return [(step.verb, step.reply) for step in explanation.steps if not step.allowed]


def test_a_message_that_passes_shows_each_rule_and_the_field_behind_it() -> None:
    explanation = explain(
        TIER,
        Scenario(
            port=25,
            remote_ip="192.0.2.7",
            mail_from="x@elsewhere.example",
            recipients=("bob@alias.example",),
            header_from="x@elsewhere.example",
            headers="X-MS-Exchange-Organization-AuthAs: Internal\nSubject: hello",
        ),
    )
    assert explanation.accepted
    assert explanation.connector == "internet"
    assert [(choice.connector, choice.chosen) for choice in explanation.choices] == [
        ("internet", True),
        ("client", False),
    ]
    assert explanation.principals == ("Anonymous",)
    assert explanation.recipients == ("bob@example.com",)
    assert explanation.stripped == ("X-MS-Exchange-Organization-AuthAs",)
    assert explanation.added[0] == "X-MS-Exchange-Organization-AuthAs: Anonymous"
    assert explanation.auth_as == "Anonymous"
    assert [(step.verb, step.rule, step.source) for step in explanation.steps] == [
        ("MAIL", "requireTLS", "ReceiveConnector/mail/internet"),
        ("MAIL", "submit", "ReceiveConnector/mail/internet"),
        ("MAIL", "sender", "ReceiveConnector/mail/internet"),
        ("MAIL", "size", "ReceiveConnector/mail/internet"),
        ("RCPT", "acceptedDomain", "AcceptedDomain/mail/example"),
        ("DATA", "size", "ReceiveConnector/mail/internet"),
        ("DATA", "headerSize", "ReceiveConnector/mail/internet"),
        ("DATA", "hopCount", "ReceiveConnector/mail/internet"),
        ("DATA", "headerSender", "ReceiveConnector/mail/internet"),
        ("DATA", "headerFirewall", "ReceiveConnector/mail/internet"),
    ]
    assert [step.field for step in explanation.steps[:4]] == [
        "spec.requireTLS: false",
        "spec.permissionGroups[0]: AnonymousUsers allows SMTP-Submit to Anonymous",
        "spec.permissionGroups[0]: AnonymousUsers allows SMTP-Accept-Any-Sender to Anonymous",
        "spec.limits.messageSize: 37748736",
    ]
    assert explanation.steps[-1].missing == "Accept-Headers-Organization"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"mail_from": "alice@example.com"}, [("MAIL", "451 5.7.3 Must issue a STARTTLS command first")]),
        ({"tls": True}, [("MAIL", "530 5.7.1 Client was not authenticated")]),
        ({"tls": True, "port": 25}, [("STARTTLS", "502 5.5.1 STARTTLS is not offered")]),
        ({"port": 465}, [("MAIL", "530 5.7.1 Client was not authenticated")]),
        (
            {"account": "alice"},
            [("AUTH", "538 5.7.11 Encryption required for requested authentication mechanism")],
        ),
        (
            {"account": "alice", "port": 25},
            [("AUTH", "502 5.5.1 Command not implemented")],
        ),
        (
            {"account": "alice", "tls": True, "mail_from": "bob@example.com"},
            [("MAIL", "550 5.7.1 Client does not have permission to send as this sender")],
        ),
        (
            {"account": "alice", "tls": True, "header_from": "bob@example.com"},
            [("DATA", "550 5.7.1 Client does not have permission to send on behalf of the from address")],
        ),
        (
            {"account": "alice", "tls": True, "recipients": ("eve@example.com", "x@elsewhere.example")},
            [("RCPT", "550 5.1.1 User unknown")],
        ),
        ({"port": 25, "recipients": ("x@elsewhere.example",)}, [("RCPT", "550 5.7.1 Unable to relay")]),
        ({"port": 25, "mail_from": "a b"}, [("MAIL", "501 5.1.7 Address is malformed or too long")]),
        ({"port": 25, "mail_from": "a@b> X"}, [("MAIL", "501 5.1.7 Address is malformed")]),
        ({"port": 25, "recipients": ("a@b> X",)}, [("RCPT", "501 5.1.3 Address is malformed")]),
        ({"port": 25, "recipients": ("",)}, [("RCPT", "501 5.1.3 Address is malformed or too long")]),
    ],
)
def test_a_refusal_shows_the_reply_the_client_would_see(
    fields: dict[str, object], expected: list[tuple[str, str]]
) -> None:
    defaults = {"port": 587, "remote_ip": "192.0.2.7", "recipients": ("bob@example.com",)}
    explanation = explain(TIER, Scenario(**{**defaults, **fields}))
    assert replies(explanation) == expected
    assert explanation.accepted == (explanation.steps[-1].verb == "DATA" and not replies(explanation)) or (
        len(explanation.steps) > 3 and explanation.recipients == ("x@elsewhere.example",)
    )


def test_each_stripped_header_names_the_permission_it_would_have_needed() -> None:
    servers = receive_grants("ExchangeServers", Role.HUB, origin="spec.usage: Internal")
    headers = (
        "Received: from x\nX-MS-Exchange-Forest-A: 1\nX-MS-Exchange-Organization-A: 1\n"
        "X-MS-Exchange-Organization-AuthAs: Internal"
    )

    def needed(*kept: str) -> dict[str, str]:
        grants = tuple(
            Grant(principal="Anonymous", permission=grant.permission)
            for grant in servers
            if grant.principal == "HubTransportServers"
            and (grant.permission == "SMTP-Submit" or grant.permission in kept)
        )
        policy = tier(msgspec.structs.replace(INTERNET, grants=grants))
        scenario = Scenario(port=25, remote_ip="192.0.2.7", recipients=("bob@example.com",), headers=headers)
        steps = explain(policy, scenario).steps
        return {step.argument: step.missing for step in steps if step.rule == "headerFirewall"}

    assert needed() == {
        "Received": "Accept-Headers-Routing",
        "X-MS-Exchange-Forest-A": "Accept-Headers-Forest",
        "X-MS-Exchange-Organization-A": "Accept-Headers-Organization",
        "X-MS-Exchange-Organization-AuthAs": "Accept-Headers-Organization",
    }
    kept = ["Accept-Headers-Routing", "Accept-Headers-Forest", "Accept-Headers-Organization"]
    assert needed(*kept) == {"X-MS-Exchange-Organization-AuthAs": "SMTP-Accept-Authentication-Flag"}
    assert needed(*kept, "SMTP-Accept-Authentication-Flag") == {}


def test_where_no_connector_listens_the_reasons_are_all_there_is() -> None:
    explanation = explain(TIER, Scenario(port=2525, remote_ip="192.0.2.7"))
    assert not explanation.accepted
    assert explanation.connector == ""
    assert explanation.steps == ()
    assert [choice.reason for choice in explanation.choices] == [
        "bound to port 25, not 2525",
        "bound to port 465, 587, not 2525",
    ]


def test_an_explanation_is_plain_json() -> None:
    explanation = explain(TIER, Scenario(port=25, remote_ip="192.0.2.7", recipients=("bob@example.com",)))
    encoded = msgspec.json.encode(explanation)
    assert msgspec.json.decode(encoded, type=Explanation) == explanation
    assert b'"authAs":"Anonymous"' in encoded


@settings(deadline=None)
@given(
    grants=st.lists(
        st.builds(
            Grant,
            principal=st.sampled_from(["Anonymous", "AuthenticatedUsers", "user:alice"]),
            permission=st.sampled_from(RECEIVE_PERMISSIONS),
            deny=st.booleans(),
        ),
        max_size=8,
    ),
    require_tls=st.booleans(),
    tls=st.booleans(),
    account=st.sampled_from(["", "alice"]),
    mail_from=st.sampled_from(["alice@example.com", "bob@example.com", "x@elsewhere.example"]),
    to=st.sampled_from(["bob@example.com", "eve@alias.example", "x@elsewhere.example"]),
)
def test_explain_agrees_with_the_rules_asked_one_by_one(
    grants: list[Grant], require_tls: bool, tls: bool, account: str, mail_from: str, to: str
) -> None:
    config = msgspec.structs.replace(
        INTERNET,
        grants=tuple(grants),
        require_tls=require_tls,
        auth_mechanisms=(AuthMechanism.TLS, AuthMechanism.BASIC_AUTH),
    )
    policy = tier(config)
    connector = policy.connectors.connectors[0]
    explanation = explain(
        policy,
        Scenario(port=25, remote_ip="192.0.2.7", tls=tls, account=account, mail_from=mail_from, recipients=(to,)),
    )
    principals = authenticated_principals(account) if account else initial_principals(config)
    session = SessionFacts("192.0.2.7", 25, tls=tls, principals=principals, account=account)
    verdicts = [
        check_mail(policy, connector, session, parse_mailbox(mail_from.encode(), smtputf8=False), size=None),
        check_recipient(policy, connector, session, parse_mailbox(to.encode(), smtputf8=False), count=0),
    ]
    submits = "SMTP-Submit" in explanation.permissions
    expected = all(isinstance(verdict, Allow) for verdict in verdicts) and (submits or not account)
    assert explanation.accepted == expected
    assert set(explanation.permissions) == {str(permission) for permission in connector.permissions(session)}


@pytest.mark.parametrize(("mechanism", "accepted"), [("PLAIN", True), ("OAUTHBEARER", False)])
def test_who_logs_in_with_a_token_owns_no_address_by_name(mechanism: str, accepted: bool) -> None:
    config = msgspec.structs.replace(
        INTERNET,
        grants=(Grant(principal=Principal.AUTHENTICATED_USERS, permission=Permission.SUBMIT),),
        auth_mechanisms=(AuthMechanism.TLS, AuthMechanism.BASIC_AUTH),
    )
    scenario = Scenario(
        port=25,
        remote_ip="192.0.2.7",
        tls=True,
        account="ceo@example.com",
        auth_mechanism=mechanism,
        mail_from="ceo@example.com",
        recipients=("alice@example.com",),
    )
    assert explain(tier(config), scenario).accepted == accepted


@pytest.mark.parametrize(("names", "offered"), [(("mail.example.com",), True), (("other.example.com",), False)])
def test_starttls_needs_a_certificate_for_the_name_where_certificates_are_issued(
    names: tuple[str, ...], offered: bool
) -> None:
    certificate = Certificate(
        name="c",
        source="TransportCertificate/mail/c",
        thumbprint="00",
        dns_names=names,
        self_signed=False,
        not_before=0.0,
        not_after=1e12,
        chain_file="c.crt",
        key_file="c.key",
    )
    config = msgspec.structs.replace(tier(CLIENT).config, certificates=(certificate,))
    scenario = Scenario(port=587, remote_ip="192.0.2.1", tls=True)
    asked = explain(TierPolicy(config), scenario, certificates_issued=True)
    assert asked.tls is offered
    if not offered:
        assert asked.steps[0].reply == "502 5.5.1 STARTTLS is not offered"
        assert asked.steps[0].field.endswith("no certificate covers mail.example.com (event 12014)")
    assert explain(TierPolicy(config), scenario).tls
    implicit = explain(TierPolicy(config), Scenario(port=465, remote_ip="192.0.2.1"), certificates_issued=True)
    silent = [step for step in implicit.steps if step.verb == "CONNECT"]
    assert bool(silent) is not offered
    if silent:
        assert not implicit.accepted
        assert implicit.steps == tuple(silent)
        assert "closed without a word" in silent[0].reply
