"""CASE 1, 2, 3 and 5 of the POP3 & SMTP document: what clients met, played with real handshakes.

The tier serves one certificate of its private authority whose SAN lists smtp.kbiz.net, pop3.kbiz.net, each server
by its full and its short name, and Infoguy as a short name only.
"""

from __future__ import annotations

import ssl
import time

import pytest
from certificate_kit import handshake, request, write

from postroad_operator.certificates import certificate_files, create_authority, issue, self_signed
from postroad_transport.config import AuthMechanism
from postroad_transport.policy.certificate import Selection, select
from postroad_transport.tls.server import server_context

NOW = time.time()
KBIZ = create_authority("Kbiz CA", NOW)
NAMES = (
    "smtp.kbiz.net",
    "pop3.kbiz.net",
    "mail.kbiz.net",
    "hub1.kbiz.net",
    "hub2.kbiz.net",
    "hub1",
    "hub2",
    "infoguy",
)
WANTED = request(*NAMES)
MATERIAL = issue(KBIZ, WANTED, NOW)
CERTIFICATE, _ = certificate_files(WANTED, MATERIAL)
# "Offer Basic authentication only after starting TLS" and "Exchange Server authentication", as in the document.
TLS = (AuthMechanism.TLS, AuthMechanism.BASIC_AUTH_REQUIRE_TLS, AuthMechanism.EXCHANGE_SERVER)


class Tier:
    """What a session at a connector with some FQDN meets: is STARTTLS there, and the handshake it leads to."""

    def __init__(self, directory, material=MATERIAL, certificate=CERTIFICATE) -> None:
        self._paths = write(directory, material)
        self._certificate = certificate

    def starttls(self, fqdn: str, mechanisms=TLS) -> Selection:
        return select(fqdn, [self._certificate], mechanisms, now=NOW)

    def connect(self, client: ssl.SSLContext, dialled: str, fqdn: str = "smtp.kbiz.net"):
        assert self.starttls(fqdn).advertise
        return handshake(server_context(*self._paths), client, dialled)


@pytest.fixture
def tier(tmp_path) -> Tier:
    return Tier(tmp_path)


@pytest.fixture
def workgroup_client() -> ssl.SSLContext:
    """A client that has not installed the certificate chain."""
    return ssl.create_default_context()


@pytest.fixture
def client() -> ssl.SSLContext:
    """A client that trusts the authority."""
    return ssl.create_default_context(cadata=KBIZ.trust_pem.decode())


def test_case1_without_the_chain_the_client_warns_of_an_untrusted_root(tier, workgroup_client):
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer certificate"):
        tier.connect(workgroup_client, "pop3.kbiz.net")


def test_case1_after_installing_the_chain_the_warning_is_gone(tier, workgroup_client):
    workgroup_client.load_verify_locations(cadata=KBIZ.trust_pem.decode())
    assert tier.connect(workgroup_client, "pop3.kbiz.net").version == "TLSv1.3"


def test_case2_dialling_the_servers_ip_address_is_a_name_mismatch(tier, client):
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        tier.connect(client, "127.0.0.1")


def test_case2_dialling_the_name_of_the_certificate_is_well(tier, client):
    tier.connect(client, "pop3.kbiz.net")


def test_case3_sending_to_an_ip_address_fails_and_to_the_san_name_goes_through(tier, client):
    with pytest.raises(ssl.SSLCertVerificationError):
        tier.connect(client, "127.0.0.1")
    assert tier.connect(client, "smtp.kbiz.net").peer


@pytest.mark.parametrize("name", ["smtp.kbiz.net", "SMTP.Kbiz.Net", "mail.kbiz.net", "hub2.kbiz.net"])
def test_case3_every_san_name_can_be_dialled(tier, client, name):
    tier.connect(client, name)


def test_case5_a_connector_fqdn_that_is_not_in_the_san_offers_no_starttls_and_raises_12014(tier):
    assert tier.starttls("infoguy.kbiz.net") == Selection(None, False, (12014,))


def test_case5_the_short_name_works_because_it_is_in_the_san(tier, client):
    assert tier.starttls("Infoguy") == Selection(CERTIFICATE, True, ())
    tier.connect(client, "smtp.kbiz.net", fqdn="Infoguy")


def test_case5_a_server_that_falls_back_to_a_self_signed_certificate_is_warned_about(tmp_path, client):
    wanted = request("infoguy.kbiz.net", name="own")
    material = self_signed(wanted, NOW)
    tier = Tier(tmp_path, material, certificate_files(wanted, material)[0])
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed certificate"):
        tier.connect(client, "smtp.kbiz.net", fqdn="infoguy.kbiz.net")


def test_case5_a_name_added_for_the_connector_only_does_not_help_a_client_that_dials_another(tmp_path, client):
    wanted = request("infoguy.kbiz.net", name="infoguy")
    material = issue(KBIZ, wanted, NOW)
    tier = Tier(tmp_path, material, certificate_files(wanted, material)[0])
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        tier.connect(client, "smtp.kbiz.net", fqdn="infoguy.kbiz.net")
    tier.connect(client, "infoguy.kbiz.net", fqdn="infoguy.kbiz.net")


def test_case5_with_tls_off_at_the_connector_nothing_is_offered_and_nothing_is_raised(tier):
    assert tier.starttls("smtp.kbiz.net", (AuthMechanism.BASIC_AUTH,)) == Selection(None, False, ())


@pytest.mark.parametrize("fqdn", ["hub1", "hub1.kbiz.net", "hub2", "mail.kbiz.net"])
def test_behind_one_balanced_name_each_server_keeps_its_own_and_clients_dial_the_shared_one(tier, client, fqdn):
    tier.connect(client, "mail.kbiz.net", fqdn=fqdn)
