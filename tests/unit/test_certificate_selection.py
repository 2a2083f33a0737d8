"""spec.md section 3: which certificate STARTTLS presents."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.config import AuthMechanism, Certificate
from postroad_transport.policy.certificate import Selection, covers, names_served, reason, select, served_for

NOW = 1000.0
TLS = (AuthMechanism.TLS,)


def certificate(name: str = "c", **fields) -> Certificate:
    defaults = {
        "source": f"TransportCertificate/default/{name}",
        "thumbprint": name,
        "dns_names": ("mail.example.com",),
        "self_signed": False,
        "not_before": 0.0,
        "not_after": 2000.0,
        "chain_file": f"{name}.crt",
        "key_file": f"{name}.key",
    }
    return Certificate(name=name, **{**defaults, **fields})


@pytest.mark.parametrize(
    "mechanisms",
    [(), (AuthMechanism.NONE,), (AuthMechanism.BASIC_AUTH_REQUIRE_TLS, AuthMechanism.EXCHANGE_SERVER)],
)
def test_without_the_tls_mechanism_nothing_is_offered_and_nothing_is_raised(mechanisms):
    assert select("mail.example.com", [certificate()], mechanisms, now=NOW) == Selection(None, False, ())


@pytest.mark.parametrize(
    ("flaw", "fields"),
    [
        ("version 1", {"version": 1}),
        ("no private key", {"key_file": ""}),
        ("another name", {"dns_names": ("other.example.com",), "common_name": "other.example.com"}),
        ("only part of the name", {"dns_names": ("example.com",)}),
        ("wildcard two labels up", {"dns_names": ("*.com",)}),
        ("wildcard below the name", {"dns_names": ("*.mail.example.com",)}),
        ("not enabled for SMTP", {"services": ("IMAP", "POP")}),
        ("no service", {"services": ()}),
    ],
)
def test_an_ineligible_certificate_raises_12014_and_starttls_is_not_advertised(flaw, fields):
    flawed = certificate(**fields)
    assert select("mail.example.com", [flawed], TLS, now=NOW) == Selection(None, False, (12014,))


def test_an_empty_store_raises_12014():
    assert select("mail.example.com", [], TLS, now=NOW) == Selection(None, False, (12014,))


@pytest.mark.parametrize(
    "fields",
    [
        {"dns_names": ("first.example.com", "mail.example.com")},
        {"dns_names": (), "common_name": "mail.example.com"},
        {"dns_names": (), "common_name": "MAIL.Example.Com"},
        {"dns_names": ("*.example.com",)},
        {"services": ("IMAP", "SMTP")},
        {"version": 4},
    ],
)
def test_a_name_in_san_or_subject_makes_a_certificate_eligible(fields):
    good = certificate(**fields)
    assert select("mail.example.com", [good], TLS, now=NOW) == Selection(good, True, ())


def test_the_served_name_is_compared_without_case():
    good = certificate()
    assert select("Mail.EXAMPLE.com", [good], TLS, now=NOW).certificate == good


def test_a_short_server_name_is_served_when_the_san_lists_it():
    shared = certificate(dns_names=("mail.example.com", "hub1.example.com", "hub1"))
    assert select("hub1", [shared], TLS, now=NOW).certificate == shared


def test_the_newest_not_before_wins_even_over_a_later_expiry():
    old = certificate("old", not_before=10, not_after=9000)
    new = certificate("new", not_before=20, not_after=1500)
    assert select("mail.example.com", [old, new], TLS, now=NOW).certificate == new


def test_an_older_ca_issued_certificate_beats_a_newer_self_signed_one():
    issued = certificate("issued", not_before=10)
    own = certificate("own", not_before=20, self_signed=True)
    assert select("mail.example.com", [own, issued], TLS, now=NOW).certificate == issued


def test_the_newest_self_signed_is_used_when_no_ca_issued_fits():
    first = certificate("first", not_before=10, self_signed=True)
    second = certificate("second", not_before=20, self_signed=True)
    elsewhere = certificate("elsewhere", not_before=30, dns_names=("other.example.com",))
    assert select("mail.example.com", [first, elsewhere, second], TLS, now=NOW).certificate == second


def test_an_expired_choice_raises_12016_and_starttls_is_still_advertised():
    expired = certificate(not_after=NOW - 1)
    assert select("mail.example.com", [expired], TLS, now=NOW) == Selection(expired, True, (12016,))


def test_expiry_is_looked_at_only_after_the_choice():
    expired = certificate("issued", not_before=10, not_after=NOW - 1)
    valid = certificate("own", not_before=20, self_signed=True)
    assert select("mail.example.com", [expired, valid], TLS, now=NOW) == Selection(expired, True, (12016,))


def test_a_certificate_is_good_up_to_its_last_second():
    last = certificate(not_after=NOW)
    assert select("mail.example.com", [last], TLS, now=NOW).events == ()


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("mail.example.com", "mail.example.com.", True),
        ("*.example.com", "MAIL.example.COM", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "a.b.example.com", False),
        ("m*.example.com", "mail.example.com", False),
        ("*", "mail", False),
        ("*.example.com", "*.example.com", False),
        ("", "", False),
        ("", "mail", False),
    ],
)
def test_certificate_names_cover_one_whole_label(pattern, name, expected):
    assert covers(pattern, name) is expected


NAMES = ("mail.example.com", "hub1.example.com", "example.com", "hub1", "a.b.example.com")
PATTERNS = (*NAMES, "*.example.com", "*.com", "MAIL.example.com")
certificates = st.builds(
    certificate,
    st.sampled_from("abcdefgh"),
    dns_names=st.lists(st.sampled_from(PATTERNS), max_size=3).map(tuple),
    common_name=st.sampled_from(("", *PATTERNS)),
    services=st.sampled_from(((), ("SMTP",), ("IMAP",), ("POP", "SMTP"))),
    self_signed=st.booleans(),
    version=st.sampled_from((1, 3)),
    not_before=st.sampled_from((0.0, 10.0, 20.0)),
    not_after=st.sampled_from((500.0, 1500.0)),
    key_file=st.sampled_from(("", "key")),
    key_algorithm=st.sampled_from(("", "RSA", "ECDSA")),
)


def oracle(name: str, store: list[Certificate]) -> tuple[bool, float] | None:
    """The rules as prose, without a tie-break: (self-signed, not before) of the winner."""

    def fits(pattern: str) -> bool:
        wanted, given = name.lower().split("."), pattern.lower().split(".")
        if given[0] == "*" and len(given) > 1:
            return len(wanted) == len(given) and wanted[1:] == given[1:]
        return wanted == given

    left = [c for c in store if c.version >= 3 and c.key_file and "SMTP" in c.services]
    left = [c for c in left if any(fits(p) for p in (c.common_name, *c.dns_names) if p)]
    for wanted in (False, True):
        kind = [c for c in left if c.self_signed is wanted]
        if kind:
            return wanted, max(c.not_before for c in kind)
    return None


@given(st.sampled_from(NAMES), st.lists(certificates, max_size=8), st.integers())
def test_selection_agrees_with_the_rules_read_aloud_and_not_with_the_stores_order(name, store, seed):
    chosen, advertise, events, _ = select(name, store, TLS, now=NOW)
    expected = oracle(name, store)
    if expected is None:
        assert (chosen, advertise, events) == (None, False, (12014,))
        return
    assert advertise
    assert (chosen.self_signed, chosen.not_before) == expected
    assert events == ((12016,) if chosen.not_after < NOW else ())
    shuffled = random.Random(seed).sample(store, len(store))
    again = select(name, shuffled, TLS, now=NOW)
    assert (again.certificate.thumbprint, again.events) == (chosen.thumbprint, events)


@pytest.mark.parametrize(
    ("certificates", "mechanisms", "said"),
    [
        ([certificate()], (), "authMechanisms holds no TLS: STARTTLS is not offered"),
        ([], TLS, "no certificate for SMTP holds mail.example.com: STARTTLS is not offered (event 12014)"),
        ([certificate()], TLS, "the only one that holds mail.example.com; CA-issued"),
        ([certificate(self_signed=True)], TLS, "the only one that holds mail.example.com; self-signed"),
        (
            [certificate(), certificate("s", self_signed=True, not_before=9.0)],
            TLS,
            "the only CA-issued one of 2 that hold mail.example.com",
        ),
        (
            [certificate(), certificate("n", not_before=9.0)],
            TLS,
            "the newest CA-issued one of 2 that hold mail.example.com",
        ),
        (
            [certificate(self_signed=True), certificate("n", self_signed=True)],
            TLS,
            "the newest of 2 that hold mail.example.com; none is CA-issued",
        ),
        (
            [certificate(not_after=1.0)],
            TLS,
            "the only one that holds mail.example.com; CA-issued; expired (event 12016)",
        ),
    ],
)
def test_the_choice_is_explained_in_a_sentence(certificates, mechanisms, said):
    assert reason("mail.example.com", certificates, mechanisms, now=NOW) == said


def kinds(*items: tuple[str, str], **fields) -> list[Certificate]:
    return [certificate(name, key_algorithm=kind, **fields) for name, kind in items]


def test_beside_the_choice_stands_the_best_of_each_other_kind_of_key():
    rsa = certificate("rsa", key_algorithm="RSA", not_before=30)
    older = certificate("older", key_algorithm="RSA", not_before=25)
    ecdsa = certificate("ecdsa", key_algorithm="ECDSA", not_before=20)
    oldest = certificate("oldest", key_algorithm="ECDSA", not_before=10)
    edwards = certificate("edwards", key_algorithm="Ed25519", not_before=5)
    chosen = select("mail.example.com", [oldest, edwards, older, ecdsa, rsa], TLS, now=NOW)
    assert chosen == Selection(rsa, True, (), (ecdsa, edwards))
    assert chosen.presented == (rsa, ecdsa, edwards)


@pytest.mark.parametrize(
    ("flaw", "fields"),
    [
        ("the same kind", {"key_algorithm": "RSA"}),
        ("a kind nobody knows", {"key_algorithm": ""}),
        ("self-signed", {"self_signed": True}),
        ("expired", {"not_after": NOW - 1}),
        ("not valid yet", {"not_before": NOW + 1}),
        ("another name", {"dns_names": ("other.example.com",)}),
        ("no key", {"key_file": ""}),
        ("another service", {"services": ("IMAP",)}),
    ],
)
def test_nothing_worth_less_stands_beside_a_ca_issued_choice(flaw, fields):
    choice = certificate("choice", key_algorithm="RSA", not_before=NOW)
    other = certificate("other", **{"key_algorithm": "ECDSA", "not_before": 1.0, **fields})
    selection = select("mail.example.com", [choice, other], TLS, now=NOW)
    if flaw == "not valid yet":
        # The newest is the choice, valid or not: the one before stands beside it.
        assert selection == Selection(other, True, (), (choice,))
    else:
        assert selection == Selection(choice, True, ())


def test_a_choice_of_unknown_kind_stands_alone():
    assert select("mail.example.com", [certificate("c"), *kinds(("rsa", "RSA"))], TLS, now=NOW).beside == ()


def test_self_signed_certificates_stand_beside_a_self_signed_choice():
    both = kinds(("a", "ECDSA"), ("b", "RSA"), self_signed=True)
    assert select("mail.example.com", both, TLS, now=NOW).presented == tuple(both)


def test_an_expired_choice_raises_its_event_beside_a_valid_one():
    expired = certificate("a", key_algorithm="ECDSA", not_before=20, not_after=NOW - 1)
    valid = certificate("b", key_algorithm="RSA", not_before=10)
    assert select("mail.example.com", [expired, valid], TLS, now=NOW) == Selection(expired, True, (12016,), (valid,))


def test_the_sentence_names_what_stands_beside_the_choice():
    said = reason("mail.example.com", kinds(("a", "ECDSA"), ("b", "RSA")), TLS, now=NOW)
    assert said == (
        "the newest CA-issued one of 2 that hold mail.example.com; ECDSA, with b (RSA) beside it for clients that"
        " take the other kind of key"
    )


@given(st.sampled_from(NAMES), st.lists(certificates, max_size=8))
def test_a_name_that_is_asked_gets_what_a_connector_of_that_name_would(name, store):
    expected = select(name, store, TLS, now=NOW)
    found = served_for(name, names_served(store, now=NOW))
    assert (found or Selection(None, False, (12014,))) == expected
    assert served_for(name.upper() + ".", names_served(store, now=NOW)) == found


@pytest.mark.parametrize("name", ["", ".", "*.example.com", "nothing", "..", "a..b", "\ufffd"])
def test_a_strange_name_gets_what_everybody_gets(name):
    assert served_for(name, names_served([certificate()], now=NOW)) is None
