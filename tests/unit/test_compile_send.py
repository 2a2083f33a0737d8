"""Send connectors and certificates: routing, credentials, usage defaults, what has been issued."""

from __future__ import annotations

import json
from typing import Any

import pytest
from compile_kit import compiled, reasons, sconn, secret, tcert, verdict, warned

from postroad_operator.compile import Compilation, IssuedCertificate, Reason
from postroad_transport import config
from postroad_transport.config import AuthMechanism, DnsRouting, Drop, Host, Lmtp, SendConnector, SmartHostRouting

HOSTS = [{"host": "Relay.Example"}, {"host": "2001:DB8::1", "port": 587}]


def only(compilation: Compilation) -> SendConnector:
    (part,) = compilation.config.send_connectors
    return part


@pytest.mark.parametrize(
    ("spec", "routing"),
    [
        ({"dns": {}}, DnsRouting()),
        ({"dns": {"resolvers": ["10.0.0.53:53"]}, "port": 2525}, DnsRouting(resolvers=("10.0.0.53:53",), port=2525)),
        ({"dns": {"port": 26}, "port": 2525}, DnsRouting(port=26)),
        (
            {"smartHosts": HOSTS, "port": 26},
            SmartHostRouting(hosts=(Host(host="relay.example", port=26), Host(host="2001:db8::1", port=587))),
        ),
        ({"lmtp": {"host": "dovecot"}}, Lmtp(host="dovecot", port=24)),
        ({"drop": {}}, Drop()),
    ],
)
def test_routing_takes_its_form_and_its_ports(spec: dict[str, Any], routing: object) -> None:
    assert only(compiled(sconn(**spec))).routing == routing


def test_the_defaults_of_the_resource_are_those_of_the_configuration() -> None:
    part = only(compiled(sconn()))
    assert part.limits == config.SendLimits()
    assert part.retry == config.RetryPolicy()


@pytest.mark.parametrize(("rate", "expected"), [("0", 0), ("10/s", 10), ("90/m", 1.5), ("36/h", 0.01)])
def test_a_rate_is_messages_per_second(rate: str, expected: float) -> None:
    assert only(compiled(sconn(limits={"rate": rate}))).limits.rate == pytest.approx(expected)


def test_address_spaces_are_a_labels() -> None:
    assert only(compiled(sconn(domain="*.한국.example"))).address_spaces[0].domain == "*.xn--3e0b707e.example"


@pytest.mark.parametrize(
    ("spec", "mechanism", "require_tls"),
    [
        ({}, AuthMechanism.NONE, False),
        ({"usage": "Internal"}, AuthMechanism.EXCHANGE_SERVER, False),
        ({"usage": "Internal", "smartHostAuthMechanism": "None"}, AuthMechanism.NONE, False),
        ({"tlsAuthLevel": "EncryptionOnly"}, AuthMechanism.NONE, True),
        (
            {"smartHostAuthMechanism": "BasicAuthRequireTLS", "authSecretRef": {"name": "s"}},
            AuthMechanism.BASIC_AUTH_REQUIRE_TLS,
            True,
        ),
    ],
)
def test_the_mechanism_comes_from_the_resource_or_its_usage(
    spec: dict[str, Any], mechanism: AuthMechanism, require_tls: bool
) -> None:
    part = only(compiled(sconn(smartHosts=HOSTS, **spec), secret("s", username="u", password="p")))
    assert (part.auth_mechanism, part.require_tls) == (mechanism, require_tls)


def test_an_internal_connector_without_smart_hosts_has_no_mechanism() -> None:
    assert only(compiled(sconn(usage="Internal"))).auth_mechanism is AuthMechanism.NONE


def test_credentials_lie_in_a_secret_file_as_json() -> None:
    spec = {"smartHosts": HOSTS, "smartHostAuthMechanism": "BasicAuth", "authSecretRef": {"name": "relay"}}
    result = compiled(sconn(**spec), secret("relay", username="corp", password="pässword\n"))
    name = only(result).credentials_file
    assert json.loads(result.secret_files[name]) == {"username": "corp", "password": "pässword"}
    assert warned(result, "s", "spec.smartHostAuthMechanism: BasicAuth may send the password in clear")


@pytest.mark.parametrize("objects", [(), (secret("relay", username="corp"),)])
def test_missing_credentials_are_refused(objects: Any) -> None:
    spec = {"smartHosts": HOSTS, "smartHostAuthMechanism": "BasicAuth", "authSecretRef": {"name": "relay"}}
    result = verdict(compiled(sconn(**spec), *objects), "s")
    assert result.reason is Reason.REF_NOT_FOUND
    assert result.message.startswith("spec.authSecretRef: ")


def test_a_suspended_connector_is_served_with_a_warning() -> None:
    result = compiled(sconn(suspend=True))
    assert only(result).suspend
    assert warned(result, "s", "spec.suspend: ")


def test_a_disabled_connector_is_accepted_and_not_served() -> None:
    result = compiled(sconn(enabled=False))
    assert reasons(result) == {"s": Reason.DISABLED}
    assert result.config.send_connectors == ()
    assert result.config.generations == {"SendConnector/default/s": 0}


SOURCE = "TransportCertificate/default/c"
CERTIFICATE = config.Certificate(
    name="c",
    source=SOURCE,
    thumbprint="00",
    dns_names=("mx.example",),
    self_signed=False,
    not_before=0,
    not_after=1,
    chain_file="c.crt",
    key_file="c.key",
)
ISSUED = IssuedCertificate(CERTIFICATE, {"c.crt": b"chain", "c.key": b"key"}, ("soon over",))


def test_a_certificate_that_is_not_issued_yet_is_pending() -> None:
    result = compiled(tcert())
    assert verdict(result, "c").accepted
    assert reasons(result) == {"c": Reason.PENDING}
    assert result.config.certificates == ()


def test_an_issued_certificate_is_served_with_its_files() -> None:
    result = compiled(tcert(), certificates={SOURCE: ISSUED})
    assert result.config.certificates == (CERTIFICATE,)
    assert result.secret_files == {"c.crt": b"chain", "c.key": b"key"}
    assert verdict(result, "c").warnings == ("soon over",)


def test_material_of_a_certificate_that_no_resource_asks_for_is_not_served() -> None:
    result = compiled(certificates={SOURCE: ISSUED})
    assert result.config.certificates == ()
    assert result.secret_files == {}


def test_a_certificate_that_could_not_be_issued_is_refused_with_the_cause() -> None:
    result = verdict(compiled(tcert(), certificate_problems={SOURCE: ("the key does not fit",)}), "c")
    assert (result.reason, result.message) == (Reason.CERTIFICATE_UNUSABLE, "the key does not fit")


def test_a_certificate_from_a_missing_secret_is_refused() -> None:
    result = verdict(compiled(tcert(secretRef={"name": "tls"})), "c")
    assert (result.reason, result.message[:15]) == (Reason.REF_NOT_FOUND, "spec.secretRef:")


@pytest.mark.parametrize("policy", [None, *config.TlsPolicy])
def test_a_tls_policy_is_the_connectors_choice(policy):
    given = {"tlsPolicy": policy.value} if policy else {}
    (part,) = compiled(sconn(**given)).config.send_connectors
    assert part.tls_policy is policy
