"""Clients' certificates that OpenSSL takes in the handshake although nobody could read them."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
from certificate_kit import request, shake, write

from postroad_operator.certificates import self_signed
from postroad_transport.config import TlsTrust
from postroad_transport.policy.proof import Flaw
from postroad_transport.tls.crl_store import CrlStore
from postroad_transport.tls.peer import presented_chain, verify_peer
from postroad_transport.tls.server import server_context

VERSION_3 = bytes.fromhex("a003020102")


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    return write(tmp_path, self_signed(request("mail.example"), time.time()))


def odd(der: bytes, what: str) -> bytes:
    """Return a certificate with a flaw that its signature does not cover any more."""
    if what == "version":
        return der.replace(VERSION_3, VERSION_3[:-1] + b"\x03", 1)
    # The month of the first time, YYMMDDhhmmssZ.
    month = der.index(b"\x17\x0d") + 4
    return der[:month] + b"13" + der[month + 2 :]


def presenting(files: tuple[Path, Path], shown: Path) -> ssl.SSLObject:
    """Return the server's end of a session whose client shows a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(shown, files[1])
    return shake(server_context(*files, asks=True), context)[1]


@pytest.mark.parametrize("what", ["version", "time"])
async def test_a_certificate_that_cannot_be_read_is_shown_as_it_is_and_proves_nothing(files, tmp_path, what):
    der = odd(ssl.PEM_cert_to_DER_cert(files[0].read_text()), what)
    shown = tmp_path / "odd.pem"
    shown.write_text(ssl.DER_cert_to_PEM_cert(der))
    server = presenting(files, shown)
    assert server.getpeercert(True) == der
    chain = presented_chain(server)
    assert chain == [der]
    assert (await verify_peer(chain, TlsTrust(), "", CrlStore())).flaw is Flaw.INVALID
