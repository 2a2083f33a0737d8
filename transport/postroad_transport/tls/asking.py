"""A server's TLS context that asks for the client's certificate, and takes whatever comes.

Domain security judges a client's certificate at MAIL, by the sender's domain (spec.md 4). Until then nobody knows
whether it matters, and a client that shows one from an authority that means nothing here must get on as any other.
The standard library cannot do that: there a certificate that does not verify ends the handshake. pyOpenSSL can, and
:class:`AskingContext` puts its connections in the place of :class:`ssl.SSLObject`, for asyncio and uvloop alike.

Sessions are not resumed: a resumed one shows no certificate, or one without its chain.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from postroad_transport.config import TlsPolicy
from postroad_transport.tls.policy import TERMS, apply_policy

_T = TypeVar("_T")
_READ = 64 * 1024


class AskingContext(ssl.SSLContext):
    """Asks for a certificate and verifies nothing: who uses what was shown has to judge it first.

    Parameters
    ----------
    policy
        Versions and suites.
    """

    def __new__(cls, *_: object, **__: object) -> AskingContext:
        """Make the base object."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, policy: TlsPolicy) -> None:
        super().__init__()
        apply_policy(self, policy)
        terms = TERMS[policy]
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(terms.oldest)
        context.set_cipher_list(terms.suites.encode())
        context.set_options(
            SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE
        )
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        self._context = context

    def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
        """Present a certificate; errors are those of :mod:`ssl`."""
        super().load_cert_chain(certfile, keyfile, password)
        self._context.use_certificate_chain_file(str(certfile))
        self._context.use_privatekey_file(str(keyfile or certfile))

    def answer_names(self, for_name: Callable[[str], ssl.SSLContext | None]) -> None:
        """Present what `for_name` says to clients that ask for a name (SNI); None: what everybody gets."""

        def answer(connection: SSL.Connection) -> None:
            other = for_name((connection.get_servername() or b"").decode("ascii", "replace"))
            if isinstance(other, AskingContext):
                connection.set_context(other._context)

        self._context.set_tlsext_servername_callback(answer)

    def staple_status(self, staple: Callable[[bytes], bytes | None]) -> None:
        """Show clients that ask for it the OCSP response that `staple` has for the certificate they get."""

        def answer(connection: SSL.Connection, _: object) -> bytes:
            certificate = connection.get_certificate(as_cryptography=True)
            return (certificate and staple(certificate.public_bytes(Encoding.DER))) or b""

        self._context.set_ocsp_server_callback(answer)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Return the TLS engine of one connection."""
        if not server_side:
            raise ValueError("this context is for servers")
        engine: Any = AskingEngine(self, SSL.Connection(self._context), incoming, outgoing)
        return engine  # type: ignore[no-any-return]  # it has what asyncio uses of an SSLObject


class AskingEngine:
    """One server-side connection, with the methods of :class:`ssl.SSLObject` that asyncio and uvloop use."""

    server_side = True
    server_hostname = None
    session_reused = False

    def __init__(
        self, context: AskingContext, connection: SSL.Connection, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self.context = context
        self._connection = connection
        self._incoming = incoming
        self._outgoing = outgoing
        self._unread = False
        connection.set_accept_state()

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises ssl.SSLError, SSLWantReadError among them."""
        self._run(self._connection.do_handshake)

    def read(self, length: int = _READ, buffer: Any = None) -> Any:
        """Return up to `length` bytes, or put them into `buffer` and return how many they are."""
        try:
            if buffer is None:
                return self._run(lambda: self._connection.recv(length))
            return self._run(lambda: self._connection.recv_into(buffer, length or None))
        except ssl.SSLZeroReturnError:
            return b"" if buffer is None else 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Encrypt `data`; return how many bytes were taken."""
        return self._run(lambda: self._connection.send(bytes(data)))

    def pending(self) -> int:
        """Return how many decrypted bytes can be read at once; 1 where that takes a read to find out.

        What was fed is out of uvloop's sight, which otherwise would not ask for it.
        """
        return self._connection.pending() or int(self._unread)

    def unwrap(self) -> None:
        """Say close_notify, and wait for the other side's."""
        if not self._run(self._connection.shutdown):
            self._run(self._connection.shutdown)

    def version(self) -> str | None:
        """Return the protocol's version, such as ``TLSv1.3``."""
        name: str = self._connection.get_protocol_version_name()
        return None if name == "Unknown" else name

    def cipher(self) -> tuple[str, str, int] | None:
        """Return the suite's name, its protocol, and its secret bits."""
        name, bits = self._connection.get_cipher_name(), self._connection.get_cipher_bits()
        return None if name is None or bits is None else (name, self._connection.get_cipher_version() or "", bits)

    def compression(self) -> None:
        """Return the compression, of which there is none."""

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """Return the first Finished message (RFC 5929 section 3): the client's, as no session is resumed."""
        return self._connection.get_peer_finished() if cb_type == "tls-unique" else None

    def selected_alpn_protocol(self) -> None:
        """Return the application protocol, of which there is none."""

    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """Return the client's certificate in DER; the other form is empty, as for all that is not verified."""
        chain = self.get_unverified_chain()
        if not binary_form:
            return {} if chain else None
        return chain[0] if chain else None

    def own_certificate(self) -> bytes | None:
        """Return the certificate that this side has presented, in DER."""
        certificate = self._connection.get_certificate(as_cryptography=True)
        return None if certificate is None else certificate.public_bytes(Encoding.DER)

    def get_unverified_chain(self) -> list[bytes]:
        """Return what the client has shown, in DER, its own certificate first; nothing of it is verified."""
        leaf = self._connection.get_peer_certificate()
        if leaf is None:
            return []
        # OpenSSL's chain holds the leaf only on the client's side. Nothing is parsed further than OpenSSL has done:
        # that would fail for some of what it lets pass.
        shown = [leaf, *(self._connection.get_peer_cert_chain() or [])]
        return list(dict.fromkeys(crypto.dump_certificate(crypto.FILETYPE_ASN1, item) for item in shown))

    def export(self, label: bytes, length: int) -> bytes:
        """Return keying material (RFC 8446 section 7.5) for `label`."""
        return self._connection.export_keying_material(label, length, b"")

    def _run(self, step: Callable[[], _T]) -> _T:
        """Feed what came in, run `step`, hand out what it wants sent; errors become those of :mod:`ssl`."""
        connection, incoming = self._connection, self._incoming
        if incoming.pending:
            connection.bio_write(incoming.read())
            self._unread = True
        elif incoming.eof:
            connection.bio_shutdown()
        try:
            return step()
        except SSL.WantReadError:
            self._unread = False
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "more input is needed") from None
        except SSL.ZeroReturnError:
            raise ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "TLS was closed") from None
        except SSL.SysCallError:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection ended within TLS") from None
        except SSL.Error as error:
            failure = ssl.SSLError(ssl.SSL_ERROR_SSL, "TLS failed")
            failure.reason = _reason(error)
            raise failure from None
        finally:
            self._flush()

    def _flush(self) -> None:
        while True:
            try:
                self._outgoing.write(self._connection.bio_read(_READ))
            except SSL.WantReadError:
                return


def _reason(error: SSL.Error) -> str:
    """Return OpenSSL's reason in the form that :mod:`ssl` gives it, such as ``NO_SHARED_CIPHER``."""
    queue = error.args[0] if error.args else ()
    text = queue[-1][2] if queue else ""
    return text.upper().replace(" ", "_") or "PROTOCOL_ERROR"
