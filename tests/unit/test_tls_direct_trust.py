"""Contexts for direct trust: what cannot be used is refused at the load, and what is removed is gone."""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec
import pytest
from certificate_kit import NOW, shake
from hypothesis import given
from hypothesis import strategies as st

from postroad_operator.certificates import DirectoryStore
from postroad_operator.certificates.servers import ensure_servers
from postroad_transport.config import DirectTrust, Principal, Role, SendConnector, TrustedServer
from postroad_transport.config.files import SECRETS_DIRECTORY, ConfigError
from postroad_transport.config.model import AddressSpace, AuthMechanism, Drop
from postroad_transport.policy.direct_trust import principals_by_thumbprint
from postroad_transport.policy.groups import send_grants
from postroad_transport.policy.principals import destination_principals, send_permissions
from postroad_transport.tls.direct_trust import trust_contexts, trust_failure


@pytest.fixture
def served(tmp_path: Path) -> DirectTrust:
    """A tier's own part, with its files below `tmp_path`."""
    identity = ensure_servers("hub1.mail.example", Role.HUB, DirectoryStore(tmp_path / "store"), NOW).identity
    assert identity is not None
    (tmp_path / SECRETS_DIRECTORY).mkdir()
    for name, content in identity.issued.files.items():
        (tmp_path / SECRETS_DIRECTORY / name).write_bytes(content)
    return DirectTrust(identity=identity.issued.certificate, servers=identity.servers)


def test_without_an_identity_there_is_nothing_to_build(tmp_path: Path) -> None:
    assert trust_contexts(DirectTrust(), tmp_path) is None


def test_both_sides_demand_a_certificate_and_tls_1_2(served: DirectTrust, tmp_path: Path) -> None:
    contexts = trust_contexts(served, tmp_path)
    assert contexts is not None
    for context in (contexts.server, contexts.client):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert contexts.server.num_tickets == 0


def test_the_same_store_is_built_once_and_a_smaller_one_anew(served: DirectTrust, tmp_path: Path) -> None:
    first, again = trust_contexts(served, tmp_path), trust_contexts(served, tmp_path)
    less = trust_contexts(msgspec.structs.replace(served, servers=served.servers[:1]), tmp_path)
    assert first is not None
    assert again is not None
    assert less is not None
    assert first.server is again.server
    assert less.server is not first.server
    removed = ssl.PEM_cert_to_DER_cert(served.servers[1].certificate)
    assert first.principal(removed) == Principal.HUB_TRANSPORT_SERVERS
    assert less.principal(removed) == ""
    assert first.principal(None) == ""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("tickets", [True, False])
def test_no_session_is_resumed_so_that_each_proves_itself(
    served: DirectTrust, tmp_path: Path, version: ssl.TLSVersion, tickets: bool
) -> None:
    contexts = trust_contexts(served, tmp_path)
    assert contexts is not None
    contexts.client.maximum_version = version
    if not tickets:
        contexts.client.options |= ssl.OP_NO_TICKET
    first, _ = shake(contexts.server, contexts.client)
    again, server_side = shake(contexts.server, contexts.client, session=first.session)
    assert not again.session_reused
    assert contexts.principal(server_side.getpeercert(True)) == Principal.HUB_TRANSPORT_SERVERS


@pytest.mark.parametrize("pem", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_store_that_cannot_be_read_is_refused(served: DirectTrust, tmp_path: Path, pem: str) -> None:
    bad = msgspec.structs.replace(served.servers[0], certificate=pem)
    with pytest.raises(ConfigError, match="direct trust"):
        trust_contexts(msgspec.structs.replace(served, servers=(bad,)), tmp_path)


def test_a_missing_key_is_refused(served: DirectTrust, tmp_path: Path) -> None:
    assert served.identity is not None
    (tmp_path / SECRETS_DIRECTORY / served.identity.key_file).unlink()
    with pytest.raises(ConfigError, match="no such file"):
        trust_contexts(served, tmp_path)


def alert(reason: str) -> ssl.SSLError:
    """Return the error that OpenSSL gives this reason."""
    error = ssl.SSLError()
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (TimeoutError(), "timeout"),
        (ConnectionAbortedError(), "timeout"),
        (ConnectionResetError(), "disconnected"),
        (None, "disconnected"),
        (ssl.SSLEOFError(), "disconnected"),
        (alert("CERTIFICATE_VERIFY_FAILED"), "unknown_certificate"),
        (alert("PEER_DID_NOT_RETURN_A_CERTIFICATE"), "no_certificate"),
        (alert("TLSV1_ALERT_UNKNOWN_CA"), "refused_by_peer"),
        (alert("TLSV1_ALERT_INTERNAL_ERROR"), "refused_by_peer"),
        (alert("WRONG_VERSION_NUMBER"), "not_tls"),
        (alert("BAD_SIGNATURE"), "protocol_error"),
    ],
)
def test_a_failure_has_a_word(error: BaseException | None, word: str) -> None:
    assert trust_failure(error) == word


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(Role))), max_size=6))
def test_the_first_entry_of_a_certificate_counts(entries: list[tuple[str, Role]]) -> None:
    principals = {Role.HUB: Principal.HUB_TRANSPORT_SERVERS, Role.EDGE: Principal.EDGE_TRANSPORT_SERVERS}
    servers = [
        TrustedServer(thumbprint=name, principal=principals[role], source="s", certificate="", not_after=0.0)
        for name, role in entries
    ]
    expected: dict[str, str] = {}
    for name, role in entries:
        expected.setdefault(name, str(principals[role]))
    assert principals_by_thumbprint(servers) == expected


def test_what_leaves_is_judged_by_who_the_other_side_proved_to_be() -> None:
    connector = SendConnector(
        name="s",
        source="SendConnector/mail/s",
        address_spaces=(AddressSpace(domain="*"),),
        routing=Drop(),
        fqdn="hub1",
        auth_mechanism=AuthMechanism.EXCHANGE_SERVER,
        grants=send_grants("Internal"),
    )
    assert destination_principals(connector) == {"HubTransportServers"}
    assert destination_principals(connector, "EdgeTransportServers") == {"EdgeTransportServers"}
    assert len(send_permissions(connector, "EdgeTransportServers")) == 4
    assert send_permissions(connector, "Anonymous") == frozenset()
