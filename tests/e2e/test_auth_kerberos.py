"""GSSAPI (RFC 4752) against a real KDC: Debian's krb5-kdc, with MIT Kerberos' own client."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from kdc_kit import Client, needs_kdc, running_realm

from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.exchange import Accepted, Rejected
from postroad_transport.auth.kerberos import Gssapi, KerberosService
from postroad_transport.auth.sasl import Challenge, SaslError

pytestmark = needs_kdc
HOST = "smtp/mail.example.test"


@pytest.fixture(scope="module")
def realm(tmp_path_factory):
    with running_realm(tmp_path_factory.mktemp("kdc")) as made:
        made.add("alice", "secret")
        made.add("bob/admin", "secret")
        made.add(HOST)
        made.add("HTTP/mail.example.test")
        with made.in_process():
            yield made


@pytest.fixture
async def service(realm):
    made = KerberosService(realm.keytab(HOST, name="smtp.keytab").read_bytes())
    yield made
    await made.close()


async def run(exchange: Gssapi, client: Client, choice: bytes = b"\x01\x00\x00\x00", sent: list[bytes] | None = None):
    step = await exchange.step(None)
    while isinstance(step, Challenge):
        response = client.answer(step.data, choice)
        if sent is not None:
            sent.append(response)
        step = await exchange.step(response)
    return step


async def test_ticket_for_the_service_logs_in_as_the_principal_without_its_realm(realm, service):
    cache = realm.log_in("alice", "secret")
    assert await run(Gssapi(service), Client(cache, HOST, realm.name)) == Accepted(Account("alice"))


@pytest.mark.parametrize(
    ("identity", "accepted"), [(b"alice", True), (b"alice@EXAMPLE.TEST", True), (b"bob", False), (b"\xff", False)]
)
async def test_nobody_acts_as_somebody_else(realm, service, identity, accepted):
    client = Client(realm.log_in("alice", "secret"), HOST, realm.name)
    answer = await run(Gssapi(service), client, b"\x01\x00\x00\x00" + identity)
    assert answer == (
        Accepted(Account("alice")) if accepted else Rejected("alice@EXAMPLE.TEST", "authorization_identity")
    )


async def test_principals_with_an_instance_keep_it(realm, service):
    client = Client(realm.log_in("bob/admin", "secret"), HOST, realm.name)
    assert await run(Gssapi(service), client) == Accepted(Account("bob/admin"))


async def test_only_principals_of_the_listed_realms_are_accounts(realm):
    strict = KerberosService(realm.keytab(HOST, name="strict.keytab").read_bytes(), ["OTHER.TEST"])
    client = Client(realm.log_in("alice", "secret"), HOST, realm.name)
    assert await run(Gssapi(strict), client) == Rejected("alice@EXAMPLE.TEST", "realm")
    await strict.close()


@pytest.mark.parametrize(
    ("client", "service", "account"),
    [
        ("alice@A.TEST", "smtp/h@A.TEST", "alice"),
        ("alice@B.TEST", "smtp/h@A.TEST", None),
        ("al\\@ice@A.TEST", "smtp/h@A.TEST", None),
        ("a\\/b@A.TEST", "smtp/h@A.TEST", None),
        ("@A.TEST", "smtp/h@A.TEST", None),
        ("WELLKNOWN/ANONYMOUS@WELLKNOWN:ANONYMOUS", "smtp/h@A.TEST", None),
    ],
)
async def test_strangers_have_no_account(realm, client, service, account):
    kerberos = KerberosService(b"")
    assert kerberos.account(client, service) == account
    await kerberos.close()


async def test_a_ticket_for_another_service_of_the_host_is_not_taken(realm):
    both = KerberosService(realm.keytab(HOST, "HTTP/mail.example.test", name="both.keytab").read_bytes())
    client = Client(realm.log_in("alice", "secret"), "HTTP/mail.example.test", realm.name)
    assert await run(Gssapi(both), client) == Rejected("alice@EXAMPLE.TEST", "wrong_service")
    servers = Gssapi(both, servers={"alice@EXAMPLE.TEST"})
    client = Client(realm.log_in("alice", "secret"), "HTTP/mail.example.test", realm.name)
    assert await run(servers, client) == Rejected("alice@EXAMPLE.TEST", "wrong_service")
    await both.close()


async def test_a_listed_server_keeps_its_realm_and_acts_as_nobody_else(realm, service):
    listed = {"alice@EXAMPLE.TEST"}
    for identity, accepted in ((b"", True), (b"alice@EXAMPLE.TEST", True), (b"alice", False), (b"bob", False)):
        client = Client(realm.log_in("alice", "secret"), HOST, realm.name)
        answer = await run(Gssapi(service, servers=listed), client, b"\x01\x00\x00\x00" + identity)
        assert isinstance(answer, Accepted) == accepted
        name = answer.account.name if accepted else answer.username
        assert name == "alice@EXAMPLE.TEST"


@pytest.mark.parametrize("tls", [True, False])
async def test_a_client_that_does_not_ask_the_server_to_prove_itself_is_taken_under_tls_only(realm, service, tls):
    client = Client(realm.log_in("alice", "secret"), HOST, realm.name, mutual=False)
    answer = await run(Gssapi(service, tls=tls), client)
    assert answer == (Accepted(Account("alice")) if tls else Rejected("alice@EXAMPLE.TEST", "not_mutual"))


async def test_a_security_layer_is_never_agreed_to(realm, service):
    client = Client(realm.log_in("alice", "secret"), HOST, realm.name)
    answer = await run(Gssapi(service), client, b"\x04\x00\x10\x00")
    assert answer == Rejected("alice@EXAMPLE.TEST", "security_layer")


async def test_a_recorded_exchange_is_of_no_use(realm, service):
    sent: list[bytes] = []
    assert isinstance(
        await run(Gssapi(service), Client(realm.log_in("alice", "secret"), HOST, realm.name), sent=sent), Accepted
    )
    replayed = Gssapi(service)
    step = None
    for response in sent:
        step = await replayed.step(response)
        if isinstance(step, Rejected):
            break
    assert isinstance(step, Rejected)


async def test_rotated_keys_are_named_in_the_reason(realm):
    realm.add("smtp/old.example.test")
    keytab = realm.keytab("smtp/old.example.test", name="old.keytab")
    realm.keytab("smtp/old.example.test", name="new.keytab", norandkey=False)
    service = KerberosService(keytab.read_bytes())
    client = Client(realm.log_in("alice", "secret"), "smtp/old.example.test", realm.name)
    answer = await run(Gssapi(service), client)
    assert answer == Rejected("", "key_version")
    await service.close()


@pytest.mark.parametrize("token", [b"", b"x", b"\x60\x82", os.urandom(2000)])
async def test_garbage_is_refused(realm, service, token):
    assert isinstance(await Gssapi(service).step(token), Rejected)


async def test_garbage_after_the_context_is_refused(realm, service):
    exchange, client = Gssapi(service), Client(realm.log_in("alice", "secret"), HOST, realm.name)
    step = await exchange.step(client.answer(b""))
    assert isinstance(step, Challenge)
    client.answer(step.data)
    with pytest.raises(SaslError):
        await exchange.step(b"more")


@pytest.mark.parametrize("content", [b"", b"no keytab"])
async def test_a_keytab_that_is_none_is_a_fault_of_ours(realm, content):
    service = KerberosService(content)
    client = Client(realm.log_in("alice", "secret"), HOST, realm.name)
    with pytest.raises(AuthUnavailableError):
        await run(Gssapi(service), client)
    await service.close()


async def test_a_stuck_library_hangs_nobody(realm, service, monkeypatch):
    monkeypatch.setattr("postroad_transport.auth.kerberos.STEP_SECONDS", 0.05)
    released = threading.Event()
    try:
        with pytest.raises(AuthUnavailableError):
            await service.call(released.wait)
    finally:
        released.set()


async def test_more_than_can_wait_is_turned_away(realm, service, monkeypatch):
    monkeypatch.setattr("postroad_transport.auth.kerberos.MAX_PENDING", 1)
    released = threading.Event()
    first = asyncio.ensure_future(service.call(released.wait))
    await asyncio.sleep(0)
    with pytest.raises(AuthUnavailableError):
        await service.call(lambda: None)
    released.set()
    assert await first
