"""Integrated (spec.md 2.1) in a running tier: curl, GNU SASL and swaks, by Kerberos and by NTLM."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kdc_kit import Realm, missing, running_realm
from running_tier import Manifests, Tier, document, free_port, secret, wait_for

PASSWORD = "ntlm:Password"
#: MD4 of it in UTF-16-LE.
NT_HASH = "c2b3c6ee782a134cd301f17ea9c1d57a"

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


@dataclass
class Site:
    """A tier with a connector that offers NTLM and GSSAPI, and the realm of its users."""

    tier: Tier
    port: int
    realm: Realm

    def curl(self, recipient: str, *options: str, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Submit a message from alice."""
        message = self.tier.state_dir.parent / "message"
        message.write_text("From: alice@mail.example\r\nSubject: integrated\r\n\r\nhello\r\n")
        command = ["curl", "--silent", "--show-error", "--verbose", "--max-time", "30", "--ssl-reqd", "--ipv4"]
        command += ["--cacert", self.tier.run["ca"], "--url", f"smtp://localhost:{self.port}/client.example"]
        command += ["--mail-from", "alice@mail.example", "--mail-rcpt", f"{recipient}@mail.example"]
        environment = self.realm.environment | {"KRB5CCNAME": f"FILE:{cache or self.realm.directory / 'none'}"}
        return subprocess.run(
            [*command, "--upload-file", str(message), *options],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )

    def kerberos(self, recipient: str, principal: str) -> subprocess.CompletedProcess[str]:
        """Submit a message from alice as `principal`."""
        cache = self.realm.log_in(principal, "secret")
        user = f"{principal}@{self.realm.name}:"
        return self.curl(recipient, "--user", user, "--login-options", "AUTH=GSSAPI", cache=cache)

    def logins(self, mechanism: str, result: str) -> float:
        """Return how many there were."""
        return self.tier.metric("postroad_authentications_total", mechanism=mechanism, result=result)

    def delivered(self, recipient: str) -> bytes:
        """Return the one message to `recipient`."""
        (message,) = wait_for(lambda: self.tier.mailbox(recipient), what="the message")
        return message


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("integrated")
    with running_realm(directory / "kdc") as realm:
        realm.add("alice", "secret")
        realm.add("mallory", "secret")
        realm.add("smtp/localhost")
        keytab = base64.b64encode(realm.keytab("smtp/localhost").read_bytes()).decode()
        manifests, port = Manifests(directory / "manifests"), free_port()
        keys = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keytab"}, "data": {"keytab": keytab}}
        manifests.put("keytab", keys)
        manifests.put("hashes", secret("hashes", accounts=f"alice:{NT_HASH}:alice@mail.example\n"))
        spec = {
            "usage": "Client",
            "fqdn": "localhost",
            "bindings": [{"port": port}],
            "authMechanisms": ["TLS", "Integrated"],
            "requireTLS": True,
            "authentication": {
                "kerberos": {
                    "keytabSecretRef": {"name": "keytab", "key": "keytab"},
                    "addressTemplate": "{account}@mail.example",
                },
                "ntlmSecretRef": {"name": "hashes", "key": "accounts"},
            },
            "limits": {"tarpit": "0s"},
        }
        manifests.put("integrated", document("ReceiveConnector", "integrated", spec))
        with pytest.MonkeyPatch.context() as patch:
            # A pod has no krb5.conf either.
            patch.setenv("KRB5_CONFIG", "/nonexistent")
            tier = Tier(manifests, directory / "state", workers=1).start()
        try:
            yield Site(tier, port, realm)
        finally:
            tier.stop()


def test_curl_submits_with_a_kerberos_ticket(site: Site):
    done = site.kerberos("kerberos", "alice")
    assert done.returncode == 0, done.stderr
    assert "250 AUTH NTLM GSSAPI" in done.stderr
    assert b"X-MS-Exchange-Organization-AuthAs: Internal" in site.delivered("kerberos")
    assert site.logins("GSSAPI", "ok") >= 1


def test_a_principal_sends_as_itself_only(site: Site):
    done = site.kerberos("nobody", "mallory")
    assert "235" in done.stderr
    assert "550 5.7.1" in done.stderr
    assert done.returncode != 0


@pytest.mark.skipif(shutil.which("gsasl") is None, reason="needs Debian's gsasl")
def test_gnu_sasl_logs_in_with_a_kerberos_ticket(site: Site):
    before = site.logins("GSSAPI", "ok")
    environment = site.realm.environment | {"KRB5CCNAME": f"FILE:{site.realm.log_in('alice', 'secret')}"}
    command = ["gsasl", "--smtp", "--starttls", "--mechanism", "GSSAPI", "--authentication-id", "alice"]
    command += ["--authorization-id", "alice", "--service", "smtp", "--hostname", "localhost"]
    command += [f"--x509-ca-file={site.tier.run['ca']}", "localhost", str(site.port)]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert site.logins("GSSAPI", "ok") == before + 1, (done.stdout, done.stderr)


def test_without_a_ticket_nobody_gets_in(site: Site):
    done = site.curl("nobody", "--user", f"alice@{site.realm.name}:", "--login-options", "AUTH=GSSAPI")
    assert done.returncode != 0
    assert "235" not in done.stderr


@pytest.mark.parametrize("user", ["alice", "CORP\\alice"])
def test_curl_submits_by_ntlm(site: Site, user: str):
    recipient = f"ntlm{len(user)}"
    done = site.curl(recipient, "--user", f"{user}:{PASSWORD}", "--login-options", "AUTH=NTLM")
    assert done.returncode == 0, done.stderr
    site.delivered(recipient)
    assert site.logins("NTLM", "ok") >= 1


def test_wrong_password_by_ntlm_is_refused(site: Site):
    done = site.curl("nobody", "--user", "alice:wrong", "--login-options", "AUTH=NTLM")
    assert "535 5.7.3" in done.stderr
    assert done.returncode != 0

    def noted() -> bool:
        return any(
            (event.get("account"), event.get("mechanism"), event.get("reason")) == ("alice", "NTLM", "credentials")
            for event in site.tier.events()
        )

    wait_for(noted, what="the event")


@pytest.mark.skipif(shutil.which("swaks") is None, reason="needs Debian's swaks and libauthen-ntlm-perl")
def test_swaks_by_ntlm_of_version_1_is_refused(site: Site):
    command = ["swaks", "--server", "localhost", "--port", str(site.port), "--tls", "--auth", "NTLM"]
    command += ["--auth-user", "alice", "--auth-password", PASSWORD, "--to", "nobody@mail.example"]
    done = subprocess.run(
        [*command, "--from", "alice@mail.example"], capture_output=True, text=True, check=False, timeout=60
    )
    if "NTLM" in done.stderr and "not" in done.stderr:
        pytest.skip(done.stderr)
    assert "535 5.7.3" in done.stdout, done.stdout
    wait_for(lambda: any(event.get("reason") == "ntlmv1" for event in site.tier.events()), what="the event")
