"""Tokens: when keys are fetched, what claims say, what a TokenReview says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.claims import account, is_claimed, scopes
from postroad_transport.auth.jwks import KEEP, MAX_KEYS, PAUSE, REFRESH, Step, decide, read_keys
from postroad_transport.auth.oauth2 import is_safe_url, peek
from postroad_transport.auth.service_accounts import allowed, is_candidate
from postroad_transport.auth.token_review import ApiServer, reviewed_user
from postroad_transport.config.directories import OAuth2, ServiceAccount, ServiceAccounts

TIMES = st.none() | st.floats(0, 2 * KEEP)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def config(**fields) -> OAuth2:
    return OAuth2(
        issuer="https://id.example", audiences=("mail",), algorithms=("RS256",), **{"account_claim": "sub"} | fields
    )


@given(TIMES, TIMES, st.booleans(), st.booleans())
def test_keys_that_are_fetched_rarely_are_never_too_old(fetched, tried, failing, known) -> None:
    now = 2 * KEEP
    step = decide(now, fetched=fetched, tried=tried, failing=failing, known=known)
    old = fetched is None or now - fetched >= KEEP
    resting = tried is not None and now - tried < PAUSE
    if step in (Step.USE, Step.USE_AND_RENEW):
        assert not old
    if step is Step.USE_AND_RENEW:
        assert now - fetched >= REFRESH
    if resting and not old:
        assert step is not Step.FETCH
    if step is Step.UNAVAILABLE:
        assert failing
        assert resting


def test_an_unknown_key_is_fetched_for_once_and_then_taken_to_be_none() -> None:
    fresh = {"fetched": 0.0, "failing": False, "known": False}
    assert decide(PAUSE, tried=0.0, **fresh) is Step.FETCH
    assert decide(PAUSE - 1, tried=0.0, **fresh) is Step.USE


@given(JSON)
def test_any_key_set_is_read_or_refused(document) -> None:
    if not isinstance(document, dict):
        document = {"keys": document}
    try:
        keys = read_keys(document)
    except AuthUnavailableError:
        assert not isinstance(document.get("keys"), list)
        return
    assert len(keys) <= MAX_KEYS
    for key in keys:
        assert key.using("RS256") is None


@given(
    st.text(max_size=200)
    | st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}", fullmatch=True)
)
def test_anything_can_be_peeked_into(token: str) -> None:
    seen = peek(token)
    assert seen is None or all(isinstance(part, dict) for part in seen)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"sub": "alice", "email": "A@x.example"}, ("a@x.example",)),
        ({"sub": "alice", "email": "a@x.example", "email_verified": True}, ("a@x.example",)),
        ({"sub": "alice", "email": "a@x.example", "email_verified": False}, ()),
        ({"sub": "alice", "email": "a@x.example", "email_verified": "true"}, ()),
        ({"sub": "alice", "email": ["a@x.example", 1, "b@x.example"]}, ("a@x.example", "b@x.example")),
        ({"sub": "alice", "email": "*@x.example"}, ()),
        ({"sub": "alice"}, ()),
    ],
)
def test_a_claim_says_what_the_user_may_send_as(claims, expected) -> None:
    assert account(claims, config(addresses_claim="email")) == Account("alice", expected, owns_name=False)


@pytest.mark.parametrize("verified", [False, "true", None])
def test_an_address_that_was_not_verified_names_no_account(verified) -> None:
    claims = {"sub": "x", "email": "ceo@x.example", "email_verified": verified}
    assert account(claims, config(account_claim="email", address_template="{account}")) is None
    assert account(claims | {"email_verified": True}, config(account_claim="email")) is not None


@pytest.mark.parametrize("name", ["system:serviceaccount:prod:billing", "System:ServiceAccount:a:b", "x" * 257, ""])
def test_an_issuer_cannot_name_an_account_what_is_not_its_to_give(name) -> None:
    assert account({"sub": name}, config()) is None


def test_an_address_can_be_made_of_the_name() -> None:
    assert account({"sub": "Alice"}, config(address_template="{account}@x.example")).addresses == ("alice@x.example",)
    assert account({"sub": "a@b"}, config(address_template="{account}@x.example")).addresses == ("a@b@x.example",)
    assert account({"sub": "*"}, config(address_template="{account}@x.example")).addresses == ()


@given(st.dictionaries(st.sampled_from(["sub", "email", "scope", "scp", "email_verified"]), JSON))
def test_any_claims_make_an_account_with_a_name_or_none(claims) -> None:
    made = account(claims, config(addresses_claim="email", address_template="{account}@x.example"))
    assert made is None or (made.name == claims["sub"] and made.name.isprintable())


def test_scopes_are_read_in_every_form() -> None:
    assert scopes({"scope": "a b", "scp": ["c", "d e"]}) == {"a", "b", "c", "d", "e"}
    assert account({"sub": "x", "scope": "a"}, config(required_scopes=("a", "b"))) is None
    assert account({"sub": "x", "scope": "b a"}, config(required_scopes=("a", "b"))) is not None


def test_a_user_may_be_claimed_by_name_or_address_or_not_at_all() -> None:
    alice = Account("Alice", ("alice@x.example",))
    assert [is_claimed(name, alice) for name in ("", "ALICE", "Alice@x.example", "bob", "alice@")] == [
        *(True, True, True),
        *(False, False),
    ]


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://id.example/keys", True),
        ("http://127.0.0.1:8080/keys", True),
        ("http://[::1]/keys", True),
        ("http://localhost/keys", True),
        ("http://id.example/keys", False),
        ("http://localhost@id.example/keys", False),
        ("https://user@id.example/keys", False),
        ("file:///etc/passwd", False),
        ("https://", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_keys_come_over_tls_or_from_this_machine(url: str, safe: bool) -> None:
    assert is_safe_url(url) is safe


NOW = 1000.0
CLAIMS = {"sub": "system:serviceaccount:shop:orders", "aud": ["mail"], "exp": 2000}


@pytest.mark.parametrize(
    ("change", "worth"),
    [
        ({}, True),
        ({"aud": "mail"}, True),
        ({"aud": ["other"]}, False),
        ({"aud": None}, False),
        ({"sub": "alice"}, False),
        ({"sub": 1}, False),
        ({"exp": 1000}, False),
        ({"exp": "2000"}, False),
        ({"exp": float("nan")}, False),
    ],
)
def test_only_a_current_token_of_a_service_account_for_us_is_worth_a_review(change, worth) -> None:
    assert is_candidate(CLAIMS | change, "mail", NOW) is worth


def review(**status) -> dict:
    return {"status": {"authenticated": True, "user": {"username": CLAIMS["sub"]}, "audiences": ["mail"]} | status}


@pytest.mark.parametrize(
    ("answer", "user"),
    [
        (review(), CLAIMS["sub"]),
        (review(authenticated=False), ""),
        (review(authenticated="true"), ""),
        (review(audiences=[]), ""),
        (review(audiences=None), ""),
        (review(audiences=["other"]), ""),
        (review(user=None), ""),
        (review(user={"username": 1}), ""),
    ],
)
def test_a_review_without_our_audience_is_no_proof(answer, user) -> None:
    assert reviewed_user(answer, "mail") == user


@given(st.dictionaries(st.sampled_from(["status", "x"]), JSON))
def test_any_other_answer_proves_nothing(answer) -> None:
    if isinstance(answer.get("status"), dict):
        assert reviewed_user(answer, "mail") == ""
    else:
        with pytest.raises(AuthUnavailableError):
            reviewed_user(answer, "mail")


def test_entries_about_a_service_account_add_up_and_others_do_not_count() -> None:
    entries = (
        ServiceAccount(namespace="shop", name="orders", addresses=("a@x.example", "b@x.example")),
        ServiceAccount(namespace="shop", addresses=("b@x.example", "*@shop.example")),
        ServiceAccount(namespace="shop", name="order", addresses=("c@x.example",)),
        ServiceAccount(namespace="sho", name="p:orders", addresses=("d@x.example",)),
    )
    rules = ServiceAccounts(audience="mail", allow=entries)
    assert allowed(CLAIMS["sub"], rules) == Account(CLAIMS["sub"], ("a@x.example", "b@x.example", "*@shop.example"))
    assert allowed("system:serviceaccount:elsewhere:orders", rules) is None
    assert allowed("", rules) is None


def test_the_api_server_is_where_the_kubelet_says() -> None:
    assert ApiServer.of_pod({}) is None
    found = ApiServer.of_pod({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"})
    assert found.url == "https://[fd00::1]:443"
    assert str(found.token_file) == "/var/run/secrets/kubernetes.io/serviceaccount/token"
