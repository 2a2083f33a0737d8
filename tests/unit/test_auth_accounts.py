"""Accounts from htpasswd lines, and how passwords are verified."""

from __future__ import annotations

import asyncio
import threading

import argon2
import bcrypt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad_transport.auth.accounts import Account, AuthUnavailableError, parse_accounts
from postroad_transport.auth.password_verifier import PasswordVerifier
from postroad_transport.auth.passwords import HashFormatError, check_format, check_password, decoy

ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")
BCRYPT = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
BCRYPT_2Y = BCRYPT.replace("$2b$", "$2y$")


@pytest.fixture
async def verifier():
    verifier = PasswordVerifier(threads=2)
    yield verifier
    await verifier.close()


class Checks:
    """Stands in for the hash function: counts, and waits until told to go on."""

    def __init__(self, answer: bool = True) -> None:
        self.answer = answer
        self.asked: list[tuple[str, bytes]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, encoded: str, password: bytes) -> bool:
        self.asked.append((encoded, password))
        assert self.go_on.wait(10)
        return self.answer


@pytest.mark.parametrize("encoded", [ARGON2, BCRYPT, BCRYPT_2Y], ids=["argon2id", "bcrypt 2b", "bcrypt 2y"])
async def test_the_right_password_gives_the_account_and_a_wrong_one_does_not(encoded, verifier):
    accounts = parse_accounts(f"kim:{encoded}:kim@example.com, *@Sales.example\n".encode(), verifier=verifier)
    assert accounts.problems == ()
    assert await accounts.verify("kim", "secret") == Account("kim", ("kim@example.com", "*@sales.example"))
    assert await accounts.verify("kim", "Secret") is None
    assert await accounts.verify("Kim", "secret") is None
    assert await accounts.verify("nobody", "secret") is None


def test_comments_blank_lines_and_crlf_are_skipped():
    accounts = parse_accounts(f"# staff\r\n\r\n  \nkim:{BCRYPT}\r\n".encode())
    assert (len(accounts), accounts.problems) == (1, ())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("kim", "expected user:hash"),
        (f":{BCRYPT}", "user name is empty"),
        ("kim:secret", "not a password hash"),
        ("kim:", "not a password hash"),
        ("kim:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "too weak or not supported"),
        ("kim:$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00", "too weak or not supported"),
        ("kim:$6$salt$hash", "too weak or not supported"),
        (f"kim:{BCRYPT[:-1]}", "damaged"),
        (f"kim:{BCRYPT.replace('$04$', '$31$')}", "bcrypt cost"),
        (f"kim:{ARGON2[:-1]}!", "damaged"),
        (f"kim:{ARGON2.replace('m=8,', 'm=99999999,')}", "argon2 cost is too high"),
        (f"kim:{ARGON2.replace('m=8,', 'm=1,')}", "argon2 parameters"),
        (f"kim:{BCRYPT}:not-an-address", "is not an address"),
    ],
    # The hashes are salted: without ids, every process would name the cases differently.
    ids=[
        "no colon",
        "no name",
        "clear text",
        "no hash",
        "sha1",
        "apr1",
        "sha512-crypt",
        "short bcrypt",
        "bcrypt cost",
        "damaged argon2",
        "argon2 memory",
        "argon2 parameters",
        "address",
    ],
)
def test_a_bad_line_is_left_out_with_a_reason_that_does_not_quote_the_hash(line, reason):
    accounts = parse_accounts(f"lee:{BCRYPT}\n{line}\n".encode())
    assert len(accounts) == 1
    (problem,) = accounts.problems
    assert problem.startswith("line 2: ")
    assert reason in problem
    secret = line.partition(":")[2].split(":")[0]
    assert not secret or secret not in problem


def test_bytes_that_are_not_utf8_are_a_problem_of_their_line_only():
    accounts = parse_accounts(b"k\xffm:x\nlee:" + BCRYPT.encode())
    assert (len(accounts), accounts.problems) == (1, ("line 1: not UTF-8",))


async def test_of_two_lines_for_one_user_the_first_counts(verifier):
    other = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
    accounts = parse_accounts(f"kim:{BCRYPT}\nkim:{other}".encode(), verifier=verifier)
    assert accounts.problems == ("line 2: user 'kim' is there already; the first line counts",)
    assert await accounts.verify("kim", "secret")
    assert not await accounts.verify("kim", "other")


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(data):
    accounts = parse_accounts(data)
    lines = [line for line in data.split(b"\n") if line.strip()]
    assert len(accounts) + len(accounts.problems) <= len(lines)


@pytest.mark.parametrize("encoded", [ARGON2, BCRYPT, ""], ids=["argon2", "bcrypt", "no account"])
def test_a_decoy_has_the_same_cost_parameters_and_matches_no_password(encoded):
    fake = decoy(encoded)
    assert fake != decoy(encoded)
    if encoded:
        assert check_format(fake) == check_format(encoded)
        assert len(fake) == len(encoded)
    assert check_password(fake, b"secret") is False


async def test_an_unknown_user_costs_a_check_with_the_parameters_most_accounts_have():
    checks = Checks(answer=False)
    verifier = PasswordVerifier(check=checks)
    lines = f"a:{ARGON2}\nb:{BCRYPT}\nc:{BCRYPT_2Y}\nd:{BCRYPT}\n"
    accounts = parse_accounts(lines.encode(), verifier=verifier)
    assert await accounts.verify("nobody", "secret") is None
    ((encoded, password),) = checks.asked
    assert check_format(encoded) == "$2b$04$"
    assert encoded not in lines
    assert password == b"secret"
    await verifier.close()


async def test_an_unknown_user_stays_unknown_even_if_the_decoy_matched():
    verifier = PasswordVerifier(check=Checks(answer=True))
    assert await parse_accounts(b"", verifier=verifier).verify("nobody", "x") is None
    await verifier.close()


async def test_a_right_password_is_remembered_for_a_minute_and_a_wrong_one_never():
    now = [100.0]
    checks = Checks()
    verifier = PasswordVerifier(clock=lambda: now[0], check=checks)
    assert await verifier.verify("kim", "secret", ARGON2)
    assert await verifier.verify("kim", "secret", ARGON2)
    assert len(checks.asked) == 1
    now[0] += 61
    assert await verifier.verify("kim", "secret", ARGON2)
    assert len(checks.asked) == 2
    checks.answer = False
    assert not await verifier.verify("kim", "wrong", ARGON2)
    assert not await verifier.verify("kim", "wrong", ARGON2)
    assert len(checks.asked) == 4
    await verifier.close()


async def test_what_is_remembered_belongs_to_user_password_and_hash():
    checks = Checks()
    verifier = PasswordVerifier(check=checks)
    for question in [("kim", "secret", ARGON2), ("kims", "ecret", ARGON2), ("kim", "secret", BCRYPT)]:
        assert await verifier.verify(*question)
    assert len(checks.asked) == 3
    await verifier.close()


async def test_memory_of_passwords_is_bounded(monkeypatch):
    monkeypatch.setattr("postroad_transport.auth.password_verifier.REMEMBER_ENTRIES", 3)
    checks = Checks()
    verifier = PasswordVerifier(check=checks)
    for number in range(10):
        await verifier.verify(f"user{number}", "secret", ARGON2)
    assert len(verifier._recent) <= 3
    await verifier.verify("user9", "secret", ARGON2)
    assert len(checks.asked) == 10
    await verifier.close()


async def test_equal_questions_at_once_are_checked_once_and_survive_a_lost_session():
    checks = Checks()
    checks.go_on.clear()
    verifier = PasswordVerifier(threads=1, check=checks)
    tasks = [asyncio.create_task(verifier.verify("kim", "secret", ARGON2)) for _ in range(20)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    checks.go_on.set()
    assert await asyncio.gather(*tasks[1:]) == [True] * 19
    assert tasks[0].cancelled()
    assert len(checks.asked) == 1
    await verifier.close()


async def test_too_many_waiting_checks_are_a_transient_fault_and_pass():
    checks = Checks(answer=False)
    checks.go_on.clear()
    verifier = PasswordVerifier(threads=1, max_pending=2, check=checks)
    waiting = [asyncio.create_task(verifier.verify(name, "secret", ARGON2)) for name in ("a", "b")]
    await asyncio.sleep(0)
    with pytest.raises(AuthUnavailableError):
        await verifier.verify("c", "secret", ARGON2)
    checks.go_on.set()
    assert await asyncio.gather(*waiting) == [False, False]
    assert await verifier.verify("c", "secret", ARGON2) is False
    await verifier.close()


async def test_a_failing_check_is_a_transient_fault_and_is_not_remembered():
    def broken(encoded: str, password: bytes) -> bool:
        raise AuthUnavailableError("no memory")

    verifier = PasswordVerifier(check=broken)
    for _ in range(2):
        with pytest.raises(AuthUnavailableError):
            await verifier.verify("kim", "secret", ARGON2)
    await verifier.close()


async def test_verifying_does_not_hold_up_the_event_loop():
    checks = Checks()
    checks.go_on.clear()
    verifier = PasswordVerifier(check=checks)
    login = asyncio.create_task(verifier.verify("kim", "secret", ARGON2))
    await asyncio.sleep(0.01)
    assert not login.done()
    checks.go_on.set()
    assert await login
    await verifier.close()


def test_bcrypt_looks_at_72_octets_as_the_tools_that_make_hashes_do():
    encoded = bcrypt.hashpw(b"p" * 72, bcrypt.gensalt(4)).decode()
    assert check_password(encoded, b"p" * 100)


@pytest.mark.parametrize("text", ["", "$", "$2b$", "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAB"])
def test_other_texts_are_no_hashes(text):
    with pytest.raises(HashFormatError):
        check_format(text)
