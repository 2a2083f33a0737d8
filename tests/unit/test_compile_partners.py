"""Partners of connectors: secured domains, whom TLS believes, and what is refused or warned of."""

from __future__ import annotations

from typing import Any

import pytest
from certificate_kit import NOW
from compile_kit import compiled, config_map, rconn, sconn, verdict, warned

from postroad_operator.certificates.authority import create_authority
from postroad_operator.compile import Reason
from postroad_transport.config import RevocationMode, SecureDomain

PEM = create_authority("Partner CA", NOW).trust_pem.decode()
DOMAINS = {"domains": [{"domain": "Partner.example"}, {"domain": "b.example", "certificateNames": ["MX.b.example"]}]}


def of(kind: str, **spec: Any) -> Any:
    return rconn("c", authMechanisms=["TLS"], **spec) if kind == "receive" else sconn("c", **spec)


def part(result: Any) -> Any:
    (found,) = (*result.config.receive_connectors, *result.config.send_connectors)
    return found


@pytest.mark.parametrize("kind", ["receive", "send"])
def test_listed_domains_are_proved_by_their_own_name_unless_others_are_given(kind: str) -> None:
    connector = part(compiled(of(kind, domainSecure=True, domainSecurity=DOMAINS)))
    assert connector.secure_domains == (
        SecureDomain(domain="b.example", names=("mx.b.example",)),
        SecureDomain(domain="partner.example", names=("partner.example",)),
    )


@pytest.mark.parametrize("kind", ["receive", "send"])
def test_a_list_without_the_switch_and_a_switch_without_a_list_are_warned_of(kind: str) -> None:
    listed = compiled(of(kind, domainSecurity=DOMAINS))
    assert part(listed).secure_domains == ()
    assert warned(listed, "c", "spec.domainSecurity: nothing is enforced")
    switched = compiled(of(kind, domainSecure=True))
    assert warned(switched, "c", "spec.domainSecure: no domain is secured")


@pytest.mark.parametrize("kind", ["receive", "send"])
def test_authorities_come_from_a_config_map(kind: str) -> None:
    trust = {
        "caBundleConfigMapRef": {"name": "partners", "key": "ca.crt"},
        "systemAuthorities": False,
        "revocation": {"mode": "Required", "hosts": ["CRL.partner.example"], "fetch": False},
    }
    found = part(compiled(of(kind, tlsTrust=trust), config_map("partners", **{"ca.crt": PEM}))).tls_trust
    assert (found.authorities, found.system) == (PEM, False)
    assert found.revocation.mode is RevocationMode.REQUIRED
    assert (found.revocation.hosts, found.revocation.fetch) == (("crl.partner.example",), False)


@pytest.mark.parametrize("text", ["", "nothing", PEM.replace("M", "!", 1)])
@pytest.mark.parametrize("kind", ["receive", "send"])
@pytest.mark.parametrize(
    ("field", "trust"),
    [
        ("spec.tlsTrust.caBundleConfigMapRef", {"caBundleConfigMapRef": {"name": "m", "key": "k"}}),
        (
            "spec.tlsTrust.revocation.crlConfigMapRef",
            {"revocation": {"crlConfigMapRef": {"name": "m", "key": "k"}}},
        ),
    ],
)
def test_a_config_map_that_holds_something_else_refuses_the_connector(
    kind: str, field: str, trust: Any, text: str
) -> None:
    said = verdict(compiled(of(kind, tlsTrust=trust), config_map("m", k=text)), "c")
    assert (said.accepted, said.reason) == (False, Reason.INVALID_REF)
    assert said.message.startswith(field)
    missing = verdict(compiled(of(kind, tlsTrust=trust)), "c")
    assert missing.reason is Reason.REF_NOT_FOUND
