"""What cert-manager is asked for, and what its answers mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from certificate_kit import DAY, NOW, MemoryStore
from hypothesis import given
from hypothesis import strategies as st

from postroad_operator.certificates import (
    CertificateError,
    IssuerState,
    KeySource,
    certificate_document,
    create_authority,
    ensure,
    from_resource,
    issue,
)
from postroad_operator.certificates.cert_manager import differs, go_duration, issuer_state, request_name
from postroad_operator.certificates.ensure import PROVIDED_SUFFIX, prune
from postroad_operator.resources import TransportCertificate


def resource(**spec: Any) -> TransportCertificate:
    return TransportCertificate.model_validate(
        {
            "metadata": {"name": "mail", "namespace": "post", "uid": "u-1"},
            "spec": {"dnsNames": ["mail.example", "hub1"], "issuerRef": {"name": "corp"}} | spec,
        }
    )


WANTED = from_resource(resource())
AUTHORITY = create_authority("Corp", NOW - DAY)


def secret(now: float = NOW) -> dict[str, dict[str, bytes]]:
    made = issue(AUTHORITY, WANTED, now)
    return {
        "post/transport-mail": {"tls.crt": made.chain_pem, "tls.key": made.key_pem, "ca.crt": AUTHORITY.trust_pem}
    }


def outcome(secrets: dict[str, dict[str, bytes]], state: IssuerState | None, now: float = NOW):
    return ensure([WANTED], secrets, MemoryStore(), now, {WANTED.source: state} if state else None)


def test_the_certificate_asks_for_everything_that_the_resource_says():
    document = certificate_document(
        resource(
            subject={"C": "KR", "S": "Seoul", "L": "Gangnam", "O": "Kbiz", "OU": ["Mail"], "CN": "mail"},
            privateKey={"algorithm": "RSA", "size": 3072, "rotation": "Never"},
            issuerRef={"name": "acme", "kind": "ClusterIssuer"},
            duration="48h",
            renewBefore="12h30m",
        )
    )
    (owner,) = document["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("TransportCertificate", "mail", "u-1")
    assert document["metadata"]["namespace"] == "post"
    assert document["spec"] == {
        "secretName": "transport-mail",
        "dnsNames": ["mail.example", "hub1"],
        "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
        "privateKey": {"algorithm": "RSA", "size": 3072, "encoding": "PKCS8", "rotationPolicy": "Never"},
        "duration": "48h0m0s",
        "renewBefore": "12h30m0s",
        "issuerRef": {"name": "acme", "kind": "ClusterIssuer", "group": "cert-manager.io"},
        "commonName": "mail",
        "subject": {
            "countries": ["KR"],
            "provinces": ["Seoul"],
            "localities": ["Gangnam"],
            "organizations": ["Kbiz"],
            "organizationalUnits": ["Mail"],
        },
    }


def test_domain_components_go_as_a_literal_subject():
    spec = certificate_document(resource(subject={"DC": ["kbiz", "net"], "O": "Kbiz"}))["spec"]
    assert spec["literalSubject"] == "CN=mail.example,O=Kbiz,DC=kbiz,DC=net"
    assert "subject" not in spec
    assert "commonName" not in spec


def test_several_units_go_as_a_literal_subject_for_the_order_that_cert_manager_would_lose():
    spec = certificate_document(resource(subject={"O": "Kbiz", "OU": ["Mail", "Hub"]}))["spec"]
    assert spec["literalSubject"] == "CN=mail.example,OU=Hub,OU=Mail,O=Kbiz"
    assert "subject" not in spec


@pytest.mark.parametrize(
    "earlier", [{"O": "Kbiz", "L": "Jung-gu"}, {"L": "Jung-gu"}, {"DC": ["kbiz"]}, {"CN": "mail"}]
)
def test_a_part_of_the_subject_that_is_no_longer_wanted_differs(earlier: dict[str, Any]):
    observed = certificate_document(resource(subject=earlier))
    assert differs(observed, certificate_document(resource(subject={"O": "Kbiz"})))
    assert differs(observed, certificate_document(resource()))
    assert not differs(observed, observed)


def test_a_renewal_shorter_than_cert_manager_takes_is_lengthened():
    assert certificate_document(resource(renewBefore="1m"))["spec"]["renewBefore"] == "5m0s"


def test_what_is_impossible_is_not_asked_for():
    with pytest.raises(CertificateError, match="at least one hour"):
        certificate_document(resource(duration="30m", renewBefore="10m"))


@given(st.integers(0, 10**9))
def test_durations_are_written_as_go_writes_them(seconds):
    text = go_duration(seconds)
    hours, _, rest = text.rpartition("h")
    minutes, _, last = rest.rpartition("m")
    assert int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(last[:-1]) == seconds
    assert int(minutes or 0) < 60 > int(last[:-1])


def test_what_others_fill_in_is_no_difference_and_what_they_change_is():
    wanted = certificate_document(resource())
    observed = certificate_document(resource())
    observed["spec"]["revisionHistoryLimit"] = 1
    observed["spec"]["privateKey"]["defaulted"] = "x"
    assert not differs(observed, wanted)
    observed["spec"]["dnsNames"].append("stranger.example")
    assert differs(observed, wanted)
    assert differs({}, wanted)


def observed(generation: int, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"generation": generation}, "status": {"conditions": list(conditions)}}


READY = {"type": "Ready", "status": "True", "observedGeneration": 2, "message": "up to date"}
NOT_READY = {"type": "Ready", "status": "False", "message": "Secret does not exist"}
FAILED = {"type": "Issuing", "status": "False", "reason": "Failed", "message": "order failed: rate limited"}


@pytest.mark.parametrize(
    ("document", "state"),
    [
        (observed(2, READY), IssuerState(ready=True)),
        (observed(3, READY), IssuerState(message="cert-manager has not looked at it yet")),
        (observed(1), IssuerState(message="cert-manager has not looked at it yet")),
        (observed(1, NOT_READY), IssuerState(message="Secret does not exist")),
        (observed(1, NOT_READY, FAILED), IssuerState(message="Secret does not exist; order failed: rate limited")),
        ({}, IssuerState(message="cert-manager has not looked at it yet")),
        ({"status": {"conditions": ["odd"]}}, IssuerState(message="cert-manager has not looked at it yet")),
    ],
)
def test_its_conditions_are_understood(document, state):
    assert issuer_state(document) == state


def test_its_request_tells_why_it_is_not_ready():
    document = observed(1, NOT_READY)
    why = 'Referenced "Issuer" not found: issuer.cert-manager.io "late" not found'
    request = {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Pending", "message": why}]}}
    assert issuer_state(document, request) == IssuerState(message=f"Secret does not exist; {why}")
    denied = {"status": {"conditions": [{"type": "Denied", "status": "True", "message": "denied by policy"}]}}
    assert issuer_state(document, denied).message.endswith("; denied by policy")


@pytest.mark.parametrize(("status", "name"), [({}, "transport-mail-1"), ({"revision": 3}, "transport-mail-4")])
def test_the_request_under_way_follows_the_last_issued(status: dict[str, int], name: str):
    assert request_name({"metadata": {"name": "transport-mail"}, "status": status}) == name


def test_until_it_is_ready_its_own_words_are_passed_on():
    result = outcome({}, IssuerState(message="order is pending"))
    assert result.pending[WANTED.source] == "spec.issuerRef: cert-manager: order is pending"
    assert result.problems == {}


def test_ready_before_its_secret_was_seen_is_pending():
    assert "waiting for Secret post/transport-mail" in outcome({}, IssuerState(ready=True)).pending[WANTED.source]


def test_what_it_issued_is_served_and_its_authority_trusted():
    result = outcome(secret(), IssuerState(ready=True))
    assert result.materials[WANTED.source].warnings == ()
    assert result.trust_pem == AUTHORITY.trust_pem


def test_what_it_issued_before_is_served_while_it_is_at_work_and_when_it_is_gone():
    working = outcome(secret(), IssuerState(message="renewing"))
    assert working.problems == working.pending == {}
    assert working.materials[WANTED.source].warnings == ("spec.issuerRef: cert-manager: renewing",)
    gone = outcome(secret(), IssuerState(refusal="not installed"))
    assert gone.problems == {WANTED.source: ("not installed",)}
    assert WANTED.source in gone.materials


def test_a_secret_that_does_not_fit_is_pending_while_at_work_and_refused_when_ready():
    mixed = secret()
    mixed["post/transport-mail"]["tls.key"] = issue(AUTHORITY, WANTED, NOW).key_pem
    assert outcome(mixed, IssuerState(message="working")).pending
    (problem,) = outcome(mixed, IssuerState(ready=True)).problems[WANTED.source]
    assert "does not belong" in problem


def test_without_a_cluster_it_is_refused_with_what_to_do():
    assert "use ca" in outcome(secret(), None).problems[WANTED.source][0]


def test_from_the_tiers_authority_to_cert_manager_there_is_no_gap():
    store = MemoryStore()
    issued = ensure([replace(WANTED, key_source=KeySource.CA, secret="")], {}, store, NOW)
    before = issued.materials[WANTED.source].chain_pem

    def change(secrets, state):
        return ensure([WANTED], secrets, store, NOW, {WANTED.source: state})

    waiting = change({}, IssuerState(message="order is pending"))
    assert waiting.materials[WANTED.source].chain_pem == before
    assert "order is pending" in waiting.materials[WANTED.source].warnings[0]
    assert waiting.trust_pem == issued.trust_pem
    refused = change({}, IssuerState(refusal="not installed"))
    assert refused.problems == {WANTED.source: ("not installed",)}
    assert refused.materials[WANTED.source].chain_pem == before
    ready = change(secret(), IssuerState(ready=True))
    assert ready.materials[WANTED.source].chain_pem != before
    # What its authority issued is trusted until its end; it is not served again.
    assert issued.trust_pem in ready.trust_pem
    renewing = change({}, IssuerState(message="renewing"))
    assert renewing.materials[WANTED.source].chain_pem == ready.materials[WANTED.source].chain_pem


def test_from_the_tiers_authority_to_a_secret_there_is_no_gap():
    store = MemoryStore()
    imported = replace(WANTED, key_source=KeySource.IMPORTED)
    before = ensure([replace(WANTED, key_source=KeySource.CA, secret="")], {}, store, NOW).materials[WANTED.source]
    missing = ensure([imported], {}, store, NOW)
    assert "does not exist" in missing.problems[WANTED.source][0]
    assert missing.materials[WANTED.source].chain_pem == before.chain_pem
    assert ensure([imported], secret(), store, NOW).problems == {}


@pytest.mark.parametrize("now_there", [{}, {"tls.crt": b"garbage", "tls.key": b"garbage"}], ids=["gone", "garbage"])
def test_what_a_secret_held_is_served_until_its_end_when_the_secret_breaks(now_there):
    store = MemoryStore()
    imported = replace(WANTED, key_source=KeySource.IMPORTED)
    held = ensure([imported], secret(), store, NOW).materials[WANTED.source]
    broken = {name: now_there for name in secret() if now_there}
    after = ensure([imported], broken, store, NOW)
    assert after.problems[WANTED.source]
    assert after.materials[WANTED.source].chain_pem == held.chain_pem
    assert after.materials[WANTED.source].key_pem == held.key_pem
    assert after.trust_pem == held.trust_pem
    end = held.leaf.not_valid_after_utc.timestamp()
    assert ensure([imported], broken, store, end + 1).materials == {}


def test_what_a_secret_held_is_forgotten_with_the_certificate_and_when_we_issue_it():
    store = MemoryStore()
    imported = replace(WANTED, key_source=KeySource.IMPORTED)
    ensure([imported], secret(), store, NOW)
    prune([WANTED.source], store)
    assert ensure([imported], {}, store, NOW).materials
    prune([], store)
    assert ensure([imported], {}, store, NOW).materials == {}
    ensure([imported], secret(), store, NOW)
    ensure([replace(WANTED, key_source=KeySource.CA, secret="")], {}, store, NOW)
    assert not [name for name in store.names() if name.endswith(PROVIDED_SUFFIX)]
