"""Accepted domains: one owner, one default, aliases resolved, a way to go for each."""

from __future__ import annotations

from typing import Any

import pytest
from compile_kit import adom, compiled, config_map, reasons, sconn, verdict, warned

from postroad_operator.compile import Compilation, Reason
from postroad_transport.config import AcceptedDomain, Lmtp, Maildir, SmtpHost


def domains(compilation: Compilation) -> dict[str, AcceptedDomain]:
    return {part.domain: part for part in compilation.config.accepted_domains}


@pytest.mark.parametrize(
    ("deliver", "target"),
    [
        ({"maildir": {"path": "m/{local}"}}, Maildir(path="m/{local}")),
        ({"lmtp": {"host": "Dovecot"}}, Lmtp(host="dovecot")),
        ({"smtp": {"host": "10.0.0.1", "port": 26}}, SmtpHost(host="10.0.0.1", port=26)),
    ],
)
def test_a_domain_is_delivered_to_its_target(deliver: dict[str, Any], target: object) -> None:
    assert domains(compiled(adom("A.Example", name="a", deliver=deliver)))["a.example"].deliver == target


def test_the_same_domain_twice_goes_to_the_older_resource() -> None:
    result = compiled(
        adom("a.example", "2026-01-02T00:00:00Z", "young"), adom("A.EXAMPLE", "2026-01-01T00:00:00Z", "old")
    )
    assert reasons(result) == {"old": Reason.ACCEPTED, "young": Reason.CONFLICT}
    assert "AcceptedDomain/default/old, which is older" in verdict(result, "young").message


def test_two_default_domains_are_a_conflict() -> None:
    result = compiled(adom("a.example", default=True), adom("b.example", default=True))
    assert reasons(result) == {"a-example": Reason.ACCEPTED, "b-example": Reason.CONFLICT}
    assert "AcceptedDomain/default/a-example" in verdict(result, "b-example").message


def test_an_alias_stands_for_the_end_of_its_chain() -> None:
    result = compiled(
        adom("a.example"), adom("b.example", aliasOf="c.example"), adom("c.example", aliasOf="a.example")
    )
    assert {name: part.alias_of for name, part in domains(result).items()} == {
        "a.example": "",
        "b.example": "a.example",
        "c.example": "a.example",
    }


def test_an_alias_of_an_unknown_domain_is_refused_and_so_are_its_aliases() -> None:
    result = compiled(adom("a.example", aliasOf="x.example"), adom("b.example", aliasOf="a.example"))
    assert reasons(result) == {"a-example": Reason.REF_NOT_FOUND, "b-example": Reason.INVALID_REF}
    assert (
        verdict(result, "a-example").message == "spec.aliasOf: this tier has no accepted domain x.example: create it"
    )


def test_aliases_in_a_circle_are_refused() -> None:
    circle = [adom(f"{one}.example", aliasOf=f"{other}.example") for one, other in ("ab", "bc", "ca", "da")]
    assert set(reasons(compiled(*circle)).values()) == {Reason.INVALID_REF}


def test_a_chain_of_thousands_of_aliases_is_resolved() -> None:
    chain = [adom(f"d{n}.example", aliasOf=f"d{n + 1}.example") for n in range(3000)]
    result = compiled(*chain, adom("d3000.example"))
    assert {part.alias_of for part in domains(result).values()} == {"", "d3000.example"}


def test_an_authoritative_domain_that_nothing_routes_is_refused_with_the_fix() -> None:
    result = verdict(compiled(adom("a.example", type="Authoritative"), sconn()), "a-example")
    assert result.reason is Reason.NO_ROUTE
    assert "give deliver, or a SendConnector with the address space a.example" in result.message


@pytest.mark.parametrize("space", ["a.example", "*.example"])
def test_an_authoritative_domain_may_be_routed_by_a_send_connector_that_names_it(space: str) -> None:
    result = compiled(adom("a.example", type="Authoritative"), sconn(domain=space))
    assert verdict(result, "a-example").accepted


@pytest.mark.parametrize("kind", ["InternalRelay", "ExternalRelay"])
def test_a_relay_domain_may_go_by_any_connector_and_is_warned_of_when_there_is_none(kind: str) -> None:
    assert verdict(compiled(adom("a.example", type=kind), sconn()), "a-example").warnings == ()
    assert warned(compiled(adom("a.example", type=kind)), "a-example", "no SendConnector takes a.example")


def test_recipients_from_a_list_or_a_config_map_are_local_parts_in_lower_case() -> None:
    listed = adom("a.example", recipients={"list": ["Alice", "bob@A.example"]})
    mapped = adom("b.example", recipients={"configMapRef": {"name": "users", "key": "b"}})
    result = compiled(listed, mapped, config_map("users", b="# ours\nCarol\n\ndave@b.example # he\nx@c.example\n"))
    assert domains(result)["a.example"].recipients == ("alice", "bob")
    assert domains(result)["b.example"].recipients == ("carol", "dave")
    assert warned(result, "b-example", "1 addresses of other domains are passed over: x@c.example")


def test_an_empty_list_of_recipients_means_nobody_and_none_means_everybody() -> None:
    result = compiled(adom("a.example", recipients={"list": []}), adom("b.example"))
    assert domains(result)["a.example"].recipients == ()
    assert domains(result)["b.example"].recipients is None
    assert warned(result, "a-example", "every recipient is refused")


def test_a_missing_config_map_is_refused() -> None:
    result = compiled(adom("a.example", recipients={"configMapRef": {"name": "users", "key": "a"}}))
    assert verdict(result, "a-example").reason is Reason.REF_NOT_FOUND
