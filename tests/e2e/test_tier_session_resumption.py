"""Sessions are resumed by whichever worker the client comes to, and never where that would skip a proof."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from postfix_kit import postfix
from resumption_kit import VERSIONS, ReturningClient
from running_tier import PASSWORD, Manifests, Tier, document, free_port, wait_for

from postroad_operator.certificates import create_authority
from postroad_operator.certificates.tickets import ROTATION, TICKETS_NAME, TicketSecret, read_ticket_secret
from postroad_transport.config.files import SESSION_TICKETS_FILE

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")

WORKERS = 4
MANY = 10
"""If each worker had keys of its own, this many would be resumed in one case of a million."""


def connector(name: str, fqdn: str, port: int, **spec: Any) -> dict[str, Any]:
    bindings = [{"port": port, "tls": "Implicit"}]
    common = {"usage": "Client", "fqdn": fqdn, "bindings": bindings, "requireTLS": True, "limits": {"tarpit": "0s"}}
    return document("ReceiveConnector", name, common | spec)


class Site:
    """A tier of four workers: ports that resume, with one certificate, and ports that must not."""

    def __init__(self, directory: Path) -> None:
        self.manifests = Manifests(directory / "manifests")
        self.asks, self.other = free_port(), free_port()
        trust = {"ca.pem": create_authority("Ours", time.time()).trust_pem.decode()}
        clients = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "clients"}, "data": trust}
        self.manifests.put("clients", clients)
        asking = {"clientCertificates": {"caBundleConfigMapRef": {"name": "clients", "key": "ca.pem"}}}
        self.manifests.put("asks", connector("asks", "mail.example", self.asks, authentication=asking))
        self.tier = Tier(self.manifests, directory / "state", workers=WORKERS).start()

    @property
    def state(self) -> Path:
        return self.tier.state_dir

    def loads(self) -> int:
        return sum(event["event"] == "config.loaded" for event in self.tier.events())

    def change(self, act: Callable[[], None]) -> None:
        """Do something that the tier loads; wait until it has."""
        before = self.loads()
        act()
        wait_for(lambda: self.loads() > before, what="the tier to load it")

    def look(self) -> None:
        """Have the tier look at its manifests, of which none has changed."""
        self.manifests.put("domain", self.manifests.documents["domain"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("resumption"))
    try:
        yield site
    finally:
        site.tier.stop()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("port", ["smtps", "submission", "mx"])
def test_every_worker_resumes_what_any_has_begun(site: Site, tmp_path: Path, version: str, port: str) -> None:
    starttls = port != "smtps"
    client = ReturningClient(tmp_path / "session", version, getattr(site.manifests, port), starttls=starttls)
    told = "TLSv" + version.removeprefix("tls").replace("_", ".")
    before = site.tier.metric("postroad_tls_sessions_resumed_total", version=told)
    assert not client.resumes()
    assert client.resumed(MANY) == MANY
    assert site.tier.metric("postroad_tls_sessions_resumed_total", version=told) == before + MANY


def test_workers_that_were_started_again_resume_what_was_before(site: Site, tmp_path: Path) -> None:
    client = ReturningClient(tmp_path / "session", VERSIONS[0], site.manifests.smtps)
    client.resumes()
    for pid in site.tier.pids()[1:]:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: site.tier.metric("postroad_worker_restarts_total") == WORKERS, what="workers that ended")
    wait_for(lambda: site.tier.metric("postroad_worker_up") == WORKERS, what="workers")
    assert client.resumed(MANY) == MANY


@pytest.mark.parametrize("version", VERSIONS)
def test_connectors_that_present_the_same_resume_each_others_sessions(
    site: Site, tmp_path: Path, version: str
) -> None:
    client = ReturningClient(tmp_path / "session", version, site.manifests.smtps)
    assert not client.resumes()
    submission = ReturningClient(tmp_path / "session", version, site.manifests.submission, starttls=True)
    assert submission.resumed(MANY) == MANY


@pytest.mark.parametrize("version", VERSIONS)
def test_no_worker_resumes_where_clients_are_asked_for_certificates(site: Site, tmp_path: Path, version: str) -> None:
    client = ReturningClient(tmp_path / "session", version, site.asks)
    assert client.resumed(MANY) == 0
    # Nor with a ticket of a connector that presents the same.
    elsewhere = ReturningClient(tmp_path / "elsewhere", version, site.manifests.smtps)
    elsewhere.resumes()
    assert elsewhere.resumed(MANY, port=site.asks, keep=False) == 0
    assert elsewhere.resumed(MANY, keep=False) == MANY


@pytest.mark.parametrize("version", VERSIONS)
def test_a_secret_that_is_due_is_replaced_at_the_cost_of_one_whole_handshake(
    site: Site, tmp_path: Path, version: str
) -> None:
    client = ReturningClient(tmp_path / "session", version, site.manifests.smtps)
    client.resumes()
    served = site.state / "served/secrets" / SESSION_TICKETS_FILE
    kept = site.state / f"certificates/{TICKETS_NAME}.pem"
    before, hash_before, output = served.read_bytes(), site.tier.http("/configz"), site.tier.output.read_text()
    old = TicketSecret(before, int(time.time() - ROTATION))
    with site.tier.submit() as session:
        kept.write_bytes(old.encode())
        site.change(site.look)
        assert session.noop()[0] == 250
    made = read_ticket_secret(kept.read_bytes())
    assert made is not None
    assert made.secret == served.read_bytes() != before
    # Every worker has let go of the old one.
    assert client.resumed(MANY, keep=False) == 0
    assert not client.resumes()
    assert client.resumed(MANY) == MANY
    assert site.tier.http("/configz") == hash_before
    assert site.tier.output.read_text() == output
    shown = (site.state / "events.jsonl").read_bytes() + site.tier.http("/metrics").encode()
    for secret in (before, made.secret):
        assert not re.search(re.escape(secret) + b"|" + secret.hex().encode(), shown)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_renewed_certificate_ends_what_was_before_on_every_worker(site: Site, tmp_path: Path, version: str) -> None:
    client = ReturningClient(tmp_path / "session", version, site.manifests.smtps)
    client.resumes()

    def renew() -> None:
        (site.state / "certificates/TransportCertificate.default.mail.pem").unlink()
        site.look()

    site.change(renew)
    assert client.resumed(MANY, keep=False) == 0
    assert not client.resumes()
    assert client.resumed(MANY) == MANY


def test_other_certificates_and_logins_that_may_be_bound_to_one_of_several(site: Site, tmp_path: Path) -> None:
    """Last, since with a second certificate names are asked for, and connectors with logins resume nothing."""
    mx = {
        version: ReturningClient(tmp_path / version, version, site.manifests.mx, starttls=True)
        for version in VERSIONS
    }
    for client in mx.values():
        client.resumes()
    certificate = document("TransportCertificate", "other", {"dnsNames": ["mail.other.example"], "ca": {}})
    site.change(lambda: site.manifests.put("other-certificate", certificate))
    accounts = {"htpasswdSecretRef": {"name": "users", "key": "htpasswd"}}
    other = connector("other", "mail.other.example", site.other, authentication=accounts)
    site.change(lambda: site.manifests.put("other", other))
    for version, client in mx.items():
        # What is presented has changed: there is another certificate for those who ask for its name.
        assert client.resumed(MANY, keep=False) == 0
        client.resumes()
        assert client.resumed(MANY) == MANY
        for port in (site.manifests.smtps, site.other):
            login = ReturningClient(tmp_path / f"{port}-{version}", version, port)
            assert login.resumed(MANY) == 0
        elsewhere = ReturningClient(tmp_path / version, version, site.other)
        assert elsewhere.resumed(MANY, keep=False) == 0


@pytest.mark.skipif(shutil.which("postfix") is None, reason="needs Debian's postfix")
def test_postfix_resumes_with_every_worker(
    manifests: Manifests, start_tier: Callable[..., Tier], postfix_home: Path
) -> None:
    tier = start_tier(manifests, workers=WORKERS)
    server = f"[127.0.0.1]:{manifests.submission}"
    settings = {
        "relayhost": server,
        "smtp_sasl_auth_enable": "yes",
        "smtp_sasl_password_maps": f"inline:{{{{{server} = alice@mail.example:{PASSWORD}}}}}",
        "smtp_sasl_security_options": "noanonymous",
        "smtp_tls_security_level": "encrypt",
        "smtp_tls_session_cache_database": "btree:${data_directory}/smtp_scache",
        "smtp_connection_cache_on_demand": "no",
    }
    with postfix(postfix_home / "instance", settings) as config:
        for number in range(MANY + 1):
            subprocess.run(
                ["sendmail", "-C", str(config), "-f", "alice@mail.example", "alice@mail.example"],
                input=b"From: alice@mail.example\nSubject: again\n\nhello\n",
                check=True,
                timeout=30,
            )
            # One after another: those that run at once begin with the same ticket, or with none.
            wait_for(lambda: len(tier.mailbox()) > number, timeout=30, what="Postfix's message")  # noqa: B023 (called at once)
    assert tier.metric("postroad_tls_handshakes_total", direction="in", result="ok") == MANY + 1
    assert tier.metric("postroad_tls_sessions_resumed_total") == MANY
