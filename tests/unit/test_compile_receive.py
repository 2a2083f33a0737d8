"""Receive connectors: defaults filled in, groups flattened, ranges normalised, conflicts, accounts, open relay."""

from __future__ import annotations

from typing import Any

import pytest
from compile_kit import HASH, compiled, rconn, reasons, secret, tcert, verdict, warned

from postroad_operator.compile import Compilation, Reason, TierSettings
from postroad_operator.compile.receive import _KEYWORDS
from postroad_transport import config
from postroad_transport.config import (
    AuthMechanism,
    Permission,
    ReceiveConnector,
    ReceiveLimits,
    Role,
    Usage,
)
from postroad_transport.config.model import ALL_EXTENSIONS
from postroad_transport.policy.groups import usage_defaults

RELAY = {"principal": "Anonymous", "permissions": ["SMTP-Submit", "SMTP-Accept-Any-Recipient"]}
ACCOUNTS = {"htpasswdSecretRef": {"name": "accounts", "key": "htpasswd"}}


def only(compilation: Compilation) -> ReceiveConnector:
    (part,) = compilation.config.receive_connectors
    return part


@pytest.mark.parametrize("usage", list(Usage))
def test_usage_fills_in_mechanisms_and_groups_that_are_not_given(usage: Usage) -> None:
    connector = rconn(usage=usage.value, permissionGroups=None)
    part = only(compiled(connector))
    defaults = usage_defaults(usage)
    assert set(part.auth_mechanisms) == set(defaults.auth_mechanisms) - {AuthMechanism.NONE}
    assert {grant.origin for grant in part.grants} == {
        f"spec.usage: {usage.value} ({group})" for group in defaults.permission_groups
    }


def test_what_is_given_replaces_what_the_usage_says() -> None:
    part = only(compiled(rconn(usage="Client", authMechanisms=[], permissionGroups=["Partners"])))
    assert part.auth_mechanisms == ()
    assert {grant.origin for grant in part.grants} == {"spec.permissionGroups[0]: Partners"}


def test_explicit_grants_keep_their_effect_and_origin() -> None:
    grants = [
        {"principal": "user:alice", "permissions": ["SMTP-Submit"]},
        {"principal": "Anonymous", "permissions": ["Bypass-Anti-Spam"], "effect": "Deny"},
    ]
    part = only(compiled(rconn(permissionGroups=[], grants=grants)))
    assert [(g.principal, g.permission, g.deny, g.origin) for g in part.grants] == [
        ("user:alice", Permission.SUBMIT, False, "spec.grants[0]"),
        ("Anonymous", Permission.BYPASS_ANTI_SPAM, True, "spec.grants[1]"),
    ]


def test_a_group_that_an_edge_tier_lacks_is_refused_with_the_field() -> None:
    edge = TierSettings(role=Role.EDGE)
    result = verdict(compiled(rconn(permissionGroups=["Partners", "ExchangeUsers"]), settings=edge), "r")
    assert result.reason is Reason.NOT_AVAILABLE
    assert result.message.startswith("spec.permissionGroups[1]: an edge tier has no group ExchangeUsers")


def test_a_usage_whose_group_an_edge_tier_lacks_is_warned_of() -> None:
    edge = TierSettings(role=Role.EDGE)
    assert warned(
        compiled(rconn(usage="Client", permissionGroups=None), settings=edge), "r", "ExchangeUsers, which an"
    )


def test_ranges_become_sorted_unique_cidrs() -> None:
    ranges = ["10.0.0.1-10.0.0.3", "2001:DB8::/32", "10.0.0.1", "::ffff:192.0.2.0/120", "198.51.100.7/24"]
    assert only(compiled(rconn(remoteIPRanges=ranges))).remote_ip_ranges == (
        "10.0.0.1/32",
        "10.0.0.2/31",
        "192.0.2.0/24",
        "198.51.100.0/24",
        "2001:db8::/32",
    )


def test_the_defaults_of_the_resource_are_those_of_the_configuration() -> None:
    part = only(compiled(rconn()))
    assert part.limits == ReceiveLimits()
    assert part.extensions == ALL_EXTENSIONS
    assert part.fqdn == "mx.example"
    assert set(_KEYWORDS.values()) == set(ALL_EXTENSIONS)


def test_extensions_can_be_turned_off_one_by_one() -> None:
    part = only(compiled(rconn(extensions={"chunking": False, "binaryMIME": False, "smtpUTF8": False})))
    assert part.extensions == ("PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN")


def test_the_older_of_two_connectors_with_the_same_port_and_range_is_served() -> None:
    result = compiled(rconn("young", "2026-01-02T00:00:00Z"), rconn("old", "2026-01-01T00:00:00Z"))
    assert reasons(result) == {"young": Reason.CONFLICT, "old": Reason.ACCEPTED}
    assert "ReceiveConnector/default/old, which is older" in verdict(result, "young").message
    assert [part.name for part in result.config.receive_connectors] == ["old"]


def test_without_creation_time_the_name_decides() -> None:
    assert reasons(compiled(rconn("b"), rconn("a"))) == {"a": Reason.ACCEPTED, "b": Reason.CONFLICT}


@pytest.mark.parametrize(
    "other",
    [
        {"remoteIPRanges": ["10.0.0.0/8"]},
        {"bindings": [{"port": 26}]},
        {"bindings": [{"port": 0}]},
        {"enabled": False},
    ],
)
def test_another_range_or_port_is_no_conflict(other: dict[str, Any]) -> None:
    assert all(item.accepted for item in compiled(rconn("a"), rconn("b", **other)).verdicts)


@pytest.mark.parametrize(
    "binding",
    [
        {"port": 25, "tls": "Implicit"},
        {"port": 25, "proxyProtocol": {"trustedRanges": ["10.0.0.0/8"]}},
    ],
)
def test_what_comes_before_the_choice_of_connector_must_agree_on_a_port(binding: dict[str, Any]) -> None:
    other = rconn("b", bindings=[binding], remoteIPRanges=["10.0.0.0/8"], authMechanisms=["TLS"])
    assert reasons(compiled(rconn("a"), other)) == {"a": Reason.ACCEPTED, "b": Reason.CONFLICT}


def test_a_refused_connector_takes_no_port() -> None:
    broken = rconn("a", authentication=ACCOUNTS)
    assert reasons(compiled(broken, rconn("b"))) == {"a": Reason.REF_NOT_FOUND, "b": Reason.ACCEPTED}


def test_accounts_come_from_the_secret_and_lie_in_a_file_named_by_content() -> None:
    content = f"# ours\nalice:{HASH}:alice@a.example,*@b.example\n"
    result = compiled(rconn(usage="Client", authentication=ACCOUNTS), secret("accounts", htpasswd=content))
    name = only(result).authentication.accounts_file
    assert result.secret_files == {name: content.encode()}
    assert name.startswith("accounts.r.")


@pytest.mark.parametrize(
    ("objects", "reason", "text"),
    [
        ((), Reason.REF_NOT_FOUND, "there is no Secret accounts in namespace default: create it"),
        ((secret("accounts", other="x"),), Reason.REF_NOT_FOUND, "has no key htpasswd: add it"),
        ((secret("accounts", htpasswd="# nothing\n"),), Reason.INVALID_REF, "holds no usable account"),
        ((secret("accounts", htpasswd="alice:plain"),), Reason.INVALID_REF, "neither argon2, bcrypt nor SCRAM"),
    ],
)
def test_an_account_source_that_is_missing_or_empty_is_refused(objects: Any, reason: Reason, text: str) -> None:
    result = verdict(compiled(rconn(authentication=ACCOUNTS), *objects), "r")
    assert (result.reason, text in result.message) == (reason, True)
    assert "spec.authentication.htpasswdSecretRef" in result.message
    assert "plain" not in result.message


@pytest.mark.parametrize("field", ["htpasswdSecretRef", "ntlmSecretRef"])
@pytest.mark.parametrize("beside", ["", f"good:{HASH}\ngood:{HASH}\n", f"good:{'0' * 32}\ngood:{'0' * 32}\n"])
def test_a_reference_to_another_secret_shows_nothing_of_it(field: str, beside: str) -> None:
    other = secret("other", key=f"{beside}postgres://admin:hunter2@db\n5551234:AAHtoken:more\nKEY\n")
    made = compiled(rconn(usage="Client", authentication={field: {"name": "other", "key": "key"}}), other)
    told = str(verdict(made, "r"))
    assert field in told
    assert not any(part in told for part in ("postgres", "admin", "hunter2", "5551234", "AAH", "KEY", "good"))


def test_accounts_that_scram_leaves_out_are_named() -> None:
    keys = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$" + ":".join(
        ["WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="] * 2
    )
    lines = f"alice:{HASH}\nbob:{keys}:bob@a.example\ncarol:{keys.replace('4096', '1')}\n"
    result = compiled(rconn(usage="Client", authentication=ACCOUNTS), secret("accounts", htpasswd=lines))
    warnings = verdict(result, "r").warnings
    assert any("1 account(s) have no SCRAM keys (line 1)" in warning for warning in warnings)
    assert any("line 3 is passed over: the SCRAM iterations must be" in warning for warning in warnings)
    assert not any("W22Z" in warning for warning in warnings)


def test_an_invalid_secret_is_named_as_the_cause() -> None:
    from compile_kit import read

    broken = read({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "accounts"}, "data": {"htpasswd": "%"}})
    result = compiled(rconn(authentication=ACCOUNTS), broken)
    assert reasons(result) == {"r": Reason.INVALID_REF, "accounts": Reason.INVALID}


def test_a_bad_account_line_is_a_warning_that_shows_no_hash() -> None:
    lines = f"alice:{HASH}\nbob:secret\nalice:{HASH}\nnobody\ncarol:{HASH}:not-an-address\n"
    result = compiled(rconn(usage="Client", authentication=ACCOUNTS), secret("accounts", htpasswd=lines))
    warnings = verdict(result, "r").warnings
    assert [warning.split(":")[1] for warning in warnings if "passed over" in warning] == [
        " line 2 is passed over",
        " line 3 is passed over",
        " line 4 is passed over",
        " line 5 is passed over",
    ]
    assert not any(
        "secret" in warning.replace("htpasswdSecretRef", "") or "$argon2" in warning for warning in warnings
    )


def test_an_unintended_open_relay_is_refused_naming_resource_and_field() -> None:
    result = verdict(compiled(rconn(grants=[RELAY])), "r")
    assert result.reason is Reason.OPEN_RELAY
    for text in ("ReceiveConnector/default/r", "spec.grants[0]", "spec.allowOpenRelay"):
        assert text in result.message


def test_an_open_relay_that_was_asked_for_is_accepted_with_a_warning() -> None:
    assert warned(compiled(rconn(grants=[RELAY], allowOpenRelay=True)), "r", "is an open relay")


def test_relay_for_the_own_networks_is_no_open_relay() -> None:
    assert verdict(compiled(rconn(grants=[RELAY], remoteIPRanges=["10.42.0.0/16"])), "r").accepted


HIDDEN = TierSettings(hostname="mx.example", client_addresses_visible=False)
PRIVATE = {"remoteIPRanges": ["10.0.0.0/8"], "grants": [RELAY]}


def test_relay_by_range_is_refused_where_client_addresses_are_hidden() -> None:
    result = verdict(compiled(rconn(**PRIVATE), settings=HIDDEN), "r")
    assert not result.accepted
    assert result.reason is Reason.CLIENT_ADDRESSES_HIDDEN
    for text in ("10.0.0.0/8", "does not see its clients' addresses", "spec.grants[0]", "proxyProtocol"):
        assert text in result.message


def test_hidden_client_addresses_are_no_matter_without_relay_or_behind_proxy_protocol() -> None:
    assert verdict(compiled(rconn(), settings=HIDDEN), "r").accepted
    proxied = {"bindings": [{"port": 25, "proxyProtocol": {"trustedRanges": ["10.9.0.1/32"]}}]}
    assert verdict(compiled(rconn(**PRIVATE, **proxied), settings=HIDDEN), "r").accepted


def test_bans_are_compiled_and_off_where_client_addresses_are_hidden() -> None:
    bans = {"failures": 5, "window": "1m", "duration": "2h", "allowRanges": ["10.0.0.1"]}
    spec = {"authentication": {"bans": bans}}
    given = only(compiled(rconn(**spec))).authentication.bans
    assert given == config.Bans(
        failures=5, account_failures=50, window=60.0, duration=7200.0, allow_ranges=("10.0.0.1/32",)
    )
    hidden = compiled(rconn(**spec), settings=HIDDEN)
    assert not only(hidden).authentication.bans.on
    assert warned(hidden, "r", "spec.authentication.bans: off, because the tier does not see")
    proxied = {"bindings": [{"port": 25, "proxyProtocol": {"trustedRanges": ["10.9.0.1/32"]}}]}
    assert only(compiled(rconn(**spec, **proxied), settings=HIDDEN)).authentication.bans == given


def test_an_acknowledged_relay_is_served_though_client_addresses_are_hidden() -> None:
    assert warned(compiled(rconn(**PRIVATE, allowOpenRelay=True), settings=HIDDEN), "r", "keeps nobody out")


def test_an_acknowledgement_that_is_not_needed_is_warned_of() -> None:
    assert warned(compiled(rconn(allowOpenRelay=True)), "r", "spec.allowOpenRelay: not needed")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"authMechanisms": ["BasicAuth"]}, "spec.authentication: nobody can log in"),
        ({"authMechanisms": ["BasicAuth"]}, "spec.authMechanisms: BasicAuth takes passwords in clear"),
        ({"permissionGroups": []}, "spec.permissionGroups: nobody may submit mail here"),
        (
            {"authMechanisms": ["TLS"], "requireTLS": True, "bindings": [{"port": 25, "tls": "Off"}]},
            "spec.bindings[0].tls",
        ),
        ({"protocolLogging": True}, "spec.protocolLogging: accepted but not acted upon yet"),
        ({"authMechanisms": ["Integrated"]}, "spec.authMechanisms: Integrated offers nothing"),
        (
            {"authMechanisms": ["TLS"], "fqdn": "other.example"},
            "no TransportCertificate holds the name other.example",
        ),
    ],
)
def test_a_surprise_is_warned_of_by_field(spec: dict[str, Any], text: str) -> None:
    result = compiled(rconn(**spec), tcert())
    assert verdict(result, "r").accepted
    assert warned(result, "r", text)


def test_a_name_that_a_certificate_covers_is_not_warned_of() -> None:
    names = tcert(dnsNames=["*.mx.example", "mx.example"])
    result = compiled(
        rconn("a", authMechanisms=["TLS"]), rconn("b", fqdn="a.mx.example", bindings=[{"port": 1}]), names
    )
    assert all(item.warnings == () for item in result.verdicts)


@pytest.mark.parametrize("policy", list(config.TlsPolicy))
def test_the_tls_policy_is_the_connectors_and_modern_where_none_is_given(policy):
    (given,) = compiled(rconn(tlsPolicy=policy.value)).config.receive_connectors
    assert given.tls_policy is policy
    (default,) = compiled(rconn()).config.receive_connectors
    assert default.tls_policy is config.TlsPolicy.MODERN
