"""The examples are accepted without a warning, and mean what their comments say."""

from __future__ import annotations

from pathlib import Path

import pytest
from argon2 import PasswordHasher

from postroad_operator.compile import Compilation, Snapshot, TierSettings, compile_tier
from postroad_operator.resources import Secret, read
from postroad_transport.config import Maildir, Permission, Role, TlsMode

EXAMPLES = Path(__file__).parents[2] / "examples"
#: gitops is for tools that build and apply, autoscaling is values for helm; tests/operator has them.
TIERS = sorted({path.name for path in EXAMPLES.iterdir() if path.is_dir()} - {"gitops", "autoscaling"})
ROLES = {"edge": Role.EDGE, "edge-trusted": Role.EDGE}


def compiled(name: str) -> Compilation:
    manifests = read(EXAMPLES / name)
    assert manifests.faults == []
    assert manifests.notes == []
    settings = TierSettings(role=ROLES.get(name, Role.HUB), hostname="localhost")
    return compile_tier(Snapshot(settings, tuple(manifests.objects)))


@pytest.mark.parametrize("name", TIERS)
def test_an_example_is_accepted_without_a_warning(name: str) -> None:
    result = compiled(name)
    assert result.verdicts
    for verdict in result.verdicts:
        assert (verdict.accepted, verdict.warnings) == (True, ()), verdict


def test_the_quick_start_has_the_listeners_that_it_promises() -> None:
    config = compiled("quickstart").config
    ports = {
        binding.port: (connector.name, binding.tls)
        for connector in config.receive_connectors
        for binding in connector.bindings
    }
    assert ports == {
        2587: ("submission", TlsMode.STARTTLS),
        2465: ("submission", TlsMode.IMPLICIT),
        2525: ("server-to-server", TlsMode.STARTTLS),
    }
    assert all(port > 1023 for port in ports)


def test_the_quick_start_delivers_its_domain_to_a_maildir_and_knows_an_alias() -> None:
    domains = {part.domain: part for part in compiled("quickstart").config.accepted_domains}
    assert domains["mail.example"].deliver == Maildir(path="maildir/{domain}/{local}")
    assert domains["post.example"].alias_of == "mail.example"


def test_the_password_that_the_quick_start_shows_is_that_of_its_account() -> None:
    (secret,) = (item for item in read(EXAMPLES / "quickstart").objects if isinstance(item, Secret))
    user, _, digest = (secret.value("htpasswd") or b"").decode().strip().partition(":")
    assert user == "alice@mail.example"
    assert PasswordHasher().verify(digest, secret.metadata.annotations["postroad.dev/example-password"])


def test_in_the_internal_relay_only_the_pods_may_relay() -> None:
    (connector,) = compiled("internal-relay").config.receive_connectors
    assert connector.remote_ip_ranges == ("10.42.0.0/16", "127.0.0.1/32")
    assert Permission.ACCEPT_ANY_RECIPIENT in {grant.permission for grant in connector.grants}


def test_the_direct_mx_knows_its_recipients() -> None:
    (domain,) = compiled("direct-mx").config.accepted_domains
    assert domain.recipients == ("alice", "bob", "postmaster")
