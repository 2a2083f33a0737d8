"""NTLM as server (MS-NLMP), against pyspnego's client and the examples of the specification."""

from __future__ import annotations

import pytest
import spnego
from hypothesis import given
from hypothesis import strategies as st
from spnego._ntlm_raw.crypto import ntowfv1, ntowfv2
from spnego.channel_bindings import GssChannelBindings

from postroad_transport.auth.accounts import Account
from postroad_transport.auth.exchange import Accepted, Channel, Rejected
from postroad_transport.auth.ntlm import Ntlm, parse_nt_accounts
from postroad_transport.auth.sasl import Challenge, SaslError

PASSWORD = "Pa:ssw0rd ü"
NT_HASH = ntowfv1(PASSWORD).hex()
ACCOUNTS = parse_nt_accounts(
    f"alice:{NT_HASH}:Alice@Mail.example, *@a.example\nCORP\\bob:{NT_HASH.upper()}\n"
    f"carol:1000:{'X' * 32}:{NT_HASH}:[U          ]:LCT-1589398321:\n".encode()
)
CHANNEL = Channel("192.0.2.1")


def client(username="alice", password=PASSWORD, **options):
    return spnego.client(username, password, protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm, **options)


async def run(peer, channel=CHANNEL, *, mic=False):
    exchange = Ntlm(ACCOUNTS, channel, "hub1.mail.example")
    assert await exchange.step(None) == Challenge(b"")
    challenge = await exchange.step(peer.step())
    assert isinstance(challenge, Challenge)
    if mic:
        assert not peer._requires_mech_list_mic  # asking makes it send one, as Windows does
    return await exchange.step(peer.step(challenge.data))


@pytest.mark.parametrize(
    ("username", "account"),
    [
        ("alice", Account("alice", ("alice@mail.example", "*@a.example"))),
        ("ALICE", Account("alice", ("alice@mail.example", "*@a.example"))),
        ("ANY\\alice", Account("alice", ("alice@mail.example", "*@a.example"))),
        ("CORP\\bob", Account("CORP\\bob")),
        ("corp\\BOB", Account("CORP\\bob")),
        ("carol", Account("carol")),
    ],
)
@pytest.mark.parametrize("mic", [False, True])
async def test_right_password_logs_in(username, account, mic):
    assert await run(client(username), mic=mic) == Accepted(account)


@pytest.mark.parametrize(
    ("username", "password"), [("alice", "wrong"), ("bob", PASSWORD), ("OTHER\\bob", PASSWORD), ("nobody", PASSWORD)]
)
async def test_wrong_password_domain_or_user_is_rejected(username, password):
    assert await run(client(username, password)) == Rejected(username.removeprefix("OTHER\\"))


async def test_a_new_domain_each_time_does_not_make_it_another_account_to_guess_at():
    rejected = [await run(client(f"D{number}\\Alice", "wrong")) for number in range(3)]
    assert rejected == [Rejected("alice")] * 3


@pytest.mark.parametrize("level", ["0", "1", "2"])
async def test_version_1_is_refused_even_with_the_right_password(monkeypatch, level):
    monkeypatch.setenv("LM_COMPAT_LEVEL", level)
    assert await run(client()) == Rejected("alice", "ntlmv1")


async def test_message_that_was_changed_on_the_way_is_noticed_by_its_mic():
    exchange, peer = Ntlm(ACCOUNTS, CHANNEL, "hub1.mail.example"), client()
    negotiate = bytearray(peer.step())
    negotiate[-1] ^= 1
    challenge = await exchange.step(bytes(negotiate))
    assert not peer._requires_mech_list_mic
    assert await exchange.step(peer.step(challenge.data)) == Rejected("alice", "mic")


@pytest.mark.parametrize(
    ("bound", "ours", "accepted"),
    [(b"x" * 32, b"x" * 32, True), (b"x" * 32, b"y" * 32, False), (b"x" * 32, None, False), (None, b"y" * 32, True)],
)
async def test_login_relayed_from_another_tls_channel_is_refused(bound, ours, accepted):
    bindings = bound and GssChannelBindings(application_data=b"tls-server-end-point:" + bound)
    answer = await run(client(channel_bindings=bindings), Channel("192.0.2.1", tls=True, binding=lambda _: ours))
    assert isinstance(answer, Accepted) == accepted
    assert accepted or answer.reason == "channel_binding"


def test_key_is_that_of_the_specification():
    # MS-NLMP 4.2.4.1.1: user "User", domain "Domain", password "Password".
    assert ntowfv2("User", ntowfv1("Password"), "Domain").hex() == "0c868a403bfd7a93a3001ef22ef02e3f"
    assert ntowfv1("Password").hex() == "a4f49c406510bdcab6824ee7c30fd852"


@given(st.binary(max_size=300), st.booleans())
async def test_no_message_breaks_the_parser(message, second):
    exchange = Ntlm(ACCOUNTS, CHANNEL, "hub1.mail.example")
    if second:
        await exchange.step(client().step())
    prefix = b"NTLMSSP\0" + (b"\3" if second else b"\1") + b"\0\0\0"
    for data in (message, prefix + message, prefix + message + bytes(80)):
        try:
            step = await exchange.step(data)
        except SaslError:
            continue
        assert isinstance(step, Challenge | Rejected)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("alice", "expected user:NTHASH"),
        ("alice:secret", "expected user:NTHASH"),
        (f":{NT_HASH}", "expected user:NTHASH"),
        (f"a:{NT_HASH}\nA:{NT_HASH}", "is there already"),
        (f"alice:{NT_HASH}:nowhere", "comma-separated"),
    ],
)
def test_line_that_cannot_be_used_is_named_without_its_hash(line, problem):
    accounts = parse_nt_accounts(line.encode())
    assert problem in accounts.problems[0]
    assert NT_HASH not in accounts.problems[0]
    assert "secret" not in accounts.problems[0]


def test_comments_and_empty_lines_are_no_problem():
    assert parse_nt_accounts(b"# users\n\n").problems == ()


def test_hashes_do_not_show():
    assert NT_HASH not in repr(ACCOUNTS.find("alice", ""))
    assert repr(bytes.fromhex(NT_HASH)) not in repr(ACCOUNTS.find("alice", ""))
