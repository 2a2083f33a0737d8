"""The documents' own scenarios over real SMTP.

Document 000 (POP3 and SMTP of Exchange 2007): its story of port 587, and its CASE 4 and 5; CASE 1 to 3 are about
the client's trust and are played with real handshakes in tests/unit/test_case_certificates_seed000.py. Document
001: the anonymous relay grant of Add-ADPermission. Document 003 (hMailServer): relay and spoofing by IP range.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
from manifest_kit import ACCOUNTS, auth_plain, compiled, connector, domain, free_ports, resource, secrets, users

from postroad_operator.certificates import CertificateRequest, KeySource, certificate_files, create_authority, issue
from postroad_operator.compile import IssuedCertificate, Reason

NO_RELAY = "550 5.7.1 Unable to relay"
NOT_AUTHENTICATED = "530 5.7.1 Client was not authenticated"
NOT_AS_SENDER = "550 5.7.1 Client does not have permission to send as this sender"
ANYWHERE, COLLEAGUE = "someone@elsewhere.example", "bob@kbiz.net"


@pytest.fixture
def serve(make_tier, tmp_path: Path):
    """Serve resources, all of which must be accepted."""

    async def make(*objects, **fields):
        compilation = compiled(*objects, **fields)
        assert [verdict for verdict in compilation.verdicts if not verdict.accepted] == []
        secrets(tmp_path, compilation)
        tier = await make_tier(config=compilation.config)
        tier.serving.announce()
        return tier

    return make


async def greeted(tier, address: str = "127.0.0.1"):
    line = await tier.connect(local_addr=(address, 0))
    assert (await line.reply())[:3] == "220"
    await line.ask("EHLO client.example")
    return line


async def sent(line, sender: str, recipient: str) -> str:
    """Try to send a message; return the reply that refuses it, or that takes it, as ``250``."""
    for command in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA"):
        reply: str = await line.ask(command)
        if reply[:1] not in "23":
            await line.ask("RSET")
            return reply
    await line.send(f"From: {sender}\r\n\r\nhello\r\n.\r\n".encode())
    return (await line.reply())[:3]


# Document 000.


async def test_port_587_without_anonymous_users_asks_for_authentication(serve):
    """Default Client connector, as installed: what Outlook Express meets before any box is ticked."""
    (port,) = free_ports(1)
    tier = await serve(connector("client", port, usage="Client"), domain("kbiz.net"))
    assert await sent(await greeted(tier), ANYWHERE, COLLEAGUE) == NOT_AUTHENTICATED


async def test_port_587_with_anonymous_users_delivers_inside_and_does_not_relay(serve):
    """After the Anonymous box: mail to colleagues works, mail to others meets the relay error."""
    (port,) = free_ports(1)
    groups = ["AnonymousUsers", "ExchangeUsers"]
    tier = await serve(connector("client", port, usage="Client", permissionGroups=groups), domain("kbiz.net"))
    line = await greeted(tier)
    assert await sent(line, ANYWHERE, COLLEAGUE) == "250"
    assert await sent(line, ANYWHERE, ANYWHERE) == NO_RELAY


async def test_case_4_a_client_without_tls_is_told_to_use_starttls(serve):
    """SSL off in the client: 451 5.7.3 at MAIL. TLS off at the server as well: sent."""
    required, off = free_ports(2)
    anonymous = {"permissionGroups": ["AnonymousUsers"]}
    tier = await serve(
        connector("required", required, authMechanisms=["TLS"], requireTLS=True, **anonymous),
        connector("off", off, authMechanisms=["None"], **anonymous),
        domain("kbiz.net"),
    )
    ports = {bound.port: index for index, bound in enumerate(tier.listeners.bound())}
    line = await tier.connect(ports[required])
    await line.reply()
    await line.ask("EHLO client.example")
    assert await sent(line, ANYWHERE, COLLEAGUE) == "451 5.7.3 Must issue a STARTTLS command first"
    line = await tier.connect(ports[off])
    await line.reply()
    assert "STARTTLS" not in await line.ask("EHLO client.example")
    assert await sent(line, ANYWHERE, COLLEAGUE) == "250"


KBIZ = create_authority("Kbiz CA", time.time())


def certificate(*names: str) -> dict[str, object]:
    """Resource and material of a certificate for these names, as arguments of `serve`."""
    source = "TransportCertificate/default/kbiz"
    wanted = CertificateRequest(name="kbiz", source=source, dns_names=names, key_source=KeySource.CA)
    described, files = certificate_files(wanted, issue(KBIZ, wanted, time.time()))
    return {source: IssuedCertificate(described, files)}


@pytest.mark.parametrize(
    ("fqdn", "san", "offered"),
    [
        ("infoguy.kbiz.net", ("smtp.kbiz.net", "infoguy"), False),
        ("infoguy", ("smtp.kbiz.net", "infoguy"), True),
        ("infoguy.kbiz.net", ("smtp.kbiz.net", "infoguy", "infoguy.kbiz.net"), True),
        ("smtp.kbiz.net", ("smtp.kbiz.net", "infoguy"), True),
    ],
)
async def test_case_5_the_connector_s_name_must_be_in_the_certificate(
    serve, fqdn: str, san: tuple[str, ...], offered: bool
):
    """A FQDN outside the SAN: no STARTTLS and event 12014. Inside: the client that dials smtp.kbiz.net is content."""
    (port,) = free_ports(1)
    tier = await serve(
        connector("default", port, fqdn=fqdn, authMechanisms=["TLS"], permissionGroups=["AnonymousUsers"]),
        resource("TransportCertificate", "kbiz", {"dnsNames": list(san), "ca": {}}),
        domain("kbiz.net"),
        certificates=certificate(*san),
    )
    line = await tier.connect()
    await line.reply()
    assert ("STARTTLS" in await line.ask("EHLO client.example")) == offered
    assert ('"code":12014' in tier.events()) != offered
    if offered:
        assert (await line.ask("STARTTLS"))[:3] == "220"
        context = ssl.create_default_context(cadata=KBIZ.trust_pem.decode())
        await line.writer.start_tls(context, server_hostname="smtp.kbiz.net")
        await line.ask("EHLO client.example")
        assert await sent(line, ANYWHERE, COLLEAGUE) == "250"


async def test_case_5_a_client_that_dials_a_name_outside_the_san_is_warned(serve):
    (port,) = free_ports(1)
    tier = await serve(
        connector("default", port, fqdn="smtp.kbiz.net", authMechanisms=["TLS"], permissionGroups=["AnonymousUsers"]),
        resource("TransportCertificate", "kbiz", {"dnsNames": ["smtp.kbiz.net"], "ca": {}}),
        certificates=certificate("smtp.kbiz.net"),
    )
    line = await greeted(tier)
    await line.ask("STARTTLS")
    context = ssl.create_default_context(cadata=KBIZ.trust_pem.decode())
    with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.kbiz\.net"):
        await line.writer.start_tls(context, server_hostname="other.kbiz.net")


# Document 001.

#: Add-ADPermission -User "NT AUTHORITY\\ANONYMOUS LOGON" -ExtendedRights ...
ANONYMOUS_RELAY = {
    "principal": "Anonymous",
    "permissions": ["SMTP-Submit", "SMTP-Accept-Any-Recipient", "Bypass-Anti-Spam"],
}


def test_the_anonymous_relay_grant_to_the_world_is_refused_and_names_what_to_change():
    hub1 = connector("default-hub1", 25, usage="Internal", grants=[ANONYMOUS_RELAY])
    (verdict,) = compiled(hub1).verdicts
    assert verdict.reason is Reason.OPEN_RELAY
    for text in ("ReceiveConnector/default/default-hub1", "spec.grants[0]", "0.0.0.0/0", "spec.allowOpenRelay"):
        assert text in verdict.message


@pytest.mark.parametrize("how", [{"remoteIPRanges": ["127.0.0.0/8"]}, {"allowOpenRelay": True}])
async def test_the_anonymous_relay_grant_lets_anonymous_sessions_relay_where_it_was_asked_for(serve, how):
    (port,) = free_ports(1)
    hub1 = connector("default-hub1", port, usage="Internal", grants=[ANONYMOUS_RELAY], **how)
    line = await greeted(await serve(hub1, domain("kbiz.net")))
    assert await sent(line, ANYWHERE, ANYWHERE) == "250"
    assert await sent(line, "boss@kbiz.net", ANYWHERE) == NOT_AS_SENDER


async def test_the_authoritative_sender_grant_lets_anonymous_mail_claim_the_own_domain(serve):
    """The document's second use of Add-ADPermission."""
    (port,) = free_ports(1)
    grant = {"principal": "Anonymous", "permissions": ["SMTP-Accept-Authoritative-Domain-Sender"]}
    mx = connector("mx", port, usage="Internet", grants=[grant])
    assert await sent(await greeted(await serve(mx, domain("kbiz.net"))), "boss@kbiz.net", COLLEAGUE) == "250"


async def test_a_session_s_permissions_change_when_it_authenticates(serve):
    """A session begins anonymous; authentication replaces its principal, and with it what it may do."""
    (port,) = free_ports(1)
    both = connector(
        "both", port, permissionGroups=["AnonymousUsers", "ExchangeUsers"], authMechanisms=["BasicAuth"],
        authentication=ACCOUNTS,
    )  # fmt: skip
    line = await greeted(await serve(both, domain("kbiz.net"), users("bob:bob@kbiz.net")))
    assert await sent(line, ANYWHERE, ANYWHERE) == NO_RELAY
    assert (await line.ask("AUTH PLAIN AGJvYgB3cm9uZw==")) == "535 5.7.3 Authentication unsuccessful"
    assert await sent(line, ANYWHERE, COLLEAGUE) == "250"
    assert (await line.ask(auth_plain("bob")))[:3] == "235"
    assert await sent(line, COLLEAGUE, ANYWHERE) == "250"
    assert await sent(line, ANYWHERE, COLLEAGUE) == NOT_AS_SENDER


# Document 003.

INTERNET, OFFICE, BANNED = "127.3.0.1", "127.3.1.1", "127.3.2.1"


@pytest.fixture
async def hmail(serve):
    """Two domains, one another name of the other; the ranges Internet and office, the narrower one first."""
    (port,) = free_ports(1)
    return await serve(
        connector(
            "internet", port, permissionGroups=["AnonymousUsers", "ExchangeUsers"], authMechanisms=["BasicAuth"],
            remoteIPRanges=["127.3.0.0/23"], authentication=ACCOUNTS,
        ),
        connector(
            "office", port, remoteIPRanges=["127.3.1.0/24"],
            grants=[ANONYMOUS_RELAY,
                    {"principal": "Anonymous", "permissions": ["SMTP-Accept-Authoritative-Domain-Sender"]}],
        ),
        domain("테스트.net", default=True, recipients={"list": ["id"]}),
        domain("테스트.co.kr", aliasOf="테스트.net"),
        users("id"),
    )  # fmt: skip


LOCAL = "id@xn--9t4b11yi5a.net"


async def test_mail_from_outside_needs_no_authentication(hmail):
    line = await greeted(hmail, INTERNET)
    assert await sent(line, ANYWHERE, LOCAL) == "250"
    assert await sent(line, ANYWHERE, LOCAL.replace("id@", "nobody@")) == "550 5.1.1 User unknown"


async def test_mail_from_outside_to_outside_is_not_relayed(hmail):
    assert await sent(await greeted(hmail, INTERNET), ANYWHERE, ANYWHERE) == NO_RELAY


async def test_mail_that_claims_to_be_from_inside_needs_authentication(hmail):
    line = await greeted(hmail, INTERNET)
    assert await sent(line, LOCAL, LOCAL) == NOT_AS_SENDER
    assert await sent(line, LOCAL, ANYWHERE) == NOT_AS_SENDER
    assert (await line.ask(auth_plain("id")))[:3] == "235"
    assert await sent(line, LOCAL, ANYWHERE) == "250"
    assert await sent(line, LOCAL, LOCAL) == "250"


async def test_a_user_may_not_send_as_somebody_else(hmail):
    line = await greeted(hmail, INTERNET)
    await line.ask(auth_plain("id"))
    assert await sent(line, LOCAL.replace("id@", "boss@"), ANYWHERE) == NOT_AS_SENDER


async def test_the_narrower_range_has_priority_and_may_relay(hmail):
    assert await sent(await greeted(hmail, OFFICE), LOCAL, ANYWHERE) == "250"


async def test_an_address_in_no_range_is_turned_away(hmail):
    line = await hmail.connect(local_addr=(BANNED, 0))
    assert await line.reply() == "554 5.7.1 No mail is taken from your address here"


async def test_mail_to_the_second_domain_is_delivered_in_the_first(hmail):
    assert await sent(await greeted(hmail, INTERNET), ANYWHERE, "id@xn--9t4b11yi5a.co.kr") == "250"
    ((envelope, _),) = hmail.store.messages
    assert [recipient.address for recipient in envelope.recipients] == [LOCAL]
