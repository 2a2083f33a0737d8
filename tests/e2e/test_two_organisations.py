"""Two organisations, each with its own authority, exchange domain-secured mail; then everything goes wrong that can.

Whatever is wrong is temporary (spec.md 4): 4xx on receiving, the queue in retry with the reason in sight on sending;
and nothing but the cause has to go away.
"""

from __future__ import annotations

import shutil
import smtplib
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mail_sink import mail_sink
from name_server import name_server
from partner_kit import HOUR, Ca, CrlServer, Issued, crl_server
from postfix_kit import postfix
from running_tier import Manifests, Tier, document, free_port, wait_for

from postroad_transport.config.files import load
from postroad_transport.supervisor.process import SERVED_DIRECTORY

A, B = "a.example", "b.example"


@dataclass
class Organisation:
    """A tier for one domain, with an authority of its own whose lists are at ``crl.url('/DOMAIN.crl')``."""

    domain: str
    partner: str
    crl: CrlServer
    directory: Path
    ca: Ca
    port: int = field(default_factory=free_port)
    inside: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.manifests = Manifests.at(self.directory / "manifests")
        self.tier = Tier(self.manifests, self.directory / "state", workers=1, hostname=f"mx.{self.domain}")
        self.issue(self.domain)
        limits = {"tarpit": "0s", "connectionsPerSource": 2000, "errors": 0}
        internet = {
            "usage": "Internet",
            "authMechanisms": ["TLS"],
            "bindings": [{"port": self.port}],
            "domainSecure": True,
            "domainSecurity": {"domains": [{"domain": self.partner}]},
            "tlsTrust": {"caBundleConfigMapRef": {"name": "partners", "key": "ca.crt"}, "systemAuthorities": False},
            "limits": limits,
        }
        self.put("ReceiveConnector", "internet", internet)
        inside = {
            "authMechanisms": ["ExternalAuthoritative"],
            "permissionGroups": ["ExchangeServers"],
            "grants": [{"principal": "ExternallySecuredServers", "permissions": ALL_OF_A_SERVER}],
            "remoteIPRanges": ["127.0.0.0/8"],
            "bindings": [{"port": self.inside}],
            "limits": limits,
        }
        self.put("ReceiveConnector", "inside", inside)
        ours = {"domain": self.domain, "deliver": {"maildir": {"path": "maildir/{domain}/{local}"}}}
        self.put("AcceptedDomain", "ours", ours)

    def put(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        self.manifests.put(name, document(kind, name, spec))

    def issue(self, *names: str, ca: Ca | None = None, publish: bool = True, **fields: Any) -> Issued:
        """Serve a new certificate for `names` and the server's own."""
        self.issued = (ca or self.ca).issue(*names, f"mx.{self.domain}", **fields)
        if publish:
            self.publish()
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": "tls"},
            "stringData": {"tls.crt": self.issued.chain_pem.decode(), "tls.key": self.issued.key_pem.decode()},
        }
        self.manifests.put("tls", secret)
        self.put("TransportCertificate", "mx", {"secretRef": {"name": "tls"}, "dnsNames": [f"mx.{self.domain}"]})
        return self.issued

    def publish(self, **fields: Any) -> None:
        self.crl.files[f"/{self.domain}.crl"] = self.ca.crl_der(now=time.time(), **fields)

    def trust(self, partner: Organisation, resolver: int) -> None:
        """Know the partner: its authority, and how to send to it."""
        self.manifests.put(
            "partners",
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "partners"},
                "data": {"ca.crt": partner.ca.pem},
            },
        )
        spec = {
            "usage": "Partner",
            "addressSpaces": [{"domain": partner.domain}],
            "dns": {"resolvers": [f"127.0.0.1:{resolver}"], "port": partner.port},
            "domainSecure": True,
            "domainSecurity": {"domains": [{"domain": partner.domain}]},
            "tlsTrust": {"caBundleConfigMapRef": {"name": "partners", "key": "ca.crt"}, "systemAuthorities": False},
            "retry": {"schedule": ["1s"], "expiration": "10m"},
            # No connection that was proved before is used again.
            "limits": {"messagesPerConnection": 1},
        }
        self.put("SendConnector", "partner", spec)

    def send(self, subject: str) -> None:
        """Send from ours to the partner's bob, as a server inside would."""
        message = f"From: alice@{self.domain}\r\nSubject: {subject}\r\n\r\nhello\r\n"
        with smtplib.SMTP("127.0.0.1", self.inside, timeout=30) as client:
            client.sendmail(f"alice@{self.domain}", [f"bob@{self.partner}"], message)

    def got(self, subject: str) -> list[bytes]:
        """Return what bob has got with this subject."""
        return [m for m in self.tier.mailbox("bob", self.domain) if f"Subject: {subject}\n".encode() in m]

    def waiting(self) -> str:
        """Return what the queue shows, in one line."""
        state = str(self.tier.state_dir)
        return " ".join(self.tier.command("queue", "--state-dir", state, "list", "--output", "json").stdout.split())

    def count(self, direction: str, result: str) -> float:
        found = {"direction": direction, "domain": self.partner, "result": result}
        return self.tier.metric("postroad_domain_security_total", **found)


ALL_OF_A_SERVER = [
    "SMTP-Submit",
    "SMTP-Accept-Any-Recipient",
    "SMTP-Accept-Any-Sender",
    "SMTP-Accept-Authoritative-Domain-Sender",
    "SMTP-Accept-Authentication-Flag",
    "Accept-Headers-Organization",
    "Accept-Headers-Routing",
]


@dataclass
class World:
    a: Organisation
    b: Organisation
    crl: CrlServer
    resolver: int


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    records = {}
    for domain in (A, B):
        records[f"{domain}.", "MX"] = [f"10 mx.{domain}."]
        records[f"mx.{domain}.", "A"] = ["127.0.0.1"]
    records["postfix.example.", "MX"] = ["10 mx.postfix.example."]
    records["mx.postfix.example.", "A"] = ["127.0.0.1"]
    with name_server(records) as resolver, crl_server() as crl:
        now = time.time()
        a, b = (
            Organisation(
                own,
                other,
                crl,
                tmp_path_factory.mktemp(own),
                Ca(f"CA of {own}", now, crl_url=crl.url(f"/{own}.crl")),
            )
            for own, other in ((A, B), (B, A))
        )
        a.trust(b, resolver)
        b.trust(a, resolver)
        tiers = [a.tier, b.tier]
        try:
            for tier in tiers:
                tier.start()
            yield World(a, b, crl, resolver)
        finally:
            for tier in tiers:
                if tier.process is not None and tier.process.poll() is None:
                    tier.stop()


def delivered(sender: Organisation, receiver: Organisation, subject: str) -> bytes:
    message: bytes = wait_for(lambda: receiver.got(subject), what=f"{subject}; {sender.waiting()}")[0]
    return message


def test_mail_between_them_is_domain_secured_both_ways(world: World) -> None:
    for sender, receiver in ((world.a, world.b), (world.b, world.a)):
        sender.send("secured")
        message = delivered(sender, receiver, "secured")
        assert b"X-MS-Exchange-Organization-AuthAs: Partner\n" in message
        assert f"X-MS-Exchange-Organization-AuthDomain: {sender.domain}\n".encode() in message
        assert b"with ESMTPS" in message
        assert sender.count("out", "ok") >= 1
        assert receiver.count("in", "ok") >= 1
        success = "postroad_domain_security_last_success_timestamp_seconds"
        assert receiver.tier.metric(success, direction="in", domain=sender.domain) > time.time() - 60


@dataclass
class Client:
    """A client of our own, for the receiving side's replies."""

    port: int

    def mail(self, sender: str, shown: Issued | None, directory: Path, *, tls: bool = True) -> tuple[int, str]:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=30) as smtp:
            if tls:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                if shown is not None:
                    chain, key = directory / "c.crt", directory / "c.key"
                    chain.write_bytes(shown.chain_pem)
                    key.write_bytes(shown.key_pem)
                    context.load_cert_chain(chain, key)
                smtp.starttls(context=context)
            smtp.ehlo("client.example")
            code, text = smtp.mail(sender)
            return code, text.decode()


def test_the_receiving_side_answers_every_flaw_with_451_and_its_reason(world: World, tmp_path: Path) -> None:
    client, ca = Client(world.b.port), world.a.ca
    now = time.time()
    cases: list[tuple[Issued | None, str, str]] = [
        (None, "no_certificate", "no certificate was presented"),
        (ca.issue("other.example"), "name", "the certificate is for other.example, not for a.example"),
        (ca.issue("mx.a.example"), "name", "not for a.example"),
        (ca.issue(A, start=-2 * HOUR, end=-HOUR), "expired", "the certificate has expired"),
        (ca.issue(A, start=HOUR), "not_yet_valid", "not yet valid"),
        (Ca("Somebody", now).issue(A), "untrusted", "no authority that is trusted"),
    ]
    for shown, result, reason in cases:
        before = world.b.count("in", result)
        code, text = client.mail(f"alice@{A}", shown, tmp_path)
        assert code == 451, result
        assert text.startswith("4.7.5 Mail from a.example needs mutual TLS: ")
        assert reason in text
        assert world.b.count("in", result) == before + 1
    code, text = client.mail(f"alice@{A}", None, tmp_path, tls=False)
    assert (code, text) == (451, "4.7.10 Mail from a.example needs mutual TLS: TLS was not used")
    assert client.mail(f"alice@{A}", ca.issue(A), tmp_path)[0] == 250


@contextmanager
def revoked(world: World, path: str, **fields: Any) -> Iterator[Issued]:
    """Yield a client certificate of A's that the list at `path`, new to B, says is revoked."""
    ca = world.a.ca
    ca.crl_url, usual = world.crl.url(path), ca.crl_url
    shown = ca.issue(A)
    ca.crl_url = usual
    ca.revoked.append(shown.certificate.serial_number)
    try:
        world.crl.files[path] = ca.crl_der(now=time.time(), **fields)
        yield shown
    finally:
        ca.revoked.clear()


def refused_as_revoked(world: World, shown: Issued, directory: Path) -> None:
    before = world.b.count("in", "revoked")
    code, text = Client(world.b.port).mail(f"alice@{A}", shown, directory)
    assert (code, text) == (451, "4.7.5 Mail from a.example needs mutual TLS: the certificate was revoked")
    assert world.b.count("in", "revoked") == before + 1


def test_a_revoked_client_is_refused_until_it_shows_another_certificate(world: World, tmp_path: Path) -> None:
    with revoked(world, "/revoked-client.crl") as shown:
        refused_as_revoked(world, shown, tmp_path)
        client = Client(world.b.port)
        assert client.mail("somebody@x.example", shown, tmp_path)[0] == 250
        assert client.mail(f"alice@{A}", world.a.ca.issue(A), tmp_path)[0] == 250


def test_a_revoked_client_is_let_in_again_once_the_list_does_not_hold_it_any_more(
    world: World, tmp_path: Path
) -> None:
    with revoked(world, "/suspended-client.crl", end=12.0) as shown:
        refused_as_revoked(world, shown, tmp_path)
    world.crl.files["/suspended-client.crl"] = world.a.ca.crl_der(now=time.time())
    client = Client(world.b.port)
    wait_for(lambda: client.mail(f"alice@{A}", shown, tmp_path)[0] == 250, timeout=40, what="the list to be renewed")


def test_a_certificate_that_means_nothing_breaks_no_other_mail(world: World, tmp_path: Path) -> None:
    client, now = Client(world.b.port), time.time()
    for shown in (
        None,
        Ca("Somebody", now).issue("x.example"),
        world.a.ca.issue("x.example", end=-60.0),
        world.a.ca.issue(A),
    ):
        assert client.mail("somebody@x.example", shown, tmp_path)[0] == 250
        assert client.mail("", shown, tmp_path)[0] == 250


def test_a_partner_is_a_partner_for_the_mail_of_its_domain_only(world: World, tmp_path: Path) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    shown = world.a.ca.issue(A)
    (tmp_path / "c.crt").write_bytes(shown.chain_pem)
    (tmp_path / "c.key").write_bytes(shown.key_pem)
    context.load_cert_chain(tmp_path / "c.crt", tmp_path / "c.key")
    forged = "X-MS-Exchange-Organization-AuthDomain: bank.example\r\nX-MS-Exchange-Organization-AuthAs: Internal\r\n"
    with smtplib.SMTP("127.0.0.1", world.b.port, timeout=30) as smtp:
        smtp.starttls(context=context)
        for number, sender in enumerate((f"alice@{A}", "eve@x.example", "", f"alice@{A}")):
            smtp.sendmail(sender, [f"bob@{B}"], f"{forged}Subject: one session {number}\r\n\r\nhello\r\n")
    for number, domain in enumerate((A, "", A, A)):
        (message,) = wait_for(lambda n=number: world.b.got(f"one session {n}"), what="mail")
        assert b"bank.example" not in message
        assert b"AuthAs: Internal" not in message
        assert (f"AuthDomain: {A}".encode() in message) is bool(domain)
        assert (b"AuthAs: Partner" if domain else b"AuthAs: Anonymous") in message


def test_a_server_of_the_organisation_keeps_the_mark_and_a_stranger_does_not(world: World) -> None:
    marked = (
        "X-MS-Exchange-Organization-AuthAs: Partner\r\nX-MS-Exchange-Organization-AuthDomain: bank.example\r\n"
        "From: x@bank.example\r\nSubject: mark {}\r\n\r\nhello\r\n"
    )
    for port, name, kept in ((world.b.inside, "inside", True), (world.b.port, "outside", False)):
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            client.sendmail("x@bank.example", [f"bob@{B}"], marked.format(name))
        (message,) = wait_for(lambda n=name: world.b.got(f"mark {n}"), what="mail")
        assert (b"AuthDomain: bank.example" in message) is kept
        assert (b"AuthAs: Partner" in message) is kept


def served(organisation: Organisation) -> None:
    """Wait until the listener presents the certificate that was issued last."""
    wanted = organisation.issued.presented[0]

    def presents() -> bool:
        with smtplib.SMTP("127.0.0.1", organisation.port, timeout=30) as smtp:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            smtp.starttls(context=context)
            return bool(smtp.sock.getpeercert(True) == wanted)

    wait_for(presents, what="the new certificate")


@contextmanager
def restored(world: World) -> Iterator[None]:
    """Put B's certificate and list in order, whatever happened."""
    try:
        yield
    finally:
        world.crl.down = False
        world.b.ca.revoked.clear()
        world.b.issue(B)
        served(world.b)


@pytest.mark.parametrize(
    ("names", "fields", "result", "reason"),
    [
        (("other.example",), {}, "name", "the certificate is for other.example, mx.b.example, not for b.example"),
        ((B,), {"start": -2 * HOUR, "end": -HOUR}, "expired", "the certificate has expired"),
        ((B,), {"ca": "other"}, "untrusted", "leads to no authority that is trusted here"),
        ((B,), {"revoked": True}, "revoked", "the certificate was revoked"),
    ],
    ids=["name", "expired", "untrusted", "revoked"],
)
def test_mail_waits_while_the_partners_certificate_is_flawed_and_goes_when_it_is_replaced(
    world: World, names: tuple[str, ...], fields: dict[str, Any], result: str, reason: str
) -> None:
    a, b = world.a, world.b
    subject = f"heal {result}"
    with restored(world):
        fields = dict(fields)
        revoked = fields.pop("revoked", False)
        if fields.get("ca"):
            fields["ca"] = Ca("Somebody else", time.time())
        flawed = b.issue(*names, **fields)
        if revoked:
            # A list that A has not seen: its URL is new.
            b.ca.crl_url = world.crl.url("/revoked.crl")
            flawed = b.issue(*names)
            b.ca.revoked.append(flawed.certificate.serial_number)
            world.crl.files["/revoked.crl"] = b.ca.crl_der(now=time.time())
            b.ca.crl_url = world.crl.url(f"/{B}.crl")
        served(b)
        a.send(subject)
        wait_for(lambda: a.count("out", result) >= 1, what=f"{result}: {a.waiting()}")
        shown = a.waiting()
        assert reason in shown
        assert "454 4.7.5" in shown
        assert b.got(subject) == []
    delivered(a, b, subject)


def test_a_list_that_cannot_be_had_delays_both_ways_and_bounces_nothing(world: World, tmp_path: Path) -> None:
    a, b = world.a, world.b
    with restored(world):
        for own in (a, b):
            own.ca.crl_url = world.crl.url(f"/late-{own.domain}.crl")
            own.issue(own.domain, publish=False)
            own.ca.crl_url = world.crl.url(f"/{own.domain}.crl")
            served(own)
        code, text = Client(b.port).mail(f"alice@{A}", a.issued, tmp_path)
        assert (code, "no current revocation list can be had" in text) == (451, True)
        a.send("outage")
        wait_for(lambda: a.count("out", "no_crl") >= 1, what=a.waiting())
        assert "no current revocation list can be had" in a.waiting()
        assert b.tier.metric("postroad_crl_fetches_total", result="status") >= 1
        for own in (a, b):
            world.crl.files[f"/late-{own.domain}.crl"] = own.ca.crl_der(now=time.time())
        message = wait_for(lambda: b.got("outage"), timeout=40, what="healing by itself")[0]
        assert b"AuthAs: Partner" in message
        assert Client(b.port).mail(f"alice@{A}", a.issued, tmp_path)[0] == 250
        assert a.tier.metric("postroad_notices_total") == 0


def test_many_sessions_at_once_are_all_proved(world: World, tmp_path: Path) -> None:
    shown = world.a.ca.issue(A)
    codes: list[int] = []

    def one(number: int) -> None:
        directory = tmp_path / str(number)
        directory.mkdir()
        codes.extend(Client(world.b.port).mail(f"alice@{A}", shown, directory)[0] for _ in range(5))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == [250] * 50


needs_postfix = pytest.mark.skipif(
    shutil.which("postfix") is None, reason="needs Debian's postfix (apt-get install postfix)"
)


def pem_file(issued: Issued, home: Path) -> str:
    file = home / "key-and-chain.pem"
    file.write_bytes(issued.key_pem + issued.chain_pem)
    return str(file)


@needs_postfix
def test_postfix_sends_as_a_partner_with_its_certificate_and_waits_without(world: World, postfix_home: Path) -> None:
    relay = {"relayhost": f"[127.0.0.1]:{world.b.port}", "smtp_tls_security_level": "encrypt"}
    certified = relay | {"smtp_tls_chain_files": pem_file(world.a.ca.issue(A), postfix_home)}

    def send(config: Path, subject: str) -> None:
        subprocess.run(
            ["sendmail", "-C", str(config), "-f", f"alice@{A}", f"bob@{B}"],
            input=f"From: alice@{A}\nSubject: {subject}\n\nhello\n".encode(),
            check=True,
            timeout=30,
        )

    with postfix(postfix_home / "with", certified) as config:
        send(config, "postfix with")
        (message,) = wait_for(lambda: world.b.got("postfix with"), timeout=30, what="Postfix's message")
    assert f"AuthDomain: {A}".encode() in message
    with postfix(postfix_home / "without", relay) as config:
        send(config, "postfix without")

        def queued() -> str:
            return subprocess.run(
                ["postqueue", "-c", str(config), "-p"], capture_output=True, text=True, check=False
            ).stdout

        wait_for(lambda: "451 4.7.5 Mail from a.example needs mutual TLS" in queued(), timeout=30, what="a deferral")
    assert world.b.got("postfix without") == []


@needs_postfix
def test_postfix_that_demands_a_certificate_takes_our_mail(world: World, postfix_home: Path) -> None:
    port = free_port()
    authority = postfix_home / "a.pem"
    authority.write_text(world.a.ca.pem)
    with mail_sink() as sink:
        settings = {
            "relayhost": f"[127.0.0.1]:{sink.port}",
            "smtpd_tls_security_level": "encrypt",
            "smtpd_tls_req_ccert": "yes",
            "smtpd_tls_CAfile": str(authority),
            "smtpd_tls_chain_files": pem_file(world.b.ca.issue("postfix.example"), postfix_home),
            "smtpd_recipient_restrictions": "permit_mynetworks,reject",
        }
        spec = world.a.manifests.documents["partner"]["spec"] | {
            "addressSpaces": [{"domain": "postfix.example"}],
            "dns": {"resolvers": [f"127.0.0.1:{world.resolver}"], "port": port},
            "domainSecurity": {"domains": [{"domain": "postfix.example"}]},
        }
        with postfix(postfix_home / "instance", settings, port=port):
            world.a.put("SendConnector", "postfix", spec)
            secured = {"direction": "out", "domain": "postfix.example", "result": "ok"}
            with smtplib.SMTP("127.0.0.1", world.a.inside, timeout=30) as client:
                wait_for(lambda: client.noop()[0] == 250 and routed(world.a, "postfix.example"), what="the connector")
                client.sendmail(f"alice@{A}", ["bob@postfix.example"], "Subject: x\r\n\r\nhello\r\n")
            wait_for(lambda: sink.recipients["bob@postfix.example"] == 1, timeout=30, what=world.a.waiting())
            assert world.a.tier.metric("postroad_domain_security_total", **secured) >= 1


def routed(organisation: Organisation, domain: str) -> bool:
    """Tell whether the tier serves a send connector for `domain`."""
    config, _ = load(organisation.tier.state_dir / SERVED_DIRECTORY)
    return any(space.domain == domain for connector in config.send_connectors for space in connector.address_spaces)
