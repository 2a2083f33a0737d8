"""A smart host as providers run it: Dovecot's submission server with its own users, certificate and mechanisms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from dovecot_kit import missing, running_dovecot

USER, PASSWORD = "relay@example.test", "correct horse ü"

needs_smart_host = pytest.mark.skipif(bool(missing("submission")), reason=missing("submission"))


@contextlib.contextmanager
def running_smart_host(
    relay_port: int, *, mechanisms: str = "plain login", certificate: bytes = b"", key: bytes = b""
) -> Iterator[int]:
    """Serve on a port of loopback, and hand what comes in to `relay_port`.

    Parameters
    ----------
    mechanisms
        As ``auth_mechanisms`` of Dovecot.
    certificate, key
        PEM; empty: no STARTTLS is offered and passwords are taken in clear.
    """
    tls = "ssl = required\nssl_cert = <{home}/tls.crt\nssl_key = <{home}/tls.key" if certificate else "ssl = no"
    settings = f"""
{tls}
disable_plaintext_auth = {"yes" if certificate else "no"}
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
hostname = smarthost.example
submission_relay_host = 127.0.0.1
submission_relay_port = {relay_port}
submission_relay_trusted = no
"""
    files = {"tls.crt": certificate, "tls.key": key}
    with running_dovecot("submission", USER, PASSWORD, settings=settings, files=files) as dovecot:
        yield dovecot.port
